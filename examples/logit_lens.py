"""What would the image be if the editor stopped after a block? A strip of images, one a block."""

import sys

from PIL import Image

import ground_probe as gp

editor = gp.load_editor("tiny")  # embedded; or a hub id, a local folder, a pipeline object
example = gp.load_split("scenes", "test")[0]

lens = gp.logit_lens(editor, example.image, f"make {example.expression} white")
for block, distance in lens.distance().items():
    print(f"{block}: {distance:.3f} from the editor's own prediction")

width, height = example.image.size
strip = Image.new("RGB", (width * len(lens.predictions), height))
for place, block in enumerate(lens.predictions):
    strip.paste(lens.image(block), (place * width, 0))
strip.save(sys.argv[1] if len(sys.argv) > 1 else "logit_lens.png")
