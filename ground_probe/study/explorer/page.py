"""The page: gathered views, encoded and laid into one HTML file that needs nothing else."""

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
from jaxtyping import Bool, Float32
from jinja2 import Environment
from matplotlib import colormaps
from PIL import Image

from ground_probe.editors import Editor
from ground_probe.errors import InputError
from ground_probe.images import to_rgb
from ground_probe.io import whole_file, writable_folder
from ground_probe.segmentation import Recipe
from ground_probe.study import figures
from ground_probe.study.explorer.gather import View, fitting, gather

_SIDE_PX = 448  # of a picture in the page, at most
_SCALE = "viridis"
_COLORS = 32  # of that scale; the page interpolates between them
_MOST = 2  # expressions side by side
_BYTES = 1_750_000  # of maps and pictures: 2 MB less what the page and its outlines take

Mask = Bool[np.ndarray, "height width"]


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
        """Write the page, making its folder; return where."""
        path = writable_folder(Path(path).parent) / Path(path).name
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
            'style="grid-area:1/1;width:100%;height:88rem;border:0"></iframe></div>'
        )


def explore(
    editor: Editor,
    image: Image.Image,
    expression: str | Sequence[str],
    *,
    truth: Mask | Sequence[Mask | None] | None = None,
    recipe: Recipe | str | None = None,
    steps: Sequence[int] = (0, 3, 9),
    edit_steps: int = 28,
    out: Path | str | None = None,
    seed: int = 0,
) -> Explorer:
    """Look inside an editor, by block, head and step, in one page with sliders.

    ```python
    gp.study.explore(editor, image, "the red circle", out="seen.html")
    gp.study.explore(editor, image, ["the red circle", "the blue square"], truth=[mask, None])
    ```

    The page shows, on the photo, the finished edit or the one-step prediction: attention of image
    tokens to each token of the instruction, head by head; how alike their features are; where
    `segment` looks, its score and its mask; and the true mask. It opens at a head that grounds:
    that of the recipe or, where the recipe names none, the one whose highest token lies on the
    mask and whose map agrees best with it. What it shows stands in its address. It stays under
    2 MB: a large grid is averaged, a deep editor is shown at evenly spaced blocks, of many heads
    those are kept that agree best, and the page says so.

    Args:
        editor: from `load_editor`.
        image: of any size and mode.
        expression: what refers, such as "the left red circle", or two to see side by side.
        truth: the true mask where it is known, of the image's size; a list for two expressions.
        recipe: the segmenter's choices; None for the editor's own.
        steps: denoising steps, from 0; every step up to the last of them is run.
        edit_steps: of the edit that is shown; 0 leaves it out.
        out: a file to write the page to.
        seed: of the noise.

    Raises:
        PhraseError: an expression is empty, or longer than the text encoder reads.
        InputError: a step that is not in the schedule, more than two expressions, true masks that
            do not fit, or a file that cannot be written.
    """
    expressions = [expression] if isinstance(expression, str) else list(expression)
    if not 0 < len(expressions) <= _MOST:
        raise InputError(f"{len(expressions)} expressions: give one, or two to see side by side")
    truths = [truth] if isinstance(truth, np.ndarray) else list(truth or [])
    if out is not None:
        writable_folder(Path(out).parent)  # before the work, not after it
    views = gather(
        editor, image, expressions, steps, seed, recipe, truths=truths, edit_steps=edit_steps
    )
    about = [f"{editor.name} {editor.revision}".strip(), f"recipe {views[0].recipe}"]
    explorer = render(views, " · ".join([*about, f"seed {seed}"]))
    if out is not None:
        explorer.save(out)
    return explorer


