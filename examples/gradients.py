"""Where does what a probe reads come from? The gradient of its score, by latent token."""

import numpy as np
import torch

import ground_probe as gp

BLOCK = "single_transformer_blocks.1"
editor = gp.load_editor("tiny")
editor.denoiser.requires_grad_(False)  # gradients of the input alone


def looked_at(example, **how):
    """A trace, and which tokens lie on the object meant and which on the others."""
    told = f"make {example.expression} white"
    trace = gp.trace(editor, example.image, told, blocks=BLOCK, attention=False, **how)
    grid = trace.grid("reference")
    on, *others = (
        torch.from_numpy(grid.soft_labels(mask).ravel() > 0.5)
        for mask in (example.mask, *example.distractors)
    )
    return trace, on, torch.stack(others).any(0)


seen = [looked_at(example) for example in gp.load_split("scenes", "train", limit=6)]
states = [trace.hidden[BLOCK, 0, "reference"][on | other] for trace, on, other in seen]
labels = [on[on | other] for _, on, other in seen]
probe = gp.probe_direction(np.concatenate(states), np.concatenate(labels))

example = gp.load_split("scenes", "test")[0]
trace, on, other = looked_at(example, gradients=True)
score = (trace.hidden[BLOCK, 0, "reference"][on] @ probe.unit).mean()
(gradient,) = torch.autograd.grad(score, trace.inputs[0])  # (1, image tokens, channels)
moved = gradient[0, trace.image_tokens("reference")].norm(dim=-1)
for name, at in (("object meant", on), ("other objects", other), ("ground", ~(on | other))):
    print(f"{name}: {moved[at].sum() / moved.sum():.2f} of the gradient on {at.float().mean():.2f}")
