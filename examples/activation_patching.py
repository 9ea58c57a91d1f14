"""Which states carry an edit from one object to another? Patch them in, one site at a time."""

import ground_probe as gp

editor = gp.load_editor("tiny")
example = gp.load_split("scenes", "test")[0]
other = next(expression for expression in example.others if expression)

table = gp.activation_patching(
    editor,
    example.image,
    f"make {example.expression} white",
    f"make {other} white",
    blocks=["transformer_blocks.*"],
    streams=("text", "reference"),
)
print(f"from {example.expression!r} to {other!r}: 0 nothing moves, 1 the other's edit comes about")
print(table.pivot(index="block", columns="stream", values="effect").round(2).to_string())
