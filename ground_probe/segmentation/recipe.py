"""Every choice of the segmenter in one frozen, hashable record that is written beside results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ground_probe.errors import InputError, unknown
from ground_probe.io import digest, whole_file

Depth = tuple[float, float]
Head = tuple[float, int]
Streams = tuple[str, ...]
Words = Literal["all", "content"]
Prior = Literal["attention", "change"]
States = Literal["block", "attention"]
Classifier = Literal["none", "cosine", "lda"]
Seeds = Literal["hard", "soft"]
Cut = Literal["half", "zero"]

_RANGES: Mapping[str, tuple[float, float]] = {
    "step": (0, 999), "propagation": (0, 16), "edges": (0, 8),
}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """What to run and how to turn it into a mask. Calibration chooses; results carry the digest.

    Depths are half-open intervals of [0, 1]: the blocks whose middle, (index + 0.5) / blocks, lies
    inside, so that one recipe serves every size of a family.

    Args:
        template: the instruction, with one `{expression}`.
        step: denoising step, from 0.
        prior: where to look: attention to the expression, or how far the step's prediction of the
            clean latents is from the reference. The latter needs the whole step.
        words: the tokens of the expression that count: all, or those that are no stop words.
        prior_depth: blocks whose attention is averaged.
        prior_streams: image tokens whose attention is averaged.
        heads: (depth of its block, number from 0) of each head that is averaged; none named: all
            those of `prior_depth`.
        normalize: whether each map is divided by its mean first, so that no block speaks louder
            than another; otherwise probabilities are averaged.
        level_weights: weights of a UNet's levels, from the finest; none named: equal ones.
        propagation: how often a block's attention among image tokens carries its map on.
        classifier: cosine to prototypes, or a shrunk linear discriminant; "none" compares nothing,
            and the mask is the prior's alone.
        seeds: the prior divides tokens at one half into object and background (hard), or weighs
            them (soft).
        states: what is compared: the states that blocks hand on, or what their attention returns.
        standardize: whether each channel of them is standardized over the image first.
        feature_depth: blocks whose states are compared.
        feature_streams: image tokens whose states are compared.
        product: whether the score is multiplied by the prior.
        cut: of the score at the image's size: at half of its range, or at zero, where both
            prototypes are equally near.
        edges: radius, in tokens, of the filter that lets edges follow the image's; 0 for none.
        provenance: how this came about; no part of the digest.

    Raises:
        InputError: a choice that does not exist or is out of its range.

    >>> Recipe(step=2).digest == Recipe(step=2, provenance={"by": "hand"}).digest
    True
    """

    template: str = "Change the color of {expression} to red"
    step: int = 0
    prior: Prior = "attention"
    words: Words = "all"
    prior_depth: Depth = (0.0, 1.0)
    prior_streams: Streams = ("reference",)
    heads: tuple[Head, ...] = ()
    normalize: bool = False
    level_weights: tuple[float, ...] = ()
    propagation: int = 1
    classifier: Classifier = "cosine"
    seeds: Seeds = "hard"
    states: States = "attention"
    standardize: bool = False
    feature_depth: Depth = (0.775, 0.785)
    feature_streams: Streams = ("reference",)
    product: bool = False
    cut: Cut = "zero"
    edges: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        hints = _hints()
        for name in _choices():
            object.__setattr__(self, name, _as(hints[name], name, getattr(self, name)))
        for name, (low, high) in _RANGES.items():
            self._require(low <= getattr(self, name) <= high, name, f"in [{low}, {high}]")
        for name in ("prior_depth", "feature_depth"):
            low, high = getattr(self, name)
            self._require(0 <= low < high <= 1, name, "(low, high) with 0 <= low < high <= 1")
        named = all(0 <= depth <= 1 and head >= 0 for depth, head in self.heads)
        self._require(named, "heads", "(depth in [0, 1], number from 0) of each")
        for name in ("prior_streams", "feature_streams"):
            self._require(len(getattr(self, name)) > 0, name, "at least one stream")
        weights = self.level_weights
        summing = not weights or (min(weights) >= 0 and 0 < sum(weights) < math.inf)
        self._require(summing, "level_weights", "weights of 0 or more, not all 0")
        self._require(self.template.count("{expression}") == 1, "template", "one {expression}")
        signed = self.classifier != "none" and not self.product
        self._require(
            self.cut != "zero" or signed, "cut", "'half': only compared features have a 0"
        )

    def _require(self, holds: bool, name: str, what: str) -> None:
        if not holds:
            raise InputError(f"recipe: {name} is {getattr(self, name)!r}, expected {what}")

    @property
    def compares(self) -> bool:
        """Whether features are compared."""
        return self.classifier != "none"

    @property
    def streams(self) -> Streams:
        """Image tokens that are read, for the prior or the features."""
        compared = self.feature_streams if self.compares else ()
        return tuple(dict.fromkeys((*self.prior_streams, *compared)))

    @property
    def choices(self) -> dict[str, Any]:
        """Every field that changes masks, as JSON values."""
        return json.loads(json.dumps({name: getattr(self, name) for name in _choices()}))

    @property
    def digest(self) -> str:
        """12 hexadecimal digits of the SHA-256 of the choices."""
        return digest(self.choices)

    def to_json(self, path: Path | str) -> None:
        """Write the recipe, its digest included."""
        with whole_file(Path(path)) as part:
            stored = {"digest": self.digest, **asdict(self)}
            part.write_text(json.dumps(stored, indent=2) + "\n")

    @classmethod
    def from_json(cls, path: Path | str) -> Recipe:
        """Read a recipe: one that `to_json` wrote, or a file with some of its choices.

        Choices that are not in the file take their defaults. One changed by hand is taken as it
        is: its digest is new, and its provenance says `edited` and which digest it had.

        Raises:
            InputError: no JSON object, a choice that does not exist, or one out of its range.
        """
        try:
            stored = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a recipe: {error}") from error
        if not isinstance(stored, dict):
            raise InputError(f"{path} is not a recipe: it holds no JSON object")
        return cls.from_choices(stored, str(path))

    @classmethod
    def from_choices(cls, stored: Mapping[str, Any], name: str = "recipe") -> Recipe:
        """A recipe of the given choices, the others at their defaults; see `from_json`."""
        known = [each.name for each in fields(cls)]
        for choice in stored:
            if choice not in (*known, "digest"):
                raise unknown(f"choice in {name}", choice, known)
        hints = _hints()
        given = {choice: stored[choice] for choice in known if choice in stored}
        made = {c: v if c == "provenance" else _as(hints[c], c, v) for c, v in given.items()}
        recipe = cls(**made)
        written = stored.get("digest", recipe.digest)
        if written == recipe.digest:
            return recipe
        provenance = {"edited": f"by hand, from the recipe {written}", **recipe.provenance}
        return replace(recipe, provenance=provenance)


def _as(hint: Any, name: str, value: Any) -> Any:
    """A value of the annotated type; lists become tuples and whole numbers floats."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(name, str(value), get_args(hint))
    elif get_origin(hint) is tuple and isinstance(value, list | tuple):
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) != len(value):
            raise InputError(f"recipe: {name} holds {value!r}, expected {len(kinds)} values")
        return tuple(_as(kind, name, item) for kind, item in zip(kinds, value, strict=True))
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is not hint:
        kind = getattr(hint, "__name__", str(hint))
        raise InputError(f"recipe: {name} is {value!r}, expected {kind}")
    return value


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Recipe)


@cache
def _choices() -> list[str]:
    return [each.name for each in fields(Recipe) if each.compare]
