"""A builder for each family of the registry, and what a tiny one must be told."""

from __future__ import annotations

from functools import partial
from typing import Any

import diffusers

from ground_probe.testing.flux import fibo_edit, flux2, flux2_dev, kontext
from ground_probe.testing.qwen import joy_edit, kandinsky5, longcat, qwen_edit
from ground_probe.testing.unets import dreamlite, instruct_pix2pix, sdxl_instruct_pix2pix

BUILDERS = {
    "FluxKontext": kontext,
    "QwenImageEdit": qwen_edit,
    "QwenImageEditPlus": partial(qwen_edit, diffusers.QwenImageEditPlusPipeline),
    "InstructPix2Pix": instruct_pix2pix,
    "InstructPix2PixXL": sdxl_instruct_pix2pix,
    "Flux2Klein": flux2,
    "Flux2": flux2_dev,
    "LongCatImageEdit": longcat,
    "JoyImageEdit": joy_edit,
    "Kandinsky5I2I": kandinsky5,
    "BriaFiboEdit": fibo_edit,
    "DreamLite": dreamlite,
}
# What the tiny text encoders need beyond an editor's own arguments: they have three layers.
ARGUMENTS = {
    name: {"text_encoder_out_layers": (0, 1, 2), "max_sequence_length": 64}
    for name in ("Flux2", "Flux2Klein")
}
INSTRUCTION = "make the red circle blue"
# What a family must be told in a form of its own.
INSTRUCTIONS = {"BriaFiboEdit": f'{{"edit_instruction": "{INSTRUCTION}"}}'}


def smaller_images(monkeypatch: Any) -> None:
    """Have the pipelines that bring images to 1024 * 1024 px bring them to 256 * 256."""
    from diffusers.pipelines.joyimage import image_processor as joy
    from diffusers.pipelines.longcat_image import pipeline_longcat_image_edit as longcat
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit as edit
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

    for module in (longcat, edit, plus):
        whole = module.calculate_dimensions
        monkeypatch.setattr(
            module, "calculate_dimensions", lambda area, ratio, whole=whole: whole(area / 16, ratio)
        )
    bucket = joy.find_best_bucket
    monkeypatch.setattr(
        joy, "find_best_bucket", lambda *given: tuple(side // 4 for side in bucket(*given))
    )
