"""The last stage of the segmenter by itself: true masks of photos, to token grids and back.

    python benchmarks/mask.py --data ../shared/data --out results/mask

Every annotated object becomes a map on the grids of real editors: its share of each token (exact),
blurred by a token, with noise, with a sink on the border at twice the peak, beside a second object
at .6 of the peak, and as an editor's prior errs: uneven, over clutter, with noise and two sinks.
Each way from map to mask is scored by IoU at the photo's size. Written are `mask.csv` (mIoU and
gains over the former default and over plain interpolation, with intervals over photos, paired; by
size of the object), `choice.csv` (what each step is worth, and what cross-validation over photos
chooses), and `mask.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from tqdm import tqdm

from ground_probe.datasets.masks import to_mask as decoded
from ground_probe.editors.fits import kontext_fit, qwen_fit, unet_fit
from ground_probe.geometry import Geometry
from ground_probe.segmentation import mask as stage
from ground_probe.segmentation.edges import GuidedFilter
from ground_probe.stats import bootstrap

LARGE = SimpleNamespace(vae=SimpleNamespace(config=None), vae_scale_factor=8)
UNET = SimpleNamespace(
    unet=SimpleNamespace(config=SimpleNamespace(sample_size=64, block_out_channels=range(4))),
    vae_scale_factor=8,
)
GRIDS: Mapping[str, tuple[Callable, Any, int]] = {
    "FluxKontext": (kontext_fit, LARGE, 16),
    "QwenImageEdit": (qwen_fit, LARGE, 16),
    "InstructPix2Pix": (unet_fit, UNET, 8),
    "InstructPix2Pix, level 2": (unet_fit, UNET, 16),
    "16x16": (lambda pipe, size: ((256, 256), None, None), None, 16),
}
SCORES = ("exact", "blurred", "noisy", "sink", "blurred, noisy", "second", "prior")
FORMER, PLAIN, OURS = "guided filter, Otsu (former default)", "bilinear, half", "to_mask"
CHANGES: Mapping[str, Mapping[str, Any]] = {
    OURS: {},
    "without: lone tokens": {"_LONE": np.inf},
    "without: smoothing": {"_NOISE": 0.0},
    "without: sharpening": {"_SHARP": -1.0, "_BLURRED": -2.0},
    "without: low regions": {"_PEAK": 0.0},
}
BILINEAR = "bilinear instead of bicubic"
ADDED = {"with: edges of a token": 1.0}
FOLDS = 5


def objects(data: Path) -> Iterator[tuple[str, str, Image.Image, list[np.ndarray]]]:
    """(data set, photo, image, masks) of every photo; crowds are left out."""
    coco = json.loads((data / "coco-sample/instances.json").read_text())
    for entry in coco["images"]:
        size = entry["height"], entry["width"]
        of = [a for a in coco["annotations"] if a["image_id"] == entry["id"] and not a["iscrowd"]]
        image = Image.open(data / "coco-sample/images" / entry["file_name"]).convert("RGB")
        if of:
            yield "coco", str(entry["id"]), image, [decoded(a["segmentation"], size) for a in of]
    referents = pd.DataFrame(json.loads((data / "refer-sample/samples.json").read_text()))
    for name, rows in referents.groupby("image"):
        paths = [data / "refer-sample" / path for path in rows["mask"]]
        masks = [np.asarray(Image.open(path).convert("L")) > 127 for path in paths]
        yield "refer", name, Image.open(data / "refer-sample" / name).convert("RGB"), masks


def maps_of(true: np.ndarray, others: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """The maps of one object, in the order of `SCORES`; noise is .1 of the peak."""
    blurred, peak = gaussian_filter(true, 1), true.max()
    noise = rng.standard_normal(true.shape)
    second = true
    if others:
        other = others[rng.integers(len(others))]
        second = np.maximum(true, 0.6 * peak * other / other.max())
    uneven = gaussian_filter(true * (0.5 + 0.5 * _field(true.shape, 4, rng)), 0.7)
    prior = uneven / uneven.max() + 0.3 * _field(true.shape, 2, rng) + 0.05 * noise
    return np.stack(
        [
            true,
            blurred,
            true + 0.1 * peak * noise,
            _with_sink(true, rng),
            blurred + 0.1 * blurred.max() * rng.standard_normal(true.shape),
            second,
            _with_sink(_with_sink(prior, rng), rng),
        ]
    )


def ways(
    maps: torch.Tensor, geometry: Geometry, image: Image.Image, every: bool, edges: bool
) -> Iterator:
    """(name, masks) of each way from maps to masks."""
    yield FORMER, _former(maps, geometry, image)
    yield PLAIN, _halved(maps, geometry)
    lowered = torch.minimum(maps, stage._highest_neighbor(maps))
    yield "lone tokens lowered, bilinear, half", _halved(lowered, geometry)
    for name, change in CHANGES.items() if every else [(OURS, {})]:
        with changed(change):
            yield name, stage.to_masks(maps, geometry)
    with changed({"_cubic": _linear}):
        if every:
            yield BILINEAR, stage.to_masks(maps, geometry)
    for name, radius in ADDED.items() if every and edges else ():
        yield name, stage.to_masks(maps, geometry, image, edges=radius)


def scored(given: argparse.Namespace) -> pd.DataFrame:
    """One row an object, grid, score and way: its IoU."""
    rows = []
    for dataset, photo, image, masks in tqdm(
        list(objects(given.data))[: given.limit], desc="photos"
    ):
        size = image.height, image.width
        for grid in given.grids:
            fit, pipeline, token_px = GRIDS[grid]
            geometry = Geometry(size, tuple(side // token_px for side in fit(pipeline, size)[0]))
            true = [geometry.soft_labels(mask) for mask in masks]
            drawn = np.random.default_rng(given.seed).permutation(len(masks))[: given.objects]
            for at in drawn:
                mask = masks[at]
                apart = [t for t, m in zip(true, masks, strict=True) if not (m & mask).any()]
                maps = maps_of(true[at], apart, np.random.default_rng([given.seed, at]))
                every = grid == "FluxKontext"
                for way, tried in ways(torch.from_numpy(maps), geometry, image, every, given.edges):
                    union = np.count_nonzero(tried | mask, axis=(1, 2))
                    ious = np.count_nonzero(tried & mask, axis=(1, 2)) / union
                    row = (grid, dataset, photo, at, np.count_nonzero(mask), way)
                    rows += [(*row, *pair) for pair in zip(SCORES, ious, strict=True)]
    columns = ["grid", "dataset", "photo", "object", "area", "way", "score", "iou"]
    table = pd.DataFrame(rows, columns=columns)
    bins, names = [0, 32**2, 96**2, np.inf], ["small", "medium", "large"]
    table["size"] = pd.cut(table.pop("area"), bins, labels=names, right=False).astype(str)
    return table


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a grid, data set, score, size and way."""
    both = pd.concat([scores, scores.assign(size="all")])
    rows = []
    for key, group in both.groupby(["grid", "dataset", "score", "size"], sort=False):
        wide = group.pivot(index=["photo", "object"], columns="way", values="iou")
        wide = wide[group["way"].unique()]
        photos = wide.index.get_level_values("photo")
        for way in wide:
            columns = [wide[way], wide[way] - wide[FORMER], wide[way] - wide[PLAIN]]
            values = 100 * np.stack(columns, axis=1)
            _, low, high = bootstrap(values, groups=photos)
            cells = np.stack([values.mean(0), low, high], axis=1).ravel()
            rows.append((*key, way, len(wide), *cells))
    names = [
        f"{a}{b}" for a in ("miou", "over_former", "over_plain") for b in ("", "_low", "_high")
    ]
    return pd.DataFrame(rows, columns=["grid", "dataset", "score", "size", "way", "n", *names])


