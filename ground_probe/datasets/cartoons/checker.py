"""Who could be meant: read a reference against what can be seen of a scene.

Every claim about an object is true, false, or open (None): a hat that another object hides, or two
trees that differ little in size. An expression is clear only where one object fits for certain and
every other one certainly does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from ground_probe.datasets.cartoons.draw import PARTS, SUPER, Scene, label
from ground_probe.datasets.cartoons.grammar import NounPhrase, Part, Reference

MARGIN_PX = 8.0
"""Objects nearer than this along an axis are not put in an order."""
BIGGER = 1.3
"""How much taller an object has to be than all others of its kind to be called big."""
NEAR_PX = 14.0
"""Objects whose boxes are nearer than this are next to each other; from twice as far, not."""
TOUCHING = 0.05
"""The least share of an object that another hides for "behind" and "in front of"."""

_FEW_PX, _ENOUGH_PX = 3, 16
_SIDES = {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}


@lru_cache(64)
def reader(scene: Scene) -> Reader:
    """What can be seen of a scene, measured once."""
    return Reader(scene)


class Reader:
    """A reader of references who looks at the labels of a scene, one label a pixel."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        middles = np.s_[SUPER // 2 :: SUPER, SUPER // 2 :: SUPER]
        labels, owners = scene.labels[middles], scene.owners[middles]
        self.area = np.bincount(labels.ravel(), minlength=PARTS * len(scene.objects) + 1)
        places = [np.argwhere(owners == i) for i in range(len(scene.objects))]
        self.center = np.array([place.mean(0)[::-1] for place in places])
        self.low = np.array([place.min(0)[::-1] for place in places])
        self.high = np.array([place.max(0)[::-1] + 1 for place in places])
        whole = [thing.silhouette(scene.size_px, 1) for thing in scene.objects]
        size = np.array([mask.sum() for mask in whole])
        self.seen = np.array([len(place) for place in places]) / size
        common = np.array([[(a & b).sum() for b in whole] for a in whole])
        self.touching = common / np.minimum(size[:, None], size[None, :])

    def referents(self, reference: Reference) -> set[int]:
        """Every object that could be meant; none where not even one fits for certain."""
        fits = {i: self._fits(i, reference.phrase) for i in range(len(self.scene.objects))}
        if reference.relation is not None and reference.landmark is not None:
            anchors = self.referents(Reference(reference.landmark))
            if len(anchors) != 1:
                return set()
            (anchor,) = anchors
            fits.pop(anchor)
            fits = {
                i: _both(fit, self._related(i, anchor, reference.relation))
                for i, fit in fits.items()
            }
        possible = {i for i, fit in fits.items() if fit is not False}
        certain = {i for i, fit in fits.items() if fit}
        if possible != certain or not certain:
            return possible if certain else set()
        if reference.size:
            return self._by_size(certain, reference.size)
        if reference.order:
            return self._by_order(certain, *reference.order)
        return self._by_place(certain, reference.place) if reference.place else certain

    def mentions(self, reference: Reference) -> set[int]:
        """The objects that the words name: the referents and, in a relation, the landmark."""
        phrases = [reference] + ([Reference(reference.landmark)] if reference.landmark else [])
        return set().union(*map(self.referents, phrases))

    def relations(self, i: int, names: Iterable[str]) -> list[tuple[int, str]]:
        """Every (other object, relation) in which object i certainly stands."""
        others = [other for other in range(len(self.scene.objects)) if other != i]
        return [(j, name) for j in others for name in names if self._related(i, j, name)]

    def _fits(self, i: int, phrase: NounPhrase) -> bool | None:
        thing = self.scene.objects[i]
        if thing.noun not in phrase.nouns:
            return False
        fit: bool | None = True
        if phrase.color:
            fit = _both(fit, self._colored(i, thing.kind.main, phrase.color))
        if phrase.pattern:
            fit = _both(fit, thing.pattern == phrase.pattern)
        return _both(fit, self._has(i, phrase.part)) if phrase.part else fit

    def _colored(self, i: int, part: str, color: str) -> bool | None:
        thing = self.scene.objects[i]
        if thing.parts.get(part) == color:
            return True
        patterned = part == thing.kind.main and thing.pattern != "plain"
        return None if patterned and color in ("white", "gray") else False

    def _has(self, i: int, part: Part) -> bool | None:
        thing = self.scene.objects[i]
        if part.name not in thing.parts:
            if not part.absent:
                return False
            return True if self.seen[i] > 0.9 else None
        area = self.area[label(thing, i, part.name)]
        if part.absent:
            return False if area >= _ENOUGH_PX else None
        fit = self._colored(i, part.name, part.color) if part.color else True
        if part.pattern:
            fit = _both(fit, part.name == thing.kind.main and thing.pattern == part.pattern)
        if fit and area < _ENOUGH_PX:
            return None if area >= _FEW_PX or self.seen[i] < 1 else False
        return fit

    def _related(self, i: int, anchor: int, relation: str) -> bool | None:
        if relation in ("left", "right"):
            axis, sign = _SIDES[relation]
            offset = self.center[i] - self.center[anchor]
            along, across = sign * offset[axis], abs(offset[1 - axis])
            if along <= 0:
                return False
            return True if along > max(MARGIN_PX, across) else None
        touching = self.touching[i, anchor]
        if relation == "near":
            gap = np.maximum(self.low[i] - self.high[anchor], self.low[anchor] - self.high[i])
            gap_px = float(np.hypot(*gap.clip(0)))
            return True if gap_px < NEAR_PX else False if gap_px > 2 * NEAR_PX else None
        if touching == 0:
            return None if self._above_another(i, anchor) else False
        hides = i > anchor  # objects are drawn from the farthest to the nearest
        if hides != (relation == "front"):
            return False
        return True if touching > TOUCHING else None

    def _above_another(self, i: int, anchor: int) -> bool:
        """Whether the two share columns and a few rows keep them apart."""
        shared = min(self.high[i][0], self.high[anchor][0]) - max(
            self.low[i][0], self.low[anchor][0]
        )
        gap = max(self.low[i][1] - self.high[anchor][1], self.low[anchor][1] - self.high[i][1])
        return bool(shared > 0 and gap < NEAR_PX)

    def _by_size(self, among: set[int], size: str) -> set[int]:
        if len(among) < 2:
            return set()
        heights = {i: self.scene.objects[i].height_px for i in among}
        if size == "small":
            heights = {i: 1 / height for i, height in heights.items()}
        first = max(heights.values())
        return {i for i, height in heights.items() if height * BIGGER > first}

    def _by_order(self, among: set[int], count: int, side: str) -> set[int]:
        ranked = sorted(among, key=lambda i: self.center[i][0], reverse=side == "right")
        if len(ranked) < max(3, count):
            return set()
        x = [self.center[i][0] for i in ranked[: count + 1]]
        return {ranked[count - 1]} if np.abs(np.diff(x)).min() > MARGIN_PX else set()

    def _by_place(self, among: set[int], place: str) -> set[int]:
        side_px = self.scene.size_px
        if place == "middle":
            off = {i: abs(self.center[i][0] - side_px / 2) for i in among}
            if min(off.values()) > side_px / 7:
                return set()
            return {i for i in among if off[i] < min(off.values()) + 1.5 * MARGIN_PX}
        if place in ("front", "back"):
            sign = 1 if place == "front" else -1
            depth = {i: sign * self.scene.objects[i].base_px for i in among}
            near = max(depth.values()) - MARGIN_PX
            return {i for i in among if depth[i] > near} if len(among) > 1 else set()
        sides = [_SIDES[word] for word in place.split()]
        offset = {
            i: [sign * (self.center[i][axis] - side_px / 2) for axis, sign in sides] for i in among
        }
        total = {i: sum(along) for i, along in offset.items()}
        first = max(total, key=total.__getitem__)
        if min(offset[first]) < (0 if len(among) == 1 else -side_px / 10):
            return set()
        return {i for i in among if total[i] > total[first] - len(sides) * MARGIN_PX}


def _both(one: bool | None, other: bool | None) -> bool | None:
    """Whether both are true; open where that depends on an open one."""
    if one is False or other is False:
        return False
    return None if one is None or other is None else True