def render(views: Sequence[View], about: str) -> Explorer:
    """The page of gathered views of one image; `about` says where they come from."""
    still = _uri(_still(views, about), quality=80)
    photo = _small(views[0].image)
    shown = _uri(photo, quality=85)
    pictures = [_pictures(view) for view in views]
    drawn = len(still) + len(shown) + sum(len(uri) for of in pictures for uri in of.values())
    views = fitting(views, (_BYTES - drawn) * 3 // 4)
    template = (files("ground_probe.study.explorer") / "template.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(template)
    return Explorer(
        page.render(
            views=views,
            view=views[0],
            readable=readable,
            known=any(view.truth is not None for view in views),
            about=about,
            start=views[0].blocks.index(views[0].grounding[0][0]),
            still=still,
            photo=shown,
            data=_data(views, photo.size, pictures),
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


def _data(
    views: Sequence[View], size_px: tuple[int, int], pictures: Sequence[dict[str, str]]
) -> dict[str, Any]:
    """What the page's script reads; `size_px` is (width, height) of the photo in the page."""
    view = views[0]
    x0, y0, x1, y1 = view.geometry.box
    height, width = view.geometry.image_size_px
    colors = colormaps[_SCALE](np.linspace(0, 1, _COLORS))[:, :3] * 255
    step, stream = view.looked
    return {
        "blocks": view.blocks,
        "steps": view.steps,
        "streams": view.streams,
        "sigmas": view.sigmas,
        "grid": view.geometry.grid,
        "unit": "token" if view.geometry.grid == view.tokens_grid else "cell",
        "box": [x0 / width, y0 / height, x1 / width, y1 / height],
        "compared": view.compared,
        "directions": view.features.shape[-1],
        "heads": [[view.blocks.index(block), head] for block, head in view.heads],
        "start": {"step": view.steps.index(step), "stream": stream, "head": view.grounding[0][1]},
        "size": size_px,
        "colors": colors.round().astype(int).tolist(),
        "views": [
            _of_view(each, size_px) | {"pictures": of}
            for each, of in zip(views, pictures, strict=True)
        ],
    }


def _of_view(view: View, size_px: tuple[int, int]) -> dict[str, Any]:
    marked = [[view.blocks.index(block), head] for block, head in view.grounding]
    return {
        "expression": view.expression,
        "tokens": [readable(token) for token in view.tokens],
        "own": view.own,
        "marked": marked,
        "attention": packed(view.attention),
        "byHead": packed(view.by_head),
        "features": packed(view.features.reshape(*view.features.shape[:3], -1)),
        "held": _rounded(view.held),
        "prior": _rounded(view.prior),
        "score": _rounded(view.score),
        "mask": _mask(view, view.mask, size_px),
        "truth": None if view.truth is None else _mask(view, view.truth, size_px),
    }


def _pictures(view: View) -> dict[str, str]:
    named = {f"prediction {at}": picture for at, picture in enumerate(view.predictions)}
    if view.edit is not None:
        named["edit"] = view.edit
    return {name: _uri(_small(picture), quality=80) for name, picture in named.items()}


def _mask(view: View, mask: np.ndarray, size_px: tuple[int, int]) -> dict[str, Any]:
    small = np.asarray(Image.fromarray(mask).resize(size_px, Image.Resampling.NEAREST))
    return {
        "bits": _base64(np.packbits(small).tobytes()),
        "cover": _rounded(view.geometry.soft_labels(mask)),
    }


def _still(views: Sequence[View], about: str) -> Image.Image:
    panels: list[tuple[View, str, np.ndarray]] = []
    for view in views:
        block, head = view.grounding[0]
        step, stream = view.looked
        site = view.heads.index((block, head)), view.steps.index(step), view.streams.index(stream)
        attention = view.by_head[site].sum(0).reshape(view.geometry.grid)
        panels += [
            (view, view.instruction, np.ones_like(view.mask)),
            (view, f"head {head} of {block}", view.geometry.to_pixels(attention)),
            (view, "where it looks", view.geometry.to_pixels(view.prior)),
            (view, f"mask of {view.expression}", view.mask),
        ]
    shown, titles, maps = zip(*panels, strict=True)
    figure = figures.contact_sheet(
        [view.image for view in shown],
        maps=maps,
        golds=[np.zeros_like(v.mask) if v.truth is None else v.truth for v in shown],
        titles=titles,
        about=about,
    )
    buffer = BytesIO()
    figure.savefig(buffer, dpi=120)
    return to_rgb(Image.open(buffer))


def _small(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
    return small


def _uri(image: Image.Image, quality: int) -> str:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return f"data:image/jpeg;base64,{_base64(buffer.getvalue())}"


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values.flat]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
