"""The RefCOCO family: names, owners, counts, and the split both of its sources become."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from ground_probe.datasets.example import RefExample, Split
from ground_probe.datasets.masks import Overlap, to_mask
from ground_probe.datasets.sources import ImageSource, decode
from ground_probe.errors import InputError, unknown

Text = Literal["sent", "raw"]


@dataclass(frozen=True, slots=True)
class Expected:
    """Counts of a published split."""

    images: int
    refs: int
    sentences: int
    confirmed: bool = True


@dataclass(frozen=True, slots=True)
class Collection:
    """One data set with one owner's splits; the names of its parts in both sources.

    Args:
        folder: name in the REFER layout.
        owner: whose splits, as in `refs(<owner>).p`.
        hub: prefix of the hub's Parquet files.
        splits: published splits and their counts.
    """

    folder: str
    owner: str
    hub: str
    splits: dict[str, Expected]


# Sources. Images and refs of UNC's splits: REFER releases; with train they add up to the published
# totals of 19,994 and 19,992 images, 50,000 and 49,856 refs. UMD's: 25,799 images, 49,822 refs, as
# many as Google's 44,822 + 5,000; Google's images: TensorFlow Datasets, `gref`.
# Sentences: val and tests of UNC counted; RefCOCO+ train is the published total of 141,564 less
# those. Google's: counted in github.com/kdwonn/SaG/issues/4, together 95,010, which
# github.com/luogen1996/MCN/issues/7 counts for UMD's three. Ref-L4 (Chen et al. 2024) counts 14,498
# for UMD's val and test together, and 142,209 is published for RefCOCO, one less than the sum here:
# what is known from such sums alone is said and not refused.
COLLECTIONS = {
    "refcoco_unc": Collection("refcoco", "unc", "refcoco_unc", {
        "train": Expected(16_994, 42_404, 120_624, confirmed=False),
        "val": Expected(1_500, 3_811, 10_834),
        "testA": Expected(750, 1_975, 5_657),
        "testB": Expected(750, 1_810, 5_095),
    }),
    "refcoco+_unc": Collection("refcoco+", "unc", "refcoco_plus_unc", {
        "train": Expected(16_992, 42_278, 120_191),
        "val": Expected(1_500, 3_805, 10_758),
        "testA": Expected(750, 1_975, 5_726),
        "testB": Expected(750, 1_798, 4_889),
    }),
    "refcocog_umd": Collection("refcocog", "umd", "refcocog_umd", {
        "train": Expected(21_899, 42_226, 80_512, confirmed=False),
        "val": Expected(1_300, 2_573, 4_896, confirmed=False),
        "test": Expected(2_600, 5_023, 9_602, confirmed=False),
    }),
    "refcocog_google": Collection("refcocog", "google", "refcocog_google", {
        "train": Expected(24_698, 44_822, 85_474),
        "val": Expected(4_650, 5_000, 9_536),
    }),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sentence:
    """One expression: cleaned (`sent`) and as it was typed (`raw`)."""

    sent_id: int
    sent: str
    raw: str


@dataclass(frozen=True, slots=True)
class Ref:
    """One referent of one image, not yet decoded."""

    ref_id: int
    ann_id: int
    image_id: int
    image_size_px: tuple[int, int]
    image: ImageSource
    segmentation: Any = field(repr=False)
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class RefcocoSplit(Split):
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
    def _neighbours(self) -> dict[int, list[Ref]]:
        neighbours = defaultdict(list)
        for ref in self.refs:
            neighbours[ref.image_id].append(ref)
        return dict(neighbours)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> RefExample:  # type: ignore[override]
        ref, sentence = self._entries[index]
        key = self._key(ref, sentence)
        others = {other.ann_id: other for other in self._neighbours[ref.image_id]}
        others.pop(ref.ann_id)
        image = decode(ref.image)
        if (image.height, image.width) != ref.image_size_px:
            raise InputError(
                f"{key}: the image is {(image.height, image.width)} (height, width), its "
                f"annotation is for {ref.image_size_px}: not the photo that was annotated"
            )
        return RefExample(
            key=key,
            image=image,
            expression=getattr(sentence, self.text),
            mask=self._mask(ref, key),
            image_id=str(ref.image_id),
            distractors=tuple(self._mask(other, key) for other in others.values()),
            others=tuple(getattr(o.sentences[0], self.text) for o in others.values()),
        )

    @property
    def keys(self) -> tuple[str, ...]:
        """The examples' keys, without decoding anything."""
        return tuple(self._key(ref, sentence) for ref, sentence in self._entries)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The image of each example."""
        return tuple(str(ref.image_id) for ref, _ in self._entries)

    @property
    def expressions(self) -> tuple[str, ...]:
        """The expression of each example."""
        return tuple(getattr(sentence, self.text) for _, sentence in self._entries)

    def _key(self, ref: Ref, sentence: Sentence) -> str:
        return f"{self.dataset}/{self.split}/{ref.ref_id}/{sentence.sent_id}"

    def _mask(self, ref: Ref, key: str) -> Any:
        try:
            return to_mask(ref.segmentation, ref.image_size_px, self.overlap)
        except InputError as error:
            raise InputError(f"{key}: annotation {ref.ann_id}: {error}") from error


def build(
    dataset: str,
    split: str,
    refs: Iterable[Ref],
    *,
    text: Text = "sent",
    overlap: Overlap = "union",
    limit: int | None = None,
    seed: int = 0,
) -> RefcocoSplit:
    """Order the refs of either source, digest them and keep the images that `limit` asks for."""
    for name, value, choices in (("text", text, Text), ("overlap", overlap, Overlap)):
        if value not in get_args(choices):
            raise unknown(name, value, get_args(choices))
    refs = sorted(refs, key=lambda ref: (ref.image_id, ref.ref_id))
    revision = _digest([text, overlap, [_judged(ref, text) for ref in refs]])
    if limit is not None:
        refs = _whole_images(refs, limit, seed)
    return RefcocoSplit(dataset, split, revision, text, overlap, tuple(refs))


def check_counts(dataset: str, split: str, refs: Sequence[Ref]) -> None:
    """Compare a split with its published counts.

    Raises:
        InputError: other images or refs, or other sentences where their number is confirmed.
    """
    expected = COLLECTIONS[dataset].splits[split]
    found = {
        "images": len({ref.image_id for ref in refs}),
        "refs": len(refs),
        "sentences": sum(len(ref.sentences) for ref in refs),
    }
    for name, number in found.items():
        wanted = getattr(expected, name)
        if number == wanted:
            continue
        message = f"{dataset} {split} has {number:,} {name}, expected {wanted:,}"
        if name == "sentences" and not expected.confirmed:
            warnings.warn(f"{message} (an unconfirmed count)", stacklevel=3)
        else:
            raise InputError(f"{message}: another owner's split, or an incomplete copy")


def _whole_images(refs: Sequence[Ref], limit: int, seed: int) -> list[Ref]:
    """Refs of whole images, drawn in an order that only their ids and the seed decide."""
    images: dict[int, int] = defaultdict(int)
    for ref in refs:
        images[ref.image_id] += len(ref.sentences)
    kept, total = set(), 0
    for image_id in sorted(images, key=lambda image_id: _digest([seed, image_id])):
        if total >= limit:
            break
        kept.add(image_id)
        total += images[image_id]
    return [ref for ref in refs if ref.image_id in kept]


def _judged(ref: Ref, text: Text) -> list[Any]:
    sentences = [[sentence.sent_id, getattr(sentence, text)] for sentence in ref.sentences]
    shape = _one_spelling(ref.segmentation)
    return [ref.ref_id, ref.ann_id, ref.image_id, list(ref.image_size_px), shape, sentences]


def _one_spelling(value: Any) -> Any:
    """Parquet holds polygons as floats; JSON writes some of their numbers as integers."""
    if isinstance(value, list):
        return [_one_spelling(each) for each in value]
    return float(value) if isinstance(value, int) else value


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
