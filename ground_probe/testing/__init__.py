"""Tiny random instances of the real pipeline classes, and what holds a family against one.

To add a family, build a tiny instance of its class, add it to `BUILDERS` and its facts to
`ground_probe.editors.families`, then let `check_family` say what is wrong:

```python
from ground_probe import testing

testing.check_family(testing.kontext())
```
"""

from ground_probe.testing.builders import (
    ARGUMENTS,
    BUILDERS,
    INSTRUCTION,
    INSTRUCTIONS,
    smaller_images,
)
from ground_probe.testing.check import check_family
from ground_probe.testing.flux import fibo_edit, flux2, flux2_dev, kontext
from ground_probe.testing.parts import QWEN_TOKENS, autoencoder, clip_text, word_tokenizer
from ground_probe.testing.qwen import joy_edit, kandinsky5, longcat, qwen_edit
from ground_probe.testing.unets import dreamlite, instruct_pix2pix, sdxl_instruct_pix2pix

__all__ = [
    "ARGUMENTS",
    "BUILDERS",
    "INSTRUCTION",
    "INSTRUCTIONS",
    "QWEN_TOKENS",
    "autoencoder",
    "check_family",
    "clip_text",
    "dreamlite",
    "fibo_edit",
    "flux2",
    "flux2_dev",
    "instruct_pix2pix",
    "joy_edit",
    "kandinsky5",
    "kontext",
    "longcat",
    "qwen_edit",
    "sdxl_instruct_pix2pix",
    "smaller_images",
    "word_tokenizer",
]
