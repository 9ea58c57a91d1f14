"""Which head looks at the object meant? Each head's map, and rollout, by a pointing game."""

import numpy as np

import ground_probe as gp

editor = gp.load_editor("tiny")
hits: dict[str, list[bool]] = {}
for example in gp.load_split("scenes", "test", limit=4):
    told = editor, example.image, f"make {example.expression} white", example.expression
    trace, rolled = gp.trace(*told), gp.attention_rollout(*told)
    at = trace.image_tokens("reference")
    labels = trace.grid("reference").soft_labels(example.mask).ravel()
    for block in trace.blocks:
        maps = trace.attention[block, 0][:, at].sum(-1)  # (heads, reference tokens)
        named = {f"{block} head {head}": values for head, values in enumerate(maps)}
        named[f"{block} mean of heads"] = maps.mean(0)
        named[f"{block} rollout"] = rolled.attention[block, 0][0, at, 0]
        for name, values in named.items():
            hits.setdefault(name, []).append(labels[int(values.argmax())] > 0.5)

for name, pointed in sorted(hits.items(), key=lambda item: -np.mean(item[1])):
    print(f"{np.mean(pointed):.2f} of {len(pointed)} highest tokens lie on the object: {name}")
