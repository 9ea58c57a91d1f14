"""What is kept of an editor, and its instruction: with the true expression, or a control's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

import numpy as np

from ground_probe import datasets
from ground_probe.datasets import RefExample, Split, load_split
from ground_probe.editors import fill
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError
from ground_probe.io import seed_of

NEUTRAL = "the object"
FOLDS = 5
"""Of val's images, in which probes are fitted and cells are chosen."""
_EARLY = 3  # steps at which controls run where none are named


@dataclass(frozen=True)
class Spec:
    """Every choice of a collection.

    Args:
        template: the instruction, with `{expression}`.
        condition: what stands for the expression, one of `CONDITIONS`.
        steps: denoising steps, from 0, ascending; the run stops after the last.
        num_steps: of the schedule.
        tokens: kept of the target, of the other objects and of everything else, each at most.
        width: wider hidden states are projected to so many random directions.
        heads: keep attention head by head instead of their mean.
        visible: measure how far the image has visibly changed at each step.
        seed: of the noise; an example's noise depends on it and on the example's key.
        intervention: what disturbs the text on its way, "none" or as `causal.intervene` has it.
        at: where: "input", at one block, or at "all" of them.
    """

    template: str = "Change the color of {expression} to red"
    condition: str = "none"
    steps: tuple[int, ...] = (0, 1, 3, 6, 10, 15, 21, 27)
    num_steps: int = 28
    tokens: int = 16
    width: int = 256
    heads: bool = False
    visible: bool = False
    seed: int = 0
    intervention: str = "none"
    at: str = "all"

    def __post_init__(self) -> None:
        """Refuse what no run could give."""
        steps = tuple(self.steps)
        if not steps or steps != tuple(sorted(set(steps))) or steps[0] < 0:
            raise InputError(f"steps {steps}: give denoising steps from 0 in ascending order")
        if steps[-1] >= self.num_steps:
            raise InputError(f"step {steps[-1]} is not in a schedule of {self.num_steps} steps")
        fill(self.template, NEUTRAL)
        object.__setattr__(self, "steps", steps)

    def noise_seed(self, key: str) -> int:
        """The seed of an example's noise: the same in every condition."""
        return seed_of(key, self.seed)

    def instruction(
        self, example: RefExample, expressions: Sequence[str]
    ) -> tuple[str, Span] | None:
        """The instruction and where the expression lies in it; `expressions` are the whole split's.

        None where the example does not offer this condition, as an image with one object only.
        """
        expression = CONDITIONS[self.condition](example, expressions)
        return fill(self.template, expression) if expression else None


def splits_of(dataset: str) -> tuple[str, str]:
    """The split that probes are fitted and cells are chosen on, and the one that is reported."""
    names = datasets.splits_of(dataset)
    tests = [name for name in names if name.startswith("test")]
    if "val" not in names or not tests:
        raise InputError(
            f"{dataset} has the splits {', '.join(names)}: the study needs val to "
            "choose cells on and a test split to report"
        )
    return "val", tests[0]


def load_splits(
    dataset: str, *, root: str = "", limit: int, fit_limit: int, seed: int = 0
) -> tuple[Split, Split]:
    """The split that probes are fitted on and the one that is reported, of about `limit` examples.

    The first has `fit_limit` at most. An empty root is the hub's local cache.
    """
    at_least(FOLDS, limit=limit, fit_limit=fit_limit)
    val, test = (
        load_split(dataset, name, root=root or None, limit=most, seed=seed)
        for name, most in zip(splits_of(dataset), (min(limit, fit_limit), limit), strict=True)
    )
    if (images := len(set(val.image_ids))) < FOLDS:
        raise InputError(
            f"{len(val)} examples of {dataset} val are of {images} images and probes are fitted in "
            f"{FOLDS} folds of images: give a higher limit"
        )
    return val, test


def at_least(least: float, **numbers: float) -> None:
    """Refuse a parameter below what is needed, by its name."""
    for name, number in numbers.items():
        if number < least:
            why = ", the folds of images in which probes are fitted" if least == FOLDS else ""
            raise InputError(f"{name} is {number}: give at least {least}{why}")


def early_spec(spec: Spec, steps: Sequence[int] = ()) -> Spec:
    """The spec of the controls, which run at some of the study's steps, by default the first three.

    >>> early_spec(Spec(steps=(0, 3, 9, 27))).steps
    (0, 3, 9)
    """
    chosen = tuple(steps) or spec.steps[:_EARLY]
    if strange := sorted(set(chosen) - set(spec.steps)):
        raise InputError(
            f"control_steps {list(chosen)}: {strange} are not among steps {list(spec.steps)}"
        )
    if 0 not in chosen:
        raise InputError(
            f"steps {list(spec.steps)}, controls at {list(chosen)}: step 0 must be among both, for "
            "the noise is redrawn and the text is patched there"
        )
    return replace(spec, steps=chosen)


def chance(key: str, *use: object) -> int:
    """A seed that belongs to an example and a use of it."""
    return int(sha256("/".join(map(str, (key, *use))).encode()).hexdigest()[:8], 16)


def _other_object(example: RefExample, _: Sequence[str]) -> str | None:
    named = [other for other in example.others if other]
    return named[chance(example.key, "other") % len(named)] if named else None


def _other_image(example: RefExample, expressions: Sequence[str]) -> str | None:
    foreign = sorted(set(expressions) - {example.expression, *example.others})
    return foreign[chance(example.key, "shuffled") % len(foreign)] if foreign else None


def _word_order(example: RefExample, _: Sequence[str]) -> str | None:
    words = example.expression.split()
    if len(set(words)) < 2:
        return None
    rng = np.random.default_rng(chance(example.key, "words"))
    while (shuffled := list(rng.permutation(words))) == words:
        pass
    return " ".join(shuffled)


CONDITIONS: dict[str, Callable[[RefExample, Sequence[str]], str | None]] = {
    "none": lambda example, _: example.expression,
    "other_expression": _other_object,
    "no_expression": lambda example, _: NEUTRAL,
    "shuffled": _other_image,
    "word_order": _word_order,
}
"""What stands for the expression, by the control's name: itself; that of another object of the
image; words for any object; that of another image; its own words in another order."""
