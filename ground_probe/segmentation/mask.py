"""From maps on the token grid to masks of the image: the last stage of every method.

1. `clean`: tokens that stand alone, such as attention sinks, are brought back into the range of
   their neighbors; noise is smoothed as far as there is any; a map without one sharp edge is
   sharpened.
2. `cut`: half of the range, or zero where the score has one; regions that stay far below the
   highest are left out.
3. `enlarge`: bicubic interpolation, and what is above the cut is the mask. With `edges`, a guided
   filter moves the map's edges to the image's first: it pays on flat drawings, not on photos.

What the steps are worth on photos, with intervals: `benchmarks/mask.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from scipy.ndimage import generate_binary_structure, label
from torch import Tensor

from ground_probe import metrics
from ground_probe.errors import InputError
from ground_probe.geometry import Geometry
from ground_probe.images import to_rgb
from ground_probe.segmentation.edges import GuidedFilter
from ground_probe.segmentation.recipe import Cut, Recipe

Maps = Float[Tensor, "maps rows cols"]
Masks = Bool[np.ndarray, "maps height width"]

_PEAK = 0.3  # of the way from the cut to the highest, for a region to stay
_SHARP, _BLURRED = 0.6, 0.4  # largest step between neighbors, of the range
_LONE = 1.7  # a point blurred by a token is 1.65 times as high as its neighbors
_NOISE = 1.0  # times the noise, that is smoothed
_STANDS = 8  # times the noise that a map of noise alone spans
_SLOPE = -0.75  # of the bicubic kernel at one token
_STRIP_PX = 2**20
_WORK_PX = 2**20
_FLAT = 1e-6  # range of a map whose highest is 1, below which it is rounding


def to_mask(
    score: Float[np.ndarray, "rows cols"], image: Image.Image, recipe: Recipe | None = None
) -> Bool[np.ndarray, "height width"]:
    """Turn any map of where something is in an image into a mask, as the segmenter does.

    ```python
    mask = gp.to_mask(trace.attention[site].mean(0)[reference].sum(-1).view(64, 64), image)
    ```

    The object is where the map is above half of its range, or above zero if the recipe cuts there,
    as it does for scores that compare. Lone tokens far above all of their
    neighbors, such as attention sinks, do not set that range; noise, blur and lower regions
    elsewhere are reckoned with. A map that is the same everywhere gives an empty mask.

    Args:
        score: on any grid of tokens over the whole image, higher where the object is; any scale.
            An array or a tensor of any device, where it is then computed.
        image: of any size and mode; only its size counts where the recipe follows no edges.
        recipe: its `cut` and `edges` count; None for half of the range and no edges.

    Raises:
        InputError: the score is no map of rows and columns, or holds values that are not finite.

    >>> corner = np.zeros((4, 4))
    >>> corner[:2, :2] = 1
    >>> mask = to_mask(corner, Image.new("RGB", (80, 40)))
    >>> mask.shape, round(float(mask.mean()), 2)
    ((40, 80), 0.25)
    """
    if not isinstance(image, Image.Image):
        raise InputError(f"image is {type(image).__name__}, expected a PIL image: Image.open(path)")
    maps = score if isinstance(score, Tensor) else torch.as_tensor(metrics.as_array(score))
    if maps.ndim != 2 or not maps.numel():
        raise InputError(
            f"score has shape {tuple(maps.shape)}, expected (rows, cols) of the token grid: for "
            "tokens in a row, score.reshape(rows, cols)"
        )
    if maps.is_complex() or not maps.isfinite().all():
        raise InputError("score holds values that are not finite numbers: a mask would be a guess")
    geometry = Geometry((image.height, image.width), tuple(maps.shape))
    cut, edges = (recipe.cut, recipe.edges) if recipe else ("half", 0.0)
    return to_masks(maps[None], geometry, image, cut=cut, edges=edges)[0]


def to_masks(
    scores: Maps,
    geometry: Geometry,
    image: Image.Image | Sequence[Image.Image] | None = None,
    *,
    cut: Cut = "half",
    edges: float = 0.0,
) -> Masks:
    """Masks of several maps over an image, or images of one size, computed where the maps lie.

    Args:
        scores: on the token grid, higher where the object is; any scale, finite.
        geometry: how the image lies on the grid; pixels outside of it are in no mask.
        image: needed for its edges only; one for all maps, or one for each.
        cut: "half" of each map's range, or its "zero".
        edges: radius, in tokens, of the filter that moves edges to the image's; 0 for none.
    """
    scores = scores if scores.is_floating_point() else scores.float()
    scores = scores - scores.amin((1, 2), keepdim=True) if cut == "half" else scores
    scores = (scores / scores.abs().amax((1, 2), keepdim=True).clamp_min(1e-30)).float()
    maps = above_cut(clean(scores), cut)
    masks = np.empty((len(maps), *geometry.image_size_px), bool)
    if edges:
        if image is None:
            raise InputError(f"edges={edges:g} follow an image's: give the image")
        for mask, pixels in zip(masks, along_edges(maps, geometry, image, edges, cut), strict=True):
            np.greater(pixels, 0, out=mask)
        return masks & inside(geometry)
    for strip, pixels in enlarge(maps, geometry):
        masks[:, strip] = (pixels > 0).cpu().numpy()
    return masks


def clean(maps: Maps) -> Maps:
    """Maps without lone tokens, noise and blur, as far as they have any; others stay as they are.

    - A token further from the background (the median, or the lowest where the object covers more
      than half) than all of its eight neighbors, by more than blur can make it, is brought back
      to the nearest of them, unless nothing else then stands above half and above the noise: an
      object may be as small as a token.
    - Wiener's filter in windows of three tokens; the noise is the median second difference both
      ways, which is 0 where most of a map is flat.
    - Unsharp masking where no two neighbors differ by as much as an edge makes them: blur makes a
      small object both lower and wider than it is.
    """
    noise = _median(_padded(maps, 1).diff(2, 1).diff(2, 2).abs() / 6) / 0.6745

    nearest = maps.clamp(-_highest_neighbor(-maps), _highest_neighbor(maps))
    (low, high), middle = _range(nearest), _median(maps)
    ground = torch.where(middle > (low + high) / 2, low, middle)
    lone = (maps - ground).abs() > _LONE * (nearest - ground).abs()
    tamed = torch.where(lone, nearest, maps)
    top = F.one_hot(maps.flatten(1).argmax(1), maps[0].numel()).view_as(maps).float()
    top = F.max_pool2d(top[:, None], 3, 1, 1)[:, 0] > 0
    low, high = _range(tamed)
    stands = tamed > torch.maximum((low + high) / 2, low + _STANDS * noise)
    maps = torch.where(top & ~(stands & ~top).any(2, True).any(1, True), maps, tamed)

    mean = F.avg_pool2d(_padded(maps, 1), 3, 1)
    variance = F.avg_pool2d(_padded(maps.square(), 1), 3, 1) - mean.square()
    variance = variance.clamp_min(1e-12)
    maps = mean + (1 - (_NOISE * noise).square() / variance).clamp_min(0) * (maps - mean)

    low, high = _range(maps)
    steps = [maps.diff(dim=axis).abs().flatten(1) for axis in (1, 2)]
    steepest = F.pad(torch.cat(steps, 1), (0, 1)).amax(1)[:, None, None] / (high - low)
    amount = ((_SHARP - steepest.nan_to_num(1)) / (_SHARP - _BLURRED)).clamp(0, 1)
    blurred = _padded(maps, 2)
    for _ in range(4):  # 1 4 6 4 1 both ways
        blurred = F.avg_pool2d(blurred, 2, 1)
    return (maps + amount * (maps - blurred)).maximum(low)


def above_cut(maps: Maps, cut: Cut = "half") -> Maps:
    """Maps shifted and scaled so that the cut is 0 and the highest 1, without low regions."""
    low, high = _range(maps)
    level = (low + high) / 2 if cut == "half" else torch.zeros_like(high)
    maps = (maps - level) / (high - level).abs().clamp_min(1e-12)
    maps = maps.masked_fill(high - low < _FLAT, -1)
    values = maps.cpu().numpy()
    regions, count = label(values > 0, _WITHIN_MAPS)
    stays = np.zeros(count + 1, bool)
    stays[regions[values > _PEAK]] = True
    low = torch.from_numpy((regions > 0) & ~stays[regions])
    return maps.masked_fill(low.to(maps.device), -0.5)


def enlarge(maps: Maps, geometry: Geometry) -> Iterator[tuple[slice, Tensor]]:
    """Maps at the image's size, bicubic, strip by strip; 0 outside the box."""
    x0, y0, x1, y1 = geometry.box
    height, width = geometry.image_size_px
    rows = _cubic(y0, y1, maps.shape[1], height).to(maps.device)
    wide = maps @ _cubic(x0, x1, maps.shape[2], width).to(maps.device).T
    step = max(1, _STRIP_PX // (width * len(maps)))
    for top in range(0, height, step):
        strip = slice(top, min(top + step, height))
        yield strip, rows[strip] @ wide


def along_edges(
    maps: Maps,
    geometry: Geometry,
    image: Image.Image | Sequence[Image.Image],
    edges: float,
    cut: Cut = "half",
) -> Iterator[Float[np.ndarray, "height width"]]:
    """Maps at the image's size, one by one, their edges moved to the image's; the cut is 0.

    The filter works at no more than about a megapixel. It lowers small objects: half is taken
    again.
    """
    height, width = geometry.image_size_px
    shrink = min(1.0, (_WORK_PX / (height * width)) ** 0.5)
    size = max(1, round(height * shrink)), max(1, round(width * shrink))
    y, x = size[0] / height, size[1] / width
    x0, y0, x1, y1 = geometry.box
    work = Geometry(size, geometry.grid, box=(x0 * x, y0 * y, x1 * x, y1 * y))
    radius_px = max(1, round(edges * float(np.mean(work.token_size_px))))
    images = [image] * len(maps) if isinstance(image, Image.Image) else image
    there, last = inside(work), None
    for each, image in zip(maps, images, strict=True):
        if image is not last:
            small = to_rgb(image).resize(size[::-1], Image.Resampling.BOX)
            follow, last = GuidedFilter(np.asarray(small), radius_px, maps.device), image
        large = torch.cat([strip for _, strip in enlarge(each[None], work)], 1)
        soft = follow(large)[0].cpu().numpy()
        if cut == "half" and there.any():
            soft -= (soft[there].min() + soft[there].max()) / 2
        yield np.asarray(Image.fromarray(soft).resize((width, height), Image.Resampling.BILINEAR))


def inside(geometry: Geometry) -> Bool[np.ndarray, "height width"]:
    """The pixels whose centers the token grid covers."""
    x0, y0, x1, y1 = geometry.box
    y, x = (np.arange(side) + 0.5 for side in geometry.image_size_px)
    return np.outer((y0 <= y) & (y < y1), (x0 <= x) & (x < x1))


_WITHIN_MAPS = np.zeros((3, 3, 3), bool)  # neighbors are those in a row or column of one map
_WITHIN_MAPS[1] = generate_binary_structure(2, 1)


def _padded(maps: Maps, by: int) -> Tensor:
    return F.pad(maps, (by,) * 4, mode="replicate")


def _highest_neighbor(maps: Maps) -> Maps:
    padded = F.pad(maps, (1,) * 4, value=-torch.inf)
    rows = torch.maximum(padded[:, :-2], padded[:, 2:])
    beside = torch.maximum(padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    return torch.maximum(F.max_pool2d(rows, (1, 3), 1), beside)


def _median(maps: Maps) -> Tensor:
    return maps.flatten(1).median(1).values[:, None, None]


def _range(maps: Maps) -> tuple[Tensor, Tensor]:
    return maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)


@lru_cache(32)  # images of a data set share a few sizes
def _cubic(low: float, high: float, tokens: int, pixels: int) -> Float[Tensor, "pixels tokens"]:
    """Weights of tokens at pixels' centers, as in torch; the border is repeated."""
    center = torch.arange(pixels, dtype=torch.float64)[:, None] + 0.5
    position = ((center - low) * (tokens / (high - low)) - 0.5).clamp(-0.5, tokens - 0.5)
    away = (position - torch.arange(-2, tokens + 2)).abs()
    near = (_SLOPE + 2) * away**3 - (_SLOPE + 3) * away**2 + 1
    far = _SLOPE * (away**3 - 5 * away**2 + 8 * away - 4)
    weight = torch.where(away < 1, near, torch.where(away < 2, far, 0))
    weight[:, 2] += weight[:, :2].sum(1)
    weight[:, -3] += weight[:, -2:].sum(1)
    return (weight[:, 2:-2] * ((low <= center) & (center < high))).float()
