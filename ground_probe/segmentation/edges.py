"""A filter that moves the edges of maps to those of an image."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

_EPSILON = 1e-3

Maps = Float[Tensor, "maps height width"]


class GuidedFilter:
    """Makes maps locally linear in an image's colors, so that their edges agree.

    The coefficients of large windows vary slowly: they are computed on every few pixels only.

    Args:
        image: RGB.
        radius_px: of the square windows.
        device: where maps lie.

    Source: He, Sun and Tang (2013), Guided Image Filtering, the color version; He and Sun (2015),
    Fast Guided Filter.
    """

    def __init__(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        radius_px: int,
        device: str | torch.device = "cpu",
    ) -> None:
        self._every = max(1, min(radius_px // 4, *image.shape[:2]))
        guide = torch.tensor(image, device=device).permute(2, 0, 1).float() / 255
        self._guide, few = guide, self._sampled(guide)
        self._radius = round(radius_px / self._every)
        self._few, self._mean = few, self._box(few[None])[0]
        products = self._box(few[:, None] * few) - self._mean[:, None] * self._mean
        ridge = _EPSILON * torch.eye(3, device=few.device)[..., None, None]
        self._inverse = _inverse(products + ridge)

    def __call__(self, maps: Maps) -> Maps:
        """Filter maps of the image's size."""
        few = self._sampled(maps)
        averages = self._box(torch.cat([few[:, None], self._few * few[:, None]], 1))
        level, covariance = averages[:, :1], averages[:, 1:] - self._mean * averages[:, :1]
        slope = (self._inverse * covariance[:, None]).sum(2)
        offset = level - (slope * self._mean).sum(1, keepdim=True)
        lines = self._everywhere(self._box(torch.cat([slope, offset], 1)))
        return (lines[:, :3] * self._guide).sum(1) + lines[:, 3]

    def _sampled(self, values: Float[Tensor, "*some height width"]) -> Tensor:
        every = slice(self._every // 2, None, self._every)
        return values[..., every, every]

    def _box(self, values: Float[Tensor, "some channels height width"]) -> Tensor:
        reach, side = self._radius, 2 * self._radius + 1
        for axis, pad in ((-2, (0, 0, reach + 1, reach)), (-1, (reach + 1, reach))):
            sums = F.pad(values, pad + (0,) * (4 - len(pad)), mode="replicate").cumsum(axis)
            count = values.shape[axis]
            values = (sums.narrow(axis, side, count) - sums.narrow(axis, 0, count)) / side
        return values

    def _everywhere(self, lines: Float[Tensor, "maps 4 height width"]) -> Tensor:
        """Linear between sampled pixels."""
        if self._every == 1:
            return lines
        height, width = (side * self._every for side in lines.shape[-2:])
        # A sampled pixel lies at half of `every`, half a pixel off for even ones.
        shape = self._guide.shape[-2:]
        large = F.interpolate(lines, (height, width), mode="bilinear")
        missing = (0, max(0, shape[1] - width), 0, max(0, shape[0] - height))
        return F.pad(large, missing, mode="replicate")[..., : shape[0], : shape[1]]


def _inverse(matrices: Float[Tensor, "3 3 *shape"]) -> Float[Tensor, "3 3 *shape"]:
    """Of symmetric matrices, by cofactors: far cheaper than a solver's call for each pixel."""
    a, b, c = matrices
    columns = [torch.linalg.cross(*pair, dim=0) for pair in ((b, c), (c, a), (a, b))]
    return torch.stack(columns) / (a * columns[0]).sum(0)
