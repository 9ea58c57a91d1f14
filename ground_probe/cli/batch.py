"""Several photos and expressions: a mask for each pair, and a page that shows them all."""

from __future__ import annotations

import argparse
import hashlib
import html
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ground_probe.cli import options
from ground_probe.cli.options import Answer


class Pair(NamedTuple):
    """A photo, what refers in it, and the name of the files that come of it."""

    photo: str
    expression: str
    name: str


def expressions_of(path: str) -> list[str]:
    """The lines of a file that say something."""
    from ground_probe.errors import InputError

    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the expressions of {path}: {error}") from error
    said = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not said:
        raise InputError(f"{path} has no expression: write one a line")
    return said


def pairs_of(photos: Sequence[str], expressions: Sequence[str]) -> Iterator[Pair]:
    """Every photo with every expression, under a name that another photo or words would change."""
    from ground_probe.images import MAX_BYTES, read_file
    from ground_probe.io import digest

    for photo in dict.fromkeys(photos):
        held = hashlib.sha256(read_file(photo, MAX_BYTES)).hexdigest()
        for expression in expressions:
            words = re.sub(r"\W+", "-", f"{Path(photo).stem} {expression}").strip("-")[:60]
            yield Pair(photo, expression, f"{words}-{digest([held, expression])[:8]}")


def segment_all(arguments: argparse.Namespace) -> Answer:
    """Segment what has no mask yet, and write the page."""
    from PIL import Image
    from tqdm import tqdm

    import ground_probe as gp
    from ground_probe import images
    from ground_probe.io import whole_file

    expressions = expressions_of(arguments.expressions)
    recipe, pairs = options.recipe(arguments), list(pairs_of(arguments.subject, expressions))
    editor = options.editor_for(arguments, images.read_image(pairs[0].photo).size)
    folder = Path(arguments.out)
    choices = gp.recipe_for(editor, recipe).digest
    run = gp.open_run(  # refuses a folder of another editor or other choices
        "segment", str(folder), model=editor.name, revision=editor.revision,
        recipe=choices, seed=arguments.seed,
    )  # fmt: skip
    masks = {pair: folder / f"{pair.name}.png" for pair in pairs}
    left = [pair for pair in pairs if not masks[pair].exists()]
    read = lru_cache(1)(images.read_image)  # a photo's expressions follow one another
    for pair in tqdm(left, desc="segment"):
        photo = read(pair.photo)
        mask = gp.segment(editor, photo, pair.expression, recipe, seed=arguments.seed).mask
        images.write_image(images.overlay(photo, mask), folder / f"{pair.name}.overlay.jpg")
        images.write_image(Image.fromarray(mask.astype("uint8") * 255), masks[pair])
    page = folder / "index.html"
    with whole_file(page) as part:
        part.write_text(_page(pairs), encoding="utf-8")
    run.finish(pairs=len(pairs))
    files = [str(path) for path in masks.values()]
    text = f"{page}: {len(pairs)} masks, {len(pairs) - len(left)} of them from before"
    return Answer(text, {"page": str(page), "files": files, "done": len(left)})


def _page(pairs: Sequence[Pair]) -> str:
    """The pictures of all pairs, each a link to its mask."""
    cells = "\n".join(
        f'<figure><a href="{p.name}.png"><img src="{p.name}.overlay.jpg" loading="lazy" '
        f'alt="{html.escape(p.expression)}"></a><figcaption>{html.escape(p.expression)}<br>'
        f"<small>{html.escape(Path(p.photo).name)}</small></figcaption></figure>"
        for p in pairs
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width"><title>Masks</title><style>body{font:15px sans-serif;'
        "display:grid;grid-template-columns:repeat(auto-fill,minmax(14rem,1fr));gap:1rem}"
        f"figure{{margin:0}}img{{width:100%}}</style>\n{cells}\n</html>\n"
    )
