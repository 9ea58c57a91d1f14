"""Every choice of the segmenter in one frozen, hashable record that is written beside results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ground_probe.editors.editor import Editor
from ground_probe.editors.families import small_side_px
from ground_probe.errors import InputError, unknown
from ground_probe.run_record import digest, whole_file

Depth = tuple[float, float]
Streams = tuple[str, ...]
Direction = Literal["from_image", "from_text", "both"]
Words = Literal["all", "content", "instruction"]
Classifier = Literal["cosine", "lda"]
Threshold = Literal["otsu", "half"]


@dataclass(frozen=True)
class Recipe:
    """What to run and how to turn it into a mask. Calibration chooses; results carry the digest.

    Depths are half-open intervals of [0, 1]: the blocks whose middle, (index + 0.5) / blocks, lies
    inside, so that one recipe serves every size of a family.

    Args:
        template: the instruction, with one `{expression}`.
        step: denoising step, from 0.
        seeds: noise seeds to average over.
        contrast: an expression for nothing in particular, whose features are subtracted ("": none).
        prior_depth: blocks whose attention is averaged.
        prior_streams: image tokens whose attention is averaged.
        heads: of those blocks, from 0; none named: all.
        direction: attention of image tokens to the words, of the words to image tokens, or both.
        words: all of the expression's, those that are no stop words, or the whole instruction's.
        spatial: weight of left, right, top, bottom, middle and ordinals, in [0, 1].
        propagation: rounds of averaging the prior over similar tokens.
        temperature: of that similarity; lower keeps to nearer neighbours.
        feature_depth: blocks whose hidden states are compared.
        feature_streams: image tokens whose hidden states are compared.
        classifier: cosine to prototypes, or a shrunk linear discriminant.
        prototypes: of the background; the object has one, and the discriminant takes one of each.
        focus: power of the prior where it weighs the prototypes; higher trusts only its peak.
        rounds: how often the scores make new prototypes, at least 1.
        prior_power: power of the prior in its product with the score; 0 leaves it out.
        edges: radius, in tokens, of the filter that lets edges follow the image's; 0 for none.
        threshold: of the product at the image's size.
        peak: how far above the threshold a region must reach, as a share of the highest; in [0, 1).
        provenance: how this came about; no part of the digest.

    Raises:
        InputError: a choice that does not exist or is out of its range.

    >>> Recipe(seeds=2).digest == Recipe(seeds=2, provenance={"by": "hand"}).digest
    True
    """

    template: str = "Change the color of {expression} to red"
    step: int = 0
    seeds: int = 1
    contrast: str = ""
    prior_depth: Depth = (0.3, 0.8)
    prior_streams: Streams = ("noise", "reference")
    heads: tuple[int, ...] = ()
    direction: Direction = "from_image"
    words: Words = "content"
    spatial: float = 0.0
    propagation: int = 1
    temperature: float = 0.1
    feature_depth: Depth = (0.5, 0.8)
    feature_streams: Streams = ("noise", "reference")
    classifier: Classifier = "cosine"
    prototypes: int = 1
    focus: float = 2.0
    rounds: int = 2
    prior_power: float = 1.0
    edges: float = 1.0
    threshold: Threshold = "otsu"
    peak: float = 0.0
    provenance: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name in _choices():
            object.__setattr__(self, name, _as(hints[name], name, getattr(self, name)))
        for name in ("prior_depth", "feature_depth"):
            depth = getattr(self, name)
            ordered = len(depth) == 2 and 0 <= depth[0] < depth[1] <= 1
            self._require(ordered, name, "(low, high) with 0 <= low < high <= 1")
        for name in ("prior_streams", "feature_streams"):
            self._require(len(getattr(self, name)) > 0, name, "at least one stream")
        for name in ("seeds", "rounds", "prototypes"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("step", "propagation", "prior_power", "edges"):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        for name in ("focus", "temperature"):
            self._require(getattr(self, name) > 0, name, "above 0")
        self._require(0 <= self.spatial <= 1, "spatial", "in [0, 1]")
        self._require(0 <= self.peak < 1, "peak", "in [0, 1)")
        self._require(self.template.count("{expression}") == 1, "template", "one {expression}")

    def _require(self, holds: bool, name: str, what: str) -> None:
        if not holds:
            raise InputError(f"recipe: {name} is {getattr(self, name)!r}, expected {what}")

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
    """The recipe that comes with the package for an editor: its family's, or the embedded one's."""
    embedded = small_side_px(editor.pipeline) is not None
    name = "tiny" if embedded else editor.family.name
    stored = files("ground_probe.segmentation") / "recipes" / f"{name}.json"
    return Recipe.from_json(stored) if stored.is_file() else Recipe()


def in_depth(blocks: Sequence[str], depth: Depth) -> tuple[str, ...]:
    """The blocks in an interval of the depth; the nearest one where it holds none.

    >>> in_depth(["a", "b", "c", "d"], (0.5, 1.0))
    ('c', 'd')
    """
    middle = {name: (at + 0.5) / len(blocks) for at, name in enumerate(blocks)}
    inside = tuple(name for name in blocks if depth[0] <= middle[name] < depth[1])
    return inside or (min(blocks, key=lambda name: abs(middle[name] - sum(depth) / 2)),)


def _as(hint: Any, name: str, value: Any) -> Any:
    """A value of the annotated type; lists become tuples and whole numbers floats."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise unknown(name, value, get_args(hint))
    elif get_origin(hint) is tuple and isinstance(value, list | tuple):
        return tuple(_as(get_args(hint)[0], name, each) for each in value)
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is not hint:
        raise InputError(f"recipe: {name} is {value!r}, expected {hint.__name__}")
    return value


def _choices() -> list[str]:
    return [each.name for each in fields(Recipe) if each.compare]
