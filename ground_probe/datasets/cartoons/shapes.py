"""The pieces that drawings are made of: a part, and a polygon of it.

In a polygon x runs from the middle to the right and y down. A drawing stands on y = 1 and reaches
up to about y = 0; it is as wide as it needs to be.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Outline = Float[np.ndarray, "points 2"]
Piece = tuple[str, Outline]

_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)


def mix(low: float, high: float, share: float) -> float:
    """The value that lies a share (0-1) of the way from low to high."""
    return low + (high - low) * share


def within(u: Sequence[float], *ranges: tuple[float, float]) -> list[float]:
    """Free proportions (0-1), each brought into its own range."""
    return [mix(*ends, share) for ends, share in zip(ranges, u, strict=True)]


def poly(part: str, *points: tuple[float, float]) -> Piece:
    """A polygon through the points."""
    return part, np.array(points, float)


def box(part: str, left: float, top: float, right: float, bottom: float, cut: float = 0.0) -> Piece:
    """A rectangle, its corners cut off by a length."""
    if not cut:
        return poly(part, (left, top), (right, top), (right, bottom), (left, bottom))
    return poly(
        part,
        (left + cut, top),
        (right - cut, top),
        (right, top + cut),
        (right, bottom - cut),
        (right - cut, bottom),
        (left + cut, bottom),
        (left, bottom - cut),
        (left, top + cut),
    )


def oval(part: str, x: float, y: float, across: float, down: float | None = None) -> Piece:
    """An ellipse by its center and radii; a circle where one radius is given."""
    down = across if down is None else down
    return part, np.stack([x + across * np.cos(_TURN), y + down * np.sin(_TURN)], axis=1)


def wedge(
    part: str,
    x: float,
    y: float,
    radius: float,
    start: float,
    stop: float,
    down: float | None = None,
) -> Piece:
    """A slice of an ellipse between two angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 20))
    down = radius if down is None else down
    rim = np.stack([x + radius * np.cos(angle), y + down * np.sin(angle)], axis=1)
    return part, rim if abs(stop - start) >= 180 else np.vstack([rim, [(x, y)]])


def arc(
    part: str, x: float, y: float, radius: float, start: float, stop: float, width: float
) -> Piece:
    """A band along a circle between two angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 28))
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inner = (radius - width / 2) * rim[::-1]
    return part, np.vstack([(radius + width / 2) * rim, inner]) + np.array([x, y])


def line(part: str, width: float, *points: tuple[float, float]) -> Piece:
    """A band along a path of few points, as wide everywhere."""
    path = np.array(points, float)
    steps = np.diff(path, axis=0)
    normals = np.stack([-steps[:, 1], steps[:, 0]], axis=1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    at = np.vstack([normals[:1], (normals[1:] + normals[:-1]) / 2, normals[-1:]])
    at /= np.square(at).sum(1, keepdims=True).clip(0.4)  # a mitre keeps the width at a bend
    return part, np.vstack([path + width / 2 * at, (path - width / 2 * at)[::-1]])


def both(piece: Piece) -> tuple[Piece, Piece]:
    """The piece and its mirror image."""
    part, outline = piece
    return piece, (part, outline * (-1, 1))
