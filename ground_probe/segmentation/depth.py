"""Depths in [0, 1] as blocks, so that one recipe serves every size of a family."""

from __future__ import annotations

from collections.abc import Sequence

from ground_probe.segmentation.recipe import Depth


def depth_of(index: int, count: int) -> float:
    """The depth of a block's middle.

    >>> depth_of(44, 57)
    0.7807017543859649
    """
    return (index + 0.5) / count


def in_depth(blocks: Sequence[str], depth: Depth) -> tuple[str, ...]:
    """The blocks in a half-open interval of the depth; the nearest one where it holds none.

    >>> in_depth(["a", "b", "c", "d"], (0.5, 1.0))
    ('c', 'd')
    """
    low, high = depth
    inside = [name for at, name in enumerate(blocks) if low <= depth_of(at, len(blocks)) < high]
    return tuple(inside) or (at_depth(blocks, (low + high) / 2),)


def at_depth(blocks: Sequence[str], depth: float) -> str:
    """The block whose middle is nearest to a depth.

    >>> at_depth(["a", "b", "c", "d"], 0.6)
    'c'
    """
    away = [abs(depth_of(at, len(blocks)) - depth) for at in range(len(blocks))]
    return blocks[away.index(min(away))]
