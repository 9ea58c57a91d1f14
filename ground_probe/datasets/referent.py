"""What sentences refer to, as annotations have it: what every reader of them makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ground_probe.datasets.sources import ImageSource
from ground_probe.errors import InputError


@dataclass(frozen=True, slots=True)
class Sentence:
    """One expression: cleaned (`sent`) and as it was typed (`raw`)."""

    sent_id: int
    sent: Any
    raw: Any


class Target(NamedTuple):
    """An annotated object: its id, and its segmentation.

    The segmentation is what `to_mask` takes, the file of a mask, or a function that gives a mask of
    a size.
    """

    ann_id: int | str
    segmentation: Any


@dataclass(frozen=True, slots=True)
class Ref:
    """What some sentences of one image refer to, not yet decoded.

    Args:
        ref_id: unique in the split.
        targets: one object, several, or none; several refs may mean one.
        image_id: of the image.
        image_size_px: (height, width) that the annotation is for.
        image: where the photo lies.
        sentences: what refers to them; without any they are distractors only.
        ignored: a function that gives the pixels that no score counts, for a size, or None.
    """

    ref_id: int | str
    targets: tuple[Target, ...] = field(repr=False)
    image_id: int | str
    image_size_px: tuple[int, int]
    image: ImageSource
    sentences: tuple[Sentence, ...]
    ignored: Any = field(default=None, repr=False)


def make_ref(
    ref: Mapping[str, Any], targets: Sequence[Target], image: Mapping[str, Any], photo: Any
) -> Ref:
    """A ref of what REFER's files say of it.

    Args:
        ref: `ref_id, image_id, sentences`.
        targets: what it refers to.
        image: its `height` and `width`, px.
        photo: where it lies.

    Raises:
        InputError: a field is missing or of another kind; the message names ref and field.
    """
    where = f"ref {ref.get('ref_id')}"
    ids = [_whole(where, name, ref.get(name)) for name in ("ref_id", "image_id")]
    size_px = [_whole(where, name, image.get(name)) for name in ("height", "width")]
    sentences = ref.get("sentences")
    if not isinstance(sentences, Sequence) or isinstance(sentences, str):
        raise InputError(f"{where}: sentences is {shortened(sentences)}, expected a list")
    return Ref(
        ref_id=ids[0],
        targets=tuple(
            Target(_whole(where, "ann_id", ann_id), segmentation)
            for ann_id, segmentation in targets
        ),
        image_id=ids[1],
        image_size_px=(size_px[0], size_px[1]),
        image=photo,
        sentences=tuple(
            Sentence(
                _whole(where, "sent_id", each["sent_id"]),
                each.get("sent", each.get("raw")),  # Ref-ZOM's loader knows nothing but `raw`
                each.get("raw"),
            )
            for each in sentences
        ),
    )


def _whole(where: str, name: str, value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where}: {name} is {shortened(value)}, expected a whole number")
    return value


def shortened(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
