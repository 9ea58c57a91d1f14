"""Outlines that drawings are made of: polygons, x from the middle to the right, y down.

A drawing stands on y = 1 and reaches up to about y = 0; it is as wide as it needs to be.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Outline = Float[np.ndarray, "points 2"]

_TURN = np.linspace(0, 2 * np.pi, 28, endpoint=False)


def mix(low: float, high: float, share: float) -> float:
    """The value that lies a share (0-1) of the way from low to high."""
    return low + (high - low) * share


def poly(*points: tuple[float, float]) -> Outline:
    """A polygon through the points."""
    return np.array(points, float)


def box(left: float, top: float, right: float, bottom: float, cut: float = 0.0) -> Outline:
    """A rectangle, its corners cut off by a length."""
    if not cut:
        return poly((left, top), (right, top), (right, bottom), (left, bottom))
    return poly(
        (left + cut, top),
        (right - cut, top),
        (right, top + cut),
        (right, bottom - cut),
        (right - cut, bottom),
        (left + cut, bottom),
        (left, bottom - cut),
        (left, top + cut),
    )


def oval(x: float, y: float, across: float, down: float | None = None) -> Outline:
    """An ellipse by its center and radii; a circle where one radius is given."""
    down = across if down is None else down
    return np.stack([x + across * np.cos(_TURN), y + down * np.sin(_TURN)], axis=1)


def wedge(
    x: float, y: float, radius: float, start: float, stop: float, down: float | None = None
) -> Outline:
    """A slice of an ellipse between two angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 20))
    rim = np.stack(
        [x + radius * np.cos(angle), y + (radius if down is None else down) * np.sin(angle)], axis=1
    )
    return rim if abs(stop - start) >= 180 else np.vstack([rim, [(x, y)]])


def arc(x: float, y: float, radius: float, start: float, stop: float, width: float) -> Outline:
    """A band along a circle between two angles in degrees, clockwise from the right."""
    angle = np.radians(np.linspace(start, stop, 28))
    rim = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inner = (radius - width / 2) * rim[::-1]
    return np.vstack([(radius + width / 2) * rim, inner]) + np.array([x, y])


def line(width: float, *points: tuple[float, float]) -> Outline:
    """A band along a path of few points, as wide everywhere."""
    path = np.array(points, float)
    steps = np.diff(path, axis=0)
    normals = np.stack([-steps[:, 1], steps[:, 0]], axis=1)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    at = np.vstack([normals[:1], (normals[1:] + normals[:-1]) / 2, normals[-1:]])
    at /= np.square(at).sum(1, keepdims=True).clip(0.4)  # a mitre keeps the width at a bend
    return np.vstack([path + width / 2 * at, (path - width / 2 * at)[::-1]])


def mirrored(outline: Outline) -> Outline:
    """The outline with left and right exchanged."""
    return outline * (-1, 1)


def both(outline: Outline) -> list[Outline]:
    """The outline and its mirror image."""
    return [outline, mirrored(outline)]
