"""Every choice of the segmenter in one frozen, hashable record that is written beside results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ground_probe.editors.editor import Editor
from ground_probe.editors.families import small_side_px
from ground_probe.errors import InputError, unknown
from ground_probe.run_record import digest, whole_file

Depth = tuple[float, float]
Head = tuple[float, int]
Streams = tuple[str, ...]
Direction = Literal["from_image", "from_text", "both"]
Words = Literal["all", "content", "instruction"]
Classifier = Literal["none", "cosine", "lda"]
Affinity = Literal["features", "attention"]
Contrasted = Literal["features", "prior", "both"]
Prior = Literal["attention", "change"]
OF_ATTENTION = frozenset({
    "prior_depth", "prior_streams", "heads", "direction", "words", "propagation", "affinity",
    "temperature",
})  # fmt: skip
"""Choices that say nothing where the prior is the predicted change."""


@dataclass(frozen=True)
class Recipe:
    """What to run and how to turn it into a mask. Calibration chooses; results carry the digest.

    Depths are half-open intervals of [0, 1]: the blocks whose middle, (index + 0.5) / blocks, lies
    inside, so that one recipe serves every size of a family.

    Args:
        template: the instruction, with one `{expression}`.
        magnets: words appended to it that draw attention from the expression's ("": none).
        step: denoising step, from 0.
        seeds: noise seeds to average over.
        contrast: another expression, or one for nothing in particular, which is subtracted ("":
            none).
        contrast_in: what it is subtracted from.
        prior_from: the attention between image and words, or how far the step's prediction of the
            edited image is from the reference, for which the whole step is computed.
        prior_depth: blocks whose attention is averaged.
        prior_streams: image tokens whose attention is averaged.
        heads: (depth of its block, number from 0) of each head that is averaged; none named: all
            those of `prior_depth`.
        direction: attention of image tokens to the words, of the words to image tokens, or both.
        words: all of the expression's, those that are no stop words, or the whole instruction's.
        spatial: weight of left, right, top, bottom, middle and ordinals, in [0, 1].
        propagation: rounds of averaging the attention over similar tokens.
        affinity: similar by features, or by the attention between image tokens of feature blocks.
        temperature: of that similarity; lower keeps to nearer neighbours.
        feature_depth: blocks whose hidden states are compared.
        feature_streams: image tokens whose hidden states are compared.
        classifier: cosine to prototypes, or a shrunk linear discriminant; "none" compares nothing,
            and the mask is the prior's alone.
        prototypes: of the background; the object has one, and the discriminant takes one of each.
        focus: power of the prior where it weighs the prototypes; higher trusts only its peak.
        rounds: how often the scores make new prototypes, at least 1.
        prior_power: power of the prior in its product with the score; 0 leaves it out.
        edges: radius, in tokens, of the filter that lets edges follow the image's; 0 for none.
        provenance: how this came about; no part of the digest.

    Raises:
        InputError: a choice that does not exist or is out of its range.

    >>> Recipe(seeds=2).digest == Recipe(seeds=2, provenance={"by": "hand"}).digest
    True
    """

    template: str = "Change the color of {expression} to red"
    magnets: str = ""
    step: int = 0
    seeds: int = 1
    contrast: str = ""
    contrast_in: Contrasted = "features"
    prior_from: Prior = "attention"
    prior_depth: Depth = (0.3, 0.8)
    prior_streams: Streams = ("noise", "reference")
    heads: tuple[Head, ...] = ()
    direction: Direction = "from_image"
    words: Words = "content"
    spatial: float = 0.0
    propagation: int = 1
    affinity: Affinity = "features"
    temperature: float = 0.1
    feature_depth: Depth = (0.5, 0.8)
    feature_streams: Streams = ("noise", "reference")
    classifier: Classifier = "cosine"
    prototypes: int = 1
    focus: float = 2.0
    rounds: int = 2
    prior_power: float = 1.0
    edges: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        hints = _hints()
        for name in _choices():
            object.__setattr__(self, name, _as(hints[name], name, getattr(self, name)))
        for name in ("prior_depth", "feature_depth"):
            depth = getattr(self, name)
            self._require(
                0 <= depth[0] < depth[1] <= 1, name, "(low, high) with 0 <= low < high <= 1"
            )
        named = all(0 <= depth <= 1 and head >= 0 for depth, head in self.heads)
        self._require(named, "heads", "(depth in [0, 1], number from 0) of each")
        for name in ("prior_streams", "feature_streams"):
            self._require(len(getattr(self, name)) > 0, name, "at least one stream")
        for name in ("seeds", "rounds", "prototypes"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("step", "propagation", "prior_power", "edges"):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("focus", "temperature"):
            self._require(getattr(self, name) > 0, name, "above 0")
        self._require(0 <= self.spatial <= 1, "spatial", "in [0, 1]")
        self._require(self.template.count("{expression}") == 1, "template", "one {expression}")

    def _require(self, holds: bool, name: str, what: str) -> None:
        if not holds:
            raise InputError(f"recipe: {name} is {getattr(self, name)!r}, expected {what}")

    @property
    def reads_features(self) -> bool:
        """Whether hidden states are compared, for the score or to carry the prior."""
        carried = self.prior_from == "attention" and self.propagation > 0
        return self.classifier != "none" or carried

    @property
    def idle(self) -> frozenset[str]:
        """Choices that change no mask beside the others."""
        idle = OF_ATTENTION if self.prior_from == "change" else frozenset()
        if not self.propagation:
            idle |= {"affinity", "temperature"}
        if self.classifier == "none":
            idle |= {"prototypes", "focus", "rounds", "prior_power"}
        return idle if self.reads_features else idle | {"feature_depth", "feature_streams"}

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
        """Read a recipe that `to_json` wrote.

        Raises:
            InputError: not a recipe, one with unknown or missing choices, or one changed by hand.
        """
        try:
            stored = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a recipe: {error}") from error
        known = {"digest", *(each.name for each in fields(cls))}
        if not isinstance(stored, dict) or set(stored) != known:
            differ = sorted(known ^ set(stored)) if isinstance(stored, dict) else "no object"
            raise InputError(f"{path} is not a recipe: unknown or missing keys: {differ}")
        written = stored.pop("digest")
        recipe = cls(**stored)
        if recipe.digest != written:
            raise InputError(
                f"{path} was changed after it was written (digest {written}, found "
                f"{recipe.digest}): build a Recipe and write it with to_json"
            )
        return recipe


def default_recipe(editor: Editor) -> Recipe:
    """The recipe that comes with the package for an editor: its family's, or the embedded one's.

    A family without one takes the plain recipe.
    """
    kontext = editor.family.name == "FluxKontext"
    name = "tiny" if kontext and small_side_px(editor.pipeline) else editor.family.name
    return _packaged(name) or plain_recipe(editor)


def plain_recipe(editor: Editor) -> Recipe:
    """`Recipe()`, less the streams that an editor's blocks do not have."""
    streams = tuple(name for name in Recipe().prior_streams if name in editor.family.streams)
    return Recipe(prior_streams=streams, feature_streams=streams)


