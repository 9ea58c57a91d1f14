"""What is kept of an editor, and what it is told: the true expression, or a control's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np

from ground_probe.datasets import DATASETS, RefExample
from ground_probe.editors import fill
from ground_probe.editors.phrases import Span
from ground_probe.errors import InputError, unknown

NEUTRAL = "the object"


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
        intervention: what disturbs the text on its way, "none" or one of `causal.INTERVENTIONS`.
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
        if self.condition not in CONDITIONS:
            raise unknown("condition", self.condition, CONDITIONS)
        steps = tuple(self.steps)
        if not steps or steps != tuple(sorted(set(steps))) or steps[0] < 0:
            raise InputError(f"steps {steps}: give denoising steps from 0 in ascending order")
        if steps[-1] >= self.num_steps:
            raise InputError(f"step {steps[-1]} is not in a schedule of {self.num_steps} steps")
        if self.tokens < 1 or self.width < 1:
            raise InputError(f"tokens={self.tokens}, width={self.width}: keep at least one of each")
        object.__setattr__(self, "steps", steps)

    def noise_seed(self, key: str) -> int:
        """The seed of an example's noise: the same in every condition."""
        return chance(key, "noise", self.seed)

    def instruction(
        self, example: RefExample, expressions: Sequence[str]
    ) -> tuple[str, Span] | None:
        """What the editor is told and where the expression lies in it.

        Args:
            example: from the split.
            expressions: of the whole split, for those of other images.

        Returns:
            None where the example does not offer this condition, as an image with one object only.
        """
        expression = CONDITIONS[self.condition](example, expressions)
        return fill(self.template, expression) if expression else None


def splits_of(dataset: str) -> tuple[str, str]:
    """The split that probes are fitted and cells are chosen on, and the one that is reported.

    Raises:
        InputError: the data set has no two splits besides its training split.
    """
    if dataset not in DATASETS:
        raise unknown("dataset", dataset, DATASETS)
    tests = [name for name in DATASETS[dataset] if name.startswith("test")]
    if "val" not in DATASETS[dataset] or not tests:
        raise InputError(
            f"{dataset} has the splits {', '.join(DATASETS[dataset])}: the study needs val to "
            "choose cells on and a test split to report"
        )
    return "val", tests[0]


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
"""What is said in place of the expression, by the control's name: itself; that of another object
of the image; a word for any object; that of another image; its own words in another order."""
