"""The page: a gathered view, encoded and laid into one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from jinja2 import Environment
from matplotlib import colormaps
from PIL import Image

from ground_probe.editors import Editor
from ground_probe.errors import InputError
from ground_probe.images import to_rgb
from ground_probe.io import whole_file, writable_folder
from ground_probe.segmentation import Recipe
from ground_probe.study import figures
from ground_probe.study.explorer.gather import View, gather

_SIDE_PX = 512  # of the photo in the page, at most
_SCALE = "viridis"
_COLOURS = 32  # of that scale; the page interpolates between them


@dataclass(frozen=True)
class Explorer:
    """A page on an editor's look at an image and an expression. Notebooks show it as it is.

    Args:
        html: the page, which needs no other file and no network.
        still: the picture that stands in for it where scripts are stripped, as a data URI.
    """

    html: str = field(repr=False)
    still: str = field(repr=False)

    def save(self, path: Path | str) -> Path:
        """Write the page, making its folder; return where.

        Raises:
            InputError: the folder cannot be written, or the path is one.
        """
        path = writable_folder(Path(path).parent) / Path(path).name
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder; give a file such as seen.html")
        with whole_file(path) as part:
            part.write_text(self.html, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        # The frame covers the picture; a viewer that strips frames leaves the picture.
        return (
            '<div style="display:grid">'
            f'<img src="{self.still}" alt="The explorer\'s picture" '
            'style="grid-area:1/1;max-width:100%">'
            f'<iframe srcdoc="{html.escape(self.html)}" sandbox="allow-scripts" '
            'title="ground_probe explorer" loading="lazy" '
            'style="grid-area:1/1;width:100%;height:66rem;border:0"></iframe></div>'
        )


def explore(
    editor: Editor,
    image: Image.Image,
    expression: str,
    *,
    recipe: Recipe | str | None = None,
    steps: Sequence[int] = (0, 3, 9),
    out: Path | str | None = None,
    seed: int = 0,
) -> Explorer:
    """Look inside an editor, by block and step, in one page with sliders.

    The page shows how alike the features of image tokens are, the attention of image tokens to each
    token of the instruction, where `segment` looks, and its mask. It stays under 2 MB: a large grid
    is averaged, a deep editor is shown at evenly spaced blocks, and the page says so.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expression: what refers, such as "the left red circle".
        recipe: the segmenter's choices; None for the editor's own.
        steps: denoising steps, from 0; every step up to the last of them is run.
        out: a file to write the page to.
        seed: of the noise.

    Raises:
        PhraseError: the expression is empty, or longer than the text encoder reads.
        InputError: a step that is not in the schedule, or a file that cannot be written.

    ```python
    gp.study.explore(editor, image, "the red circle", out="seen.html")
    ```
    """
    if out is not None:
        writable_folder(Path(out).parent)  # before the work, not after it
    view = gather(editor, image, expression, tuple(steps), seed, recipe)
    about = [f"{editor.name} {editor.revision}".strip(), f"recipe {view.recipe}", f"seed {seed}"]
    explorer = render(view, " · ".join(about))
    if out is not None:
        explorer.save(out)
    return explorer


def render(view: View, about: str) -> Explorer:
    """The page of a gathered view.

    Args:
        view: from `gather`.
        about: where it comes from.
    """
    still = _uri(_still(view, about), quality=85)
    photo = view.image.copy()
    photo.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    template = (files("ground_probe.study.explorer") / "template.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True).from_string(template)
    return Explorer(
        page.render(
            view=view,
            about=about,
            expression=view.expression,
            tokens=[readable(token) for token in view.tokens],
            start=_start(view),
            still=still,
            photo=_uri(photo, quality=90),
            data=_data(view, photo.size),
        ),
        still,
    )


def readable(token: str) -> str:
    """A token without its tokenizer's marks of words.

    >>> readable("▁circle"), readable("Ġred"), readable("dog</w>")
    ('circle', 'red', 'dog')
    """
    return token.removesuffix("</w>").strip("▁Ġ ") or "␣"


def packed(values: Float32[np.ndarray, "*sites numbers"]) -> dict[str, str]:
    """Numbers as bytes between the lowest and the highest of each last axis, in base64."""
    low, high = values.min(-1, keepdims=True), values.max(-1, keepdims=True)
    spread = np.where(high > low, high - low, 1)
    parts = {"bytes": ((values - low) / spread * 255).round().astype(np.uint8)}
    parts |= {"low": low.astype("<f4"), "high": high.astype("<f4")}
    return {name: _base64(part.tobytes()) for name, part in parts.items()}


def _data(view: View, size_px: tuple[int, int]) -> dict[str, Any]:
    """What the page's script reads.

    Args:
        view: from `gather`.
        size_px: (width, height) of the photo in the page.
    """
    x0, y0, x1, y1 = view.geometry.box
    height, width = view.geometry.image_size_px
    mask = np.asarray(Image.fromarray(view.mask).resize(size_px, Image.Resampling.NEAREST))
    colours = colormaps[_SCALE](np.linspace(0, 1, _COLOURS))[:, :3] * 255
    return {
        "blocks": view.blocks,
        "steps": view.steps,
        "streams": view.streams,
        "sigmas": view.sigmas,
        "tokens": [readable(token) for token in view.tokens],
        "own": view.own,
        "grid": view.geometry.grid,
        "unit": "token" if view.geometry.grid == view.tokens_grid else "cell",
        "box": [x0 / width, y0 / height, x1 / width, y1 / height],
        "attention": packed(view.attention),
        "features": packed(view.features.reshape(*view.features.shape[:3], -1)),
        "directions": view.features.shape[-1],
        "held": _rounded(view.held),
        "mask": {"size": size_px, "bits": _base64(np.packbits(mask).tobytes())},
        "cover": _rounded(view.geometry.soft_labels(view.mask)),
        "prior": _rounded(view.prior),
        "score": None if view.score is None else _rounded(view.score),
        "colours": colours.round().astype(int).tolist(),
    }


def _start(view: View) -> int:
    """The block whose features, compared with those where it looked most, are most like the answer.

    Attention is no guide: in most blocks the mean over heads does not tell the object.
    """
    rows = view.features[:, 0, -1]
    maps = rows @ rows[:, view.prior.argmax(), :, None]
    centred = (maps - maps.mean(1, keepdims=True))[..., 0]
    length = np.linalg.norm(centred, axis=1).clip(1e-30)
    answer = view.prior if view.score is None else view.score
    return int(np.argmax(centred @ answer.flatten() / length))


def _still(view: View, about: str) -> Image.Image:
    shown = {
        view.instruction: np.ones_like(view.mask),
        "where: attention to the words": view.geometry.to_pixels(view.prior),
    }
    if view.score is not None:
        shown["what: features like those there"] = view.geometry.to_pixels(view.score)
    shown[f"mask of {view.expression}"] = view.mask
    figure = figures.contact_sheet(
        [view.image] * len(shown),
        maps=list(shown.values()),
        titles=list(shown),
        about=about,
        columns=2,
    )
    buffer = BytesIO()
    figure.savefig(buffer, dpi=150)
    return to_rgb(Image.open(buffer))


def _uri(image: Image.Image, quality: int) -> str:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{_base64(buffer.getvalue())}"


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values.flat]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