@cache
def _packaged(name: str) -> Recipe | None:
    stored = files("ground_probe.segmentation") / "recipes" / f"{name}.json"
    return Recipe.from_json(stored) if stored.is_file() else None


def in_depth(blocks: Sequence[str], depth: Depth) -> tuple[str, ...]:
    """The blocks in an interval of the depth; the nearest one where it holds none.

    >>> in_depth(["a", "b", "c", "d"], (0.5, 1.0))
    ('c', 'd')
    """
    low, high = depth
    inside = [name for at, name in enumerate(blocks) if low <= (at + 0.5) / len(blocks) < high]
    return tuple(inside) or (at_depth(blocks, (low + high) / 2),)


def at_depth(blocks: Sequence[str], depth: float) -> str:
    """The block whose middle is nearest to a depth.

    >>> at_depth(["a", "b", "c", "d"], 0.6)
    'c'
    """
    return min(enumerate(blocks), key=lambda each: abs((each[0] + 0.5) / len(blocks) - depth))[1]


def _as(hint: Any, name: str, value: Any) -> Any:
    """A value of the annotated type; lists become tuples and whole numbers floats."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(name, value, get_args(hint))
    elif get_origin(hint) is tuple and isinstance(value, list | tuple):
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(kinds) != len(value):
            raise InputError(f"recipe: {name} holds {value!r}, expected {len(kinds)} values")
        return tuple(_as(kind, name, each) for kind, each in zip(kinds, value, strict=True))
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is not hint:
        raise InputError(f"recipe: {name} is {value!r}, expected {hint.__name__}")
    return value


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Recipe)


@cache
def _choices() -> list[str]:
    return [each.name for each in fields(Recipe) if each.compare]
