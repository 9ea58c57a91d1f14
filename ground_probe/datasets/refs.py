"""The split that referents become, from any source of them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from ground_probe.datasets.example import Mask, RefExample, Split
from ground_probe.datasets.masks import Overlap, to_mask
from ground_probe.datasets.referent import Ref, Sentence, Target, shortened
from ground_probe.datasets.sources import FileImage, ImageSource, decode, read_mask
from ground_probe.errors import InputError, unknown

Text = Literal["sent", "raw"]


@dataclass(frozen=True, repr=False)
class RefSplit(Split):
    """A split, ordered by image, ref and sentence, and decoded when an example is asked for.

    `revision` is a digest of what is judged (ids, sentences, segmentations), so it is the same
    from both sources and another one when any of these change.
    """

    dataset: str
    split: str
    revision: str
    text: Text
    overlap: Overlap
    refs: tuple[Ref, ...] = field(repr=False)

    @cached_property
    def _entries(self) -> tuple[tuple[Ref, Sentence], ...]:
        return tuple((ref, sentence) for ref in self.refs for sentence in ref.sentences)

    @cached_property
    def _neighbours(self) -> dict[Any, list[Ref]]:
        neighbors = defaultdict(list)
        for ref in self.refs:
            neighbors[ref.image_id].append(ref)
        return dict(neighbors)

    def __len__(self) -> int:
        return len(self._entries)

    def example(self, position: int) -> RefExample:
        """Decode the photo and the masks of the example at a position."""
        ref, sentence = self._entries[position]
        key = self._key(ref, sentence)
        image = self._image(ref, key)
        others = self._others(ref)
        return RefExample(
            key=key,
            image=image,
            expression=getattr(sentence, self.text),
            mask=self._mask(ref, key),
            image_id=str(ref.image_id),
            distractors=tuple(self._decoded(each, ref, key) for each, _ in others),
            others=tuple(text for _, text in others),
            ignored=None if ref.ignored is None else ref.ignored(ref.image_size_px),
        )

    def column(self, name: str) -> tuple[str, ...]:
        """A field of every example, without decoding anything."""
        if name == "key":
            return tuple(self._key(ref, sentence) for ref, sentence in self._entries)
        if name == "image_id":
            return tuple(str(ref.image_id) for ref, _ in self._entries)
        return tuple(getattr(sentence, self.text) for _, sentence in self._entries)

    def _key(self, ref: Ref, sentence: Sentence) -> str:
        return f"{self.dataset}/{self.split}/{ref.ref_id}/{sentence.sent_id}"

    def check(self) -> Iterator[InputError]:
        """Decode every photo and every mask, and yield what cannot be used."""
        for ref in self.refs:
            key = f"{self.dataset}/{self.split}/{ref.ref_id}"
            try:
                self._image(ref, key)
                self._mask(ref, key)
            except InputError as error:
                yield error

    def _image(self, ref: Ref, key: str) -> Image.Image:
        image = decode(ref.image)
        if (image.height, image.width) != ref.image_size_px:
            raise InputError(
                f"{key}: the image is {(image.height, image.width)} (height, width), its "
                f"annotation is for {ref.image_size_px}: not the photo that was annotated"
            )
        return image

    def _others(self, ref: Ref) -> list[tuple[Target, str]]:
        """The other objects of the image, each with a text that refers to it alone, or none."""
        others: dict[Any, tuple[Target, str]] = {}
        for other in self._neighbours[ref.image_id]:
            alone = len(other.targets) == 1 and other.sentences
            text = getattr(other.sentences[0], self.text) if alone else ""
            for target in other.targets:
                if text or target.ann_id not in others:
                    others[target.ann_id] = target, text
        for target in ref.targets:
            others.pop(target.ann_id, None)
        return list(others.values())

    def _mask(self, ref: Ref, key: str) -> Mask:
        masks = [self._decoded(target, ref, key) for target in ref.targets]
        return np.logical_or.reduce(masks) if masks else np.zeros(ref.image_size_px, bool)

    def _decoded(self, target: Target, ref: Ref, key: str) -> Mask:
        segmentation, size_px = target.segmentation, ref.image_size_px
        try:
            if isinstance(segmentation, FileImage):
                return read_mask(segmentation, size_px)
            if callable(segmentation):
                return segmentation(size_px)
            return to_mask(segmentation, size_px, self.overlap)
        except InputError as error:
            raise InputError(f"{key}: annotation {target.ann_id}: {error}") from error


def build(
    dataset: str,
    split: str,
    refs: Iterable[Ref],
    *,
    text: Text = "sent",
    overlap: Overlap = "union",
    limit: int | None = None,
    seed: int = 0,
    photos: bool = False,
) -> RefSplit:
    """Order the refs of a source, digest them and keep the images that `limit` asks for.

    Args:
        dataset: its name.
        split: which one.
        refs: in any order.
        text: of the sentences.
        overlap: see `to_mask`.
        limit: about how many examples to keep.
        seed: of their draw.
        photos: whether the digest is of the photos too, which nobody has published.

    Raises:
        InputError: a sentence without a text.
    """
    for name, value, choices in (("text", text, Text), ("overlap", overlap, Overlap)):
        if value not in get_args(choices):
            raise unknown(name, value, get_args(choices))
    refs = sorted(refs, key=lambda ref: (ref.image_id, ref.ref_id))
    _check(refs, text)
    judged: list[Any] = [text, overlap, [_judged(ref, text) for ref in refs]]
    if photos:
        judged += map(_contents, dict.fromkeys(ref.image for ref in refs))
    revision = _digest(judged)
    if limit is not None:
        refs = _whole_images(refs, limit, seed)
    return RefSplit(dataset, split, revision, text, overlap, tuple(refs))


def _check(refs: Sequence[Ref], text: Text) -> None:
    for ref in refs:
        for sentence in ref.sentences:
            words = getattr(sentence, text)
            if not isinstance(words, str):
                raise InputError(
                    f"ref {ref.ref_id}: {text!r} of sentence {sentence.sent_id} is "
                    f"{shortened(words)}, expected a text"
                )
    if silent := [ref.ref_id for ref in refs if not ref.sentences]:
        warnings.warn(
            f"{len(silent):,} of {len(refs):,} refs have no sentence and are no examples, "
            f"e.g. ref {silent[0]}",
            stacklevel=4,
        )


def _whole_images(refs: Sequence[Ref], limit: int, seed: int) -> list[Ref]:
    """Refs of whole images, drawn in an order that only their ids and the seed decide."""
    images: dict[Any, int] = defaultdict(int)
    for ref in refs:
        images[ref.image_id] += len(ref.sentences)
    kept: set[Any] = set()
    total = 0
    for image_id in sorted(images, key=lambda image_id: _digest([seed, image_id])):
        if total >= limit:
            break
        kept.add(image_id)
        total += images[image_id]
    return [ref for ref in refs if ref.image_id in kept]


def _judged(ref: Ref, text: Text) -> list[Any]:
    sentences = [[sentence.sent_id, getattr(sentence, text)] for sentence in ref.sentences]
    ids = [target.ann_id for target in ref.targets]
    shapes = [
        _contents(each) if isinstance(each, FileImage) else _one_spelling(each)
        for _, each in ref.targets
    ]
    one = len(ids) == 1
    judged = [
        ref.ref_id,
        ids[0] if one else ids,
        ref.image_id,
        list(ref.image_size_px),
        shapes[0] if one else shapes,
        sentences,
    ]
    return judged if ref.ignored is None else [*judged, _one_spelling(ref.ignored)]


def _contents(source: ImageSource) -> str:
    return hashlib.sha256(source.read()).hexdigest()


def _one_spelling(value: Any) -> Any:
    """Parquet holds polygons as floats; JSON writes some of their numbers as integers."""
    if isinstance(value, list | tuple):
        return [_one_spelling(each) for each in value]
    return float(value) if isinstance(value, int) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