def choice(scores: pd.DataFrame, seed: int) -> pd.DataFrame:
    """What each change to the stage costs or adds, and how often it is chosen without a fold.

    A value is the mean over scores and data sets; the choice on all other photos is scored on the
    fold that it has not seen.
    """
    scores = scores[
        (scores["grid"] == "FluxKontext") & scores["way"].isin([*CHANGES, BILINEAR, *ADDED])
    ]
    wide = scores.pivot(index=["dataset", "score", "photo", "object"], columns="way", values="iou")
    photos = wide.index.get_level_values("photo")
    names = photos.unique()
    shuffled = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    folds = shuffled[names.get_indexer(photos)]

    def means(rows: pd.DataFrame) -> pd.Series:
        return 100 * rows.groupby(["dataset", "score"]).mean().mean()

    chosen = [means(wide[folds != at]).idxmax() for at in range(FOLDS)]
    held_out = [means(wide[folds == at])[way] for at, way in enumerate(chosen)]
    # Each data set weighs the same, as in the means.
    sizes = wide.index.get_level_values("dataset").value_counts()
    weight = len(wide) / len(sizes) / sizes[wide.index.get_level_values("dataset")].to_numpy()
    changes = 100 * wide.sub(wide[OURS], axis=0).mul(weight, axis=0)
    _, low, high = bootstrap(changes.to_numpy(), groups=photos)
    table = pd.DataFrame({"miou": means(wide), "change": changes.mean(), "low": low, "high": high})
    table["chosen_in_folds"] = [chosen.count(way) for way in table.index]
    table["held_out_of_chosen"] = np.mean(held_out)
    return table.sort_values("miou", ascending=False).reset_index()


