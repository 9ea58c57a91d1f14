"""The published data sets: names, owners, where they come from, and counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from ground_probe.datasets.referent import Ref
from ground_probe.errors import InputError


@dataclass(frozen=True, slots=True)
class Expected:
    """Counts of a published split, None where nobody published one.

    Another count is refused if `confirmed`, else said: of sentences and, in `REVISED`, of images.
    """

    images: int | None
    refs: int | None
    sentences: int | None
    confirmed: bool = True


@dataclass(frozen=True, slots=True)
class Collection:
    """One data set with one owner's splits; the names of its parts in every source.

    Args:
        folder: name in the REFER layout.
        owner: whose splits, as in `refs(<owner>).p`.
        hub: name of a split's Parquet files on the hub; empty where it has none.
        splits: published splits and their counts.
        repo: of the hub.
        revision: of the repo.
        files: names of the refs in a REFER folder; by default `refs(<owner>).p`.
        source: where to get it, if not from the hub.
        any_number: whether an expression may refer to nothing, or to several objects.
    """

    folder: str
    owner: str
    hub: str
    splits: dict[str, Expected]
    repo: str = "jxu124/refcoco-benchmark"
    revision: str = "2f2f892835bbf44b4db81f1c4ad6d46a3e9e4359"
    files: tuple[str, ...] = ()
    source: str = ""
    any_number: bool = False

    @property
    def refs(self) -> tuple[str, ...]:
        """Names that the file of refs may have, the first that is there counts."""
        return self.files or (f"refs({self.owner}).p",)


# Sources. Images and refs of UNC's splits: REFER releases; with train they add up to the published
# totals of 19,994 and 19,992 images, 50,000 and 49,856 refs. UMD's: 25,799 images, 49,822 refs, as
# many as Google's 44,822 + 5,000; Google's images: TensorFlow Datasets, `gref`.
# Sentences: val and tests of UNC counted; RefCOCO+ train is the published total of 141,564 less
# those. Google's: counted in github.com/kdwonn/SaG/issues/4, together 95,010, which
# github.com/luogen1996/MCN/issues/7 counts for UMD's three. Ref-L4 (Chen et al. 2024) counts 14,498
# for UMD's val and test together, and 142,209 is published for RefCOCO, one less than the sum here:
# what is known from such sums alone is said and not refused.
# RefCOCO-M: its dataset card, huggingface.co/datasets/moondream/refcoco-m.
# gRefCOCO: all expressions of its file are 259,859 (github.com/henghuiding/gRefCOCO/issues/6), of
# 19,994 images (Liu et al. 2023, arXiv 2306.00968) divided as RefCOCO's; those by split are
# unverified and add up to that.
# ReasonSeg: README of github.com/dvlab-research/LISA, an instruction an image but in train.
# Ref-ZOM: images of the paper (Hu et al. 2023, arXiv 2308.13853); the files were revised since.
COLLECTIONS = {
    "refcoco_unc": Collection("refcoco", "unc", "refcoco_unc_{}", {
        "train": Expected(16_994, 42_404, 120_624, confirmed=False),
        "val": Expected(1_500, 3_811, 10_834),
        "testA": Expected(750, 1_975, 5_657),
        "testB": Expected(750, 1_810, 5_095),
    }),
    "refcoco+_unc": Collection("refcoco+", "unc", "refcoco_plus_unc_{}", {
        "train": Expected(16_992, 42_278, 120_191),
        "val": Expected(1_500, 3_805, 10_758),
        "testA": Expected(750, 1_975, 5_726),
        "testB": Expected(750, 1_798, 4_889),
    }),
    "refcocog_umd": Collection("refcocog", "umd", "refcocog_umd_{}", {
        "train": Expected(21_899, 42_226, 80_512, confirmed=False),
        "val": Expected(1_300, 2_573, 4_896, confirmed=False),
        "test": Expected(2_600, 5_023, 9_602, confirmed=False),
    }),
    "refcocog_google": Collection("refcocog", "google", "refcocog_google_{}", {
        "train": Expected(24_698, 44_822, 85_474),
        "val": Expected(4_650, 5_000, 9_536),
    }),
    "refcoco-m": Collection("refcoco-m", "", "validation", {
        "val": Expected(1_190, 2_080, 5_598),
    }, "moondream/refcoco-m", "98f5a232c8dbfab41f4dccce738e636c19c44efd"),
    "grefcoco": Collection("grefcoco", "unc", "", {
        "train": Expected(16_994, None, 209_344, confirmed=False),
        "val": Expected(1_500, None, 16_870, confirmed=False),
        "testA": Expected(750, None, 18_712, confirmed=False),
        "testB": Expected(750, None, 14_933, confirmed=False),
    }, files=("grefs(unc).json", "grefs(unc).p"), any_number=True,
       source="github.com/henghuiding/gRefCOCO"),
    "ref-zom": Collection("ref-zom", "final", "", {
        "train": Expected(43_749, None, None, confirmed=False),
        "test": Expected(11_329, None, None, confirmed=False),
    }, files=("refs(final).p", "Ref-ZOM(final).p"), any_number=True,
       source="github.com/toggle1995/RIS-DMMI"),
    "reasonseg": Collection("ReasonSeg", "", "", {
        "train": Expected(239, 239, None),
        "val": Expected(200, 200, 200),
        "test": Expected(779, 779, 779),
    }, any_number=True, source="github.com/dvlab-research/LISA"),
}  # fmt: skip
REVISED = ("ref-zom",)
"""Data sets whose files were revised after their images were counted."""


def check_counts(dataset: str, split: str, refs: Sequence[Ref]) -> None:
    """Compare a split with its published counts.

    Raises:
        InputError: other images or refs, or other sentences, where their number is confirmed.
    """
    expected = COLLECTIONS[dataset].splits[split]
    counts = {
        "images": len({ref.image_id for ref in refs}),
        "refs": len(refs),
        "sentences": sum(len(ref.sentences) for ref in refs),
    }
    for name, number in counts.items():
        wanted = getattr(expected, name)
        if wanted is None or number == wanted:
            continue
        message = f"{dataset} {split} has {number:,} {name}, expected {wanted:,}"
        if not expected.confirmed and (name == "sentences" or dataset in REVISED):
            warnings.warn(f"{message} (an unconfirmed count)", stacklevel=3)
        else:
            raise InputError(f"{message}: another owner's split, or an incomplete copy")
