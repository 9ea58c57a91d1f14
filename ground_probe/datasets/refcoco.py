"""The RefCOCO family: names, owners and counts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from ground_probe.datasets.referent import Ref
from ground_probe.errors import InputError


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


def check_counts(dataset: str, split: str, refs: Sequence[Ref]) -> None:
    """Compare a split with its published counts.

    Raises:
        InputError: other images or refs, or other sentences where their number is confirmed.
    """
    expected = COLLECTIONS[dataset].splits[split]
    counts = {
        "images": len({ref.image_id for ref in refs}),
        "refs": len(refs),
        "sentences": sum(len(ref.sentences) for ref in refs),
    }
    for name, number in counts.items():
        wanted = getattr(expected, name)
        if number == wanted:
            continue
        message = f"{dataset} {split} has {number:,} {name}, expected {wanted:,}"
        if name == "sentences" and not expected.confirmed:
            warnings.warn(f"{message} (an unconfirmed count)", stacklevel=3)
        else:
            raise InputError(f"{message}: another owner's split, or an incomplete copy")