def figure(table: pd.DataFrame) -> plt.Figure:
    """mIoU by score, and by size of the object, on Kontext's grid."""
    kontext = table[(table["grid"] == "FluxKontext") & table["way"].isin([FORMER, PLAIN, OURS])]
    coco = kontext[kontext["dataset"] == "coco"]
    panels = {
        "COCO annotations": (coco[coco["size"] == "all"], "score"),
        "RefCOCO-type referents": (
            kontext[(kontext["dataset"] == "refer") & (kontext["size"] == "all")],
            "score",
        ),
        "COCO: blurred, noisy": (
            coco[(coco["score"] == "blurred, noisy") & (coco["size"] != "all")],
            "size",
        ),
    }
    drawn, axes = plt.subplots(
        1, 3, figsize=(15, 4.5), width_ratios=[7, 7, 3], layout="constrained"
    )
    for axis, (title, (rows, along)) in zip(axes, panels.items(), strict=True):
        order = list(SCORES) if along == "score" else ["small", "medium", "large"]
        sns.pointplot(
            rows, x=along, y="miou", hue="way", order=order, dodge=0.4, linestyle="none",
            palette="colorblind", ax=axis, legend=axis is axes[0], errorbar=None,
        )  # fmt: skip
        for at, (_, way) in enumerate(rows.groupby("way", sort=False)):
            places = way.set_index(along).loc[order]
            x = np.arange(len(order)) + (at - 1) * 0.2
            axis.vlines(x, places["miou_low"], places["miou_high"], color="0.4", lw=1)
        axis.set(title=title, xlabel="", ylabel="mIoU", ylim=(0, 100))
        axis.tick_params("x", rotation=30)
    handles = axes[0].get_legend_handles_labels()
    axes[0].get_legend().remove()
    drawn.legend(*handles, loc="outside lower center", ncols=3, frameon=False)
    drawn.suptitle("From a map on Kontext's token grid to a mask of the photo; 95 % over photos")
    return drawn


def _former(maps: torch.Tensor, geometry: Geometry, image: Image.Image) -> np.ndarray:
    radius_px = max(1, round(float(np.mean(geometry.token_size_px))))
    pixels = GuidedFilter(np.asarray(image), radius_px)(_bilinear(maps, geometry)).numpy()
    return np.stack([each > threshold_otsu(each, nbins=1024) for each in pixels])


def _halved(maps: torch.Tensor, geometry: Geometry) -> np.ndarray:
    pixels = _bilinear(maps, geometry)
    return (pixels > (pixels.amin((1, 2), True) + pixels.amax((1, 2), True)) / 2).numpy()


def _bilinear(maps: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    return F.interpolate(maps[:, None].float(), geometry.image_size_px, mode="bilinear")[:, 0]


def _linear(low: float, high: float, tokens: int, pixels: int) -> torch.Tensor:
    """Instead of the stage's bicubic weights, for a grid over the whole image."""
    return F.interpolate(torch.eye(tokens)[:, None], pixels, mode="linear")[:, 0].T


def _with_sink(score: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One token of the border at twice the peak."""
    border = np.ones(score.shape, bool)
    border[1:-1, 1:-1] = False
    score = score.copy()
    score.flat[rng.choice(np.flatnonzero(border))] = 2 * score.max()
    return score


def _field(shape: tuple[int, ...], scale: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth noise in [0, 1]."""
    field = gaussian_filter(rng.standard_normal(shape), scale)
    return (field - field.min()) / np.ptp(field)


@contextmanager
def changed(constants: Mapping[str, Any]) -> Iterator[None]:
    kept = {name: getattr(stage, name) for name in constants}
    vars(stage).update(constants)
    yield
    vars(stage).update(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--grids", nargs="+", choices=GRIDS, default=list(GRIDS))
    parser.add_argument("--seed", type=int, default=0, help="of noise, sinks and folds")
    parser.add_argument("--edges", action="store_true", help="also with edges; twice as long")
    parser.add_argument("--objects", type=int, help="at most so many of a photo, drawn")
    parser.add_argument("--limit", type=int, help="photos, for a try")
    parser.add_argument("--out", type=Path, default=Path("results/mask"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    scores = scored(given)
    table = summary(scores)
    table.to_csv(given.out / "mask.csv", index=False, float_format="%.2f")
    shown = table[(table["size"] == "all") & table["way"].isin([FORMER, PLAIN, OURS])]
    print(shown.drop(columns="size").to_string(index=False, float_format="%.1f"))
    if "FluxKontext" in given.grids:
        chosen = choice(scores, given.seed)
        chosen.to_csv(given.out / "choice.csv", index=False, float_format="%.2f")
        print(chosen.to_string(index=False, float_format="%.2f"))
        figure(table).savefig(given.out / "mask.png", dpi=110)


if __name__ == "__main__":
    main()
