"""Data sets: splits of referring examples, generated, published, or of one's own."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from ground_probe.datasets import hub, own, reasonseg, refcoco, refer_folder, refs
from ground_probe.datasets.example import RefExample, Split
from ground_probe.datasets.masks import Overlap
from ground_probe.datasets.referent import Ref
from ground_probe.errors import GroundProbeError, InputError, unknown

__all__ = ["DATASETS", "DataCheck", "RefExample", "Split", "check_data", "load_split"]

GENERATED = ("scenes", "scenes+", "scenesg", "cartoons", "cartoons+", "cartoonsg")
DATASETS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(GENERATED, ("train", "val", "test")),
    **{name: tuple(each.splits) for name, each in refcoco.COLLECTIONS.items()},
}


def load_split(
    dataset: str,
    split: str,
    *,
    root: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    text: refs.Text = "sent",
    overlap: Overlap = "union",
    download: bool = False,
) -> Split:
    """Open a split; images and masks are decoded when an example is asked for.

    The split also has `dataset`, `split`, `revision` and, without decoding, `keys`, `image_ids`
    and `expressions`.

    Args:
        dataset: one of `DATASETS`; a RefCOCO name carries the owner of its splits. Or the path of
            data of one's own: see `ground_probe.datasets.own`.
        split: one of the data set's splits.
        root: of published data: a REFER folder, one of ReasonSeg, or a folder with the hub's
            Parquet files. By default the hub's local cache.
        limit: keep about this many examples: whole images, drawn with `seed`, until there are
            enough.
        seed: of the generated scenes, and of the images that `limit` keeps.
        text: cleaned sentences ("sent") or as typed ("raw"); RefCOCO only.
        overlap: where parts of a polygon overlap, see `masks.to_mask`; RefCOCO only.
        download: fetch the RefCOCO split from the hub when it is not in the cache.

    Raises:
        InputError: unknown names, or data that is missing, damaged or has wrong counts.

    >>> split = load_split("scenes", "test", limit=3)
    >>> len(split), split[0].image.size
    (3, (128, 128))
    """
    check_names(dataset, split)
    if limit is not None and limit < 1:
        raise InputError(f"limit {limit} keeps nothing: give at least 1")
    if dataset in GENERATED:
        from ground_probe.datasets import cartoons, scenes

        if root is not None:
            raise InputError(f"{dataset} is generated and has no data folder: leave out {root}")
        world = cartoons if dataset in cartoons.STYLES else scenes
        return world.load(dataset, split, limit, seed)
    if own.is_path(dataset):
        if root is not None:
            raise InputError(f"{dataset} is a path of its own: leave out {root}")
        path, read = Path(dataset), own.read(Path(dataset), split)
        name = path.stem if path.suffix in own.SUFFIXES else path.absolute().name
        return refs.build(
            name, split, read, text=text, overlap=overlap, limit=limit, seed=seed, photos=True
        )
    references = _read(dataset, split, root, download)
    if references is None:
        raise InputError(f"{_absence(dataset, split, root)}; {how_to_get(dataset, split)}")
    refcoco.check_counts(dataset, split, references)
    return refs.build(
        dataset, split, references, text=text, overlap=overlap, limit=limit, seed=seed
    )


@dataclass(frozen=True, slots=True)
class DataCheck:
    """Whether a split can be evaluated here, and what to do if not."""

    dataset: str
    split: str
    ok: bool
    found: str
    fix: str = ""


def check_data(
    dataset: str, split: str, root: str | Path | None = None, deep: bool = False
) -> DataCheck:
    """Say whether a split is here and whole, without downloading anything.

    Args:
        dataset: see `load_split`.
        split: see `load_split`.
        root: see `load_split`.
        deep: also decode every photo and every mask, which takes minutes.

    Raises:
        UnknownNameError: no such data set or split.
    """
    check_names(dataset, split)
    if dataset in GENERATED:
        return DataCheck(dataset, split, True, "generated when asked for")
    fix = "" if own.is_path(dataset) else how_to_get(dataset, split)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            whole = load_split(dataset, split, root=root)
    except GroundProbeError as error:
        return DataCheck(dataset, split, False, str(error), fix)
    assert isinstance(whole, refs.RefSplit)
    files = {ref.image.path for ref in whole.refs}
    if missing := sorted(path for path in files if not os.path.isfile(path)):
        summary = f"{len(missing):,} of {len(files):,} photos are missing, e.g. {missing[0]}"
        return DataCheck(dataset, split, False, summary, _COCO)
    if deep and (wrong := list(whole.check())):
        summary = f"{len(wrong):,} of {len(whole.refs):,} refs cannot be used: {wrong[0]}"
        return DataCheck(dataset, split, False, summary, "mend or fetch these files again")
    size = sum(os.path.getsize(path) for path in files)
    summary = f"{len(whole.refs):,} refs, photos {size / 1e9:.2f} GB"
    return DataCheck(
        dataset, split, True, "; ".join([summary, *(str(each.message) for each in said)])
    )


_COCO = (
    "COCO train2014, 13.5 GB: wget http://images.cocodataset.org/zips/train2014.zip (annotations "
    "CC BY 4.0, photos under their own licences)"
)


def how_to_get(dataset: str, split: str) -> str:
    """Where a split comes from, how big it is, and the command that fetches it."""
    collection = refcoco.COLLECTIONS[dataset]
    if dataset == "reasonseg":
        return f"see {collection.source}: ReasonSeg/{split}/ of .jpg and .json; then --root FOLDER"
    if split == "train" or not collection.hub:
        source = (
            f"{collection.source}, as" if collection.source else "the training split comes from"
        )
        return (
            f"{source} a REFER folder only: {collection.folder}/{collection.refs[0]} and "
            f"instances.json, and {_COCO}; then --root FOLDER"
        )
    size = hub.gigabytes(dataset, split)
    return f"about {size:.1f} GB (COCO photos): {hub.command(dataset, split)}"


def check_names(dataset: str, split: str) -> None:
    """Raise UnknownNameError for a data set or split that does not exist."""
    if not own.is_path(dataset) and split not in splits_of(dataset):
        raise unknown(f"split of {dataset}", split, DATASETS[dataset])


def splits_of(dataset: str) -> tuple[str, ...]:
    """The splits of a data set, by its name or path.

    Raises:
        UnknownNameError: no such data set.
    """
    if own.is_path(dataset):
        return own.splits(Path(dataset)) or ("test",)
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    return DATASETS[dataset]


def _read(dataset: str, split: str, root: str | Path | None, download: bool) -> list[Ref] | None:
    if root is None:
        paths = [] if split == "train" else hub.cached(dataset, split, download)
    elif dataset == "reasonseg":
        part = reasonseg.find(Path(root), split)
        return reasonseg.read(part, split) if part else None
    elif path := refer_folder.find(Path(root), dataset):
        return refer_folder.read(path, split)
    else:
        paths = hub.find(Path(root), dataset, split)
    return hub.read(paths, split) if paths else None


def _absence(dataset: str, split: str, root: str | Path | None) -> str:
    collection = refcoco.COLLECTIONS[dataset]
    if root is None:
        if not collection.hub:
            return f"{dataset} is not on the hub: give --root"
        return f"{dataset} {split} is not in the local cache of {collection.repo}"
    refs_file = f"{collection.refs[0]} in it or in its {collection.folder}/"
    files = [refs_file] if collection.owner else []
    files += [f"{collection.hub.format(split)}-*.parquet"] if collection.hub else []
    expected = ", or ".join(files or [f"{split}/ or ReasonSeg/{split}/"])
    return f"{root} holds no {dataset} {split}: expected {expected}"
