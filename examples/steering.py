"""Does a direction that tells the object meant also move the edit? Add it to another object."""

import numpy as np

import ground_probe as gp

BLOCK = "single_transformer_blocks.0"
editor = gp.load_editor("tiny")
states, labels = [], []
for example in gp.load_split("scenes", "train", limit=6):
    told = f"make {example.expression} white"
    trace = gp.trace(editor, example.image, told, blocks=BLOCK, attention=False)
    covered = [trace.grid("reference").soft_labels(m).ravel() for m in example.distractors]
    meant = trace.grid("reference").soft_labels(example.mask).ravel() > 0.5
    keep = meant | (np.max(covered, axis=0) > 0.5)  # tokens of objects alone
    states.append(trace.hidden[BLOCK, 0, "reference"].numpy()[keep])
    labels.append(meant[keep])
direction = gp.probe_direction(np.concatenate(states), np.concatenate(labels))

example = gp.load_split("scenes", "test")[0]
grid = editor.geometry(example.image)
on, off = (grid.soft_labels(m).ravel() > 0.5 for m in (example.mask, example.distractors[-1]))
steer = gp.Steer(direction, BLOCK, "reference", rows=np.flatnonzero(off).tolist())
curve = gp.dose_curve(
    editor,
    example.image,
    f"make {example.expression} white",
    steer,
    doses=(-4, 0, 4, 8),
    measure=lambda t: {
        "object meant": t.change(0).flatten()[on].mean(),
        "object steered": t.change(0).flatten()[off].mean(),
    },
)
print(curve.round(3).to_string(index=False))
