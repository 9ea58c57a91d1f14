"""Where do two editors think alike? Linear CKA of their states, block against block."""

import ground_probe as gp
from ground_probe.editors import random_weights

editor = gp.load_editor("tiny")
other = random_weights(gp.load_editor("tiny"), seed=0)  # yours: gp.load_editor("path/to/another")

examples = gp.load_split("scenes", "test", limit=3)
tables = {}
for name, second in {"itself": editor, "random weights": other}.items():
    traces = [
        [
            gp.trace(which, example.image, "make it red", streams="reference", attention=False)
            for example in examples
        ]
        for which in (editor, second)
    ]
    tables[name] = gp.similarity_table(*traces)

for name, table in tables.items():
    print(f"\nunbiased linear CKA with {name}, reference stream, first step")
    print(table.droplevel(["step", "stream"]).round(2).to_string(header=False))
