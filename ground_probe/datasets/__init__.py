"""Data sets: splits of referring examples, generated or read from the RefCOCO family."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ground_probe.datasets import hub, refcoco, refer_folder
from ground_probe.datasets.example import RefExample, Split
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
    text: refcoco.Text = "sent",
    overlap: refcoco.Overlap = "union",
    download: bool = False,
) -> Split:
    """Open a split; images and masks are decoded when an example is asked for.

    The split also has `dataset`, `split`, `revision` and, without decoding, `keys`, `image_ids`
    and `expressions`.

    Args:
        dataset: one of `DATASETS`; a RefCOCO name carries the owner of its splits.
        split: one of the data set's splits.
        root: of the RefCOCO family: a REFER folder, or a folder with the hub's Parquet files. By
            default the hub's local cache.
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
    refs = _read(dataset, split, root, download)
    if refs is None:
        raise InputError(f"{_absence(dataset, split, root)}; {how_to_get(dataset, split)}")
    refcoco.check_counts(dataset, split, refs)
    return refcoco.build(dataset, split, refs, text=text, overlap=overlap, limit=limit, seed=seed)


@dataclass(frozen=True, slots=True)
class DataCheck:
    """Whether a split can be evaluated here, and what to do if not."""

    dataset: str
    split: str
    ok: bool
    found: str
    fix: str = ""


def check_data(dataset: str, split: str, root: str | Path | None = None) -> DataCheck:
    """Say whether a split is here and whole, without decoding or downloading anything.

    Raises:
        UnknownNameError: no such data set or split.
    """
    check_names(dataset, split)
    if dataset in GENERATED:
        return DataCheck(dataset, split, True, "generated when asked for")
    try:
        refs = _read(dataset, split, root, download=False)
        if refs is None:
            found = _absence(dataset, split, root)
            return DataCheck(dataset, split, False, found, how_to_get(dataset, split))
        refcoco.check_counts(dataset, split, refs)
    except GroundProbeError as error:
        return DataCheck(dataset, split, False, str(error), how_to_get(dataset, split))
    files = {ref.image.path for ref in refs}
    if missing := sorted(path for path in files if not Path(path).is_file()):
        found = f"{len(missing):,} of {len(files):,} photos are missing, e.g. {missing[0]}"
        return DataCheck(dataset, split, False, found, _COCO)
    size = sum(Path(path).stat().st_size for path in files)
    return DataCheck(dataset, split, True, f"{len(refs):,} refs, photos {size / 1e9:.2f} GB")


_COCO = (
    "COCO train2014, 13.5 GB: wget http://images.cocodataset.org/zips/train2014.zip (annotations "
    "CC BY 4.0, photos under their own licences)"
)


def how_to_get(dataset: str, split: str) -> str:
    """Where a split comes from, how big it is, and the command that fetches it."""
    if split == "train":
        collection = refcoco.COLLECTIONS[dataset]
        return (
            f"the training split comes from a REFER folder only: {collection.folder}/"
            f"refs({collection.owner}).p and instances.json, and {_COCO}; then --root FOLDER"
        )
    size = hub.gigabytes(dataset, split)
    return f"about {size:.1f} GB (COCO photos): {hub.command(dataset, split)}"


def check_names(dataset: str, split: str) -> None:
    """Raise UnknownNameError for a data set or split that does not exist."""
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    if split not in DATASETS[dataset]:
        raise unknown(f"split of {dataset}", split, DATASETS[dataset])


def _read(
    dataset: str, split: str, root: str | Path | None, download: bool
) -> list[refcoco.Ref] | None:
    if root is None:
        paths = [] if split == "train" else hub.cached(dataset, split, download)
    elif folder := refer_folder.find(Path(root), dataset):
        return refer_folder.read(folder, dataset, split)
    else:
        paths = hub.find(Path(root), dataset, split)
    return hub.read(paths, split) if paths else None


def _absence(dataset: str, split: str, root: str | Path | None) -> str:
    if root is None:
        return f"{dataset} {split} is not in the local cache of {hub.REPO}"
    collection = refcoco.COLLECTIONS[dataset]
    return (
        f"{root} holds no {dataset} {split}: expected refs({collection.owner}).p in it or in its "
        f"{collection.folder}/, or {collection.hub}_{split}-*.parquet"
    )
