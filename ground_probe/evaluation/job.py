"""The unit of work: a sentence in, rows of counted pixels out."""

from __future__ import annotations

import gc
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ground_probe import metrics
from ground_probe.datasets.example import RefExample, Split
from ground_probe.editors import Editor, encoded_once, unknown_words
from ground_probe.editors.identity import unidentified
from ground_probe.errors import GroundProbeError, UnknownWordsWarning, unknown
from ground_probe.evaluation.baselines import BASELINES, CONTROLS
from ground_probe.evaluation.rows import BOXES, COUNTS, Row, error_row, row
from ground_probe.io import seed_of
from ground_probe.segmentation import compare, recipe_for, segment
from ground_probe.segmentation.methods import METHODS

Rows = list[Row]


@dataclass(frozen=True, slots=True)
class Item:
    """One sentence to evaluate: its position in the split and the keys its methods answer."""

    index: int
    image_id: str
    keys: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that turns an item into rows; travels to workers, which load the editor."""

    load: Callable[[], Any]
    split: Split
    segment: Callable[..., Any] | None
    recipe: Any
    seed: int

    def describe(self, editor: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """What of editor and recipe changes numbers and belongs in the keys; what else to record.

        An editor that cannot say its revision is like no other.
        """
        recipe, known = self.recipe, isinstance(editor, Editor)
        if known and (recipe is None or isinstance(recipe, str | Path)):
            recipe = recipe_for(editor, recipe)
        facts = {
            "model": None if editor is None else getattr(editor, "revision", "") or unidentified(),
            "dtype": _text(getattr(editor, "dtype", None)),
            "recipe": getattr(recipe, "choices", recipe),
        }
        where = {name: _text(getattr(editor, name, None)) for name in ("name", "commit", "device")}
        return facts, where | {"unknown_words": self._unknown_words(editor) if known else None}

    def _unknown_words(self, editor: Editor) -> str | None:
        """What to say, once, of the split's words that the editor does not know."""
        sentences = list(dict.fromkeys(self.split.expressions))
        strange = [words for words in unknown_words(editor.pipeline, sentences) if words]
        if not strange:
            return None
        (most, _), *_ = Counter(word for words in strange for word in words).most_common(1)
        return (
            f"the editor's tokenizer does not know words in {len(strange)} of {len(sentences)} "
            f"expressions, {most!r} the most often: nothing that it does refers to them"
        )

    def sharing(self, editor: Any) -> AbstractContextManager[None]:
        """Sentences of one image share its encoding."""
        return encoded_once(editor) if isinstance(editor, Editor) else nullcontext()

    def run(self, editor: Any, item: Item) -> Rows:
        """The rows of an item, one a method; of one that raises, error rows.

        Raises:
            RuntimeError: the device failed (any CUDA error but out of memory): nothing that this
                process computes from here on can be trusted, so it must end.
        """
        try:
            example = self.split[item.index]
        except Exception as error:
            return [error_row(key, error) for key in item.keys.values()]
        rows: Rows = []
        for names in _together(item.keys):
            start = time.perf_counter()
            masks: Mapping[str, Any]
            try:
                masks = _with_memory(partial(self._masks, editor, example, names))
            except Exception as error:
                if _device_failed(error):
                    raise
                masks = dict.fromkeys(names, error)
            seconds = time.perf_counter() - start
            rows += [
                self._counted(item.keys[name], masks.get(name), example, name, seconds)
                for name in names
            ]
        return rows

    def _masks(self, editor: Any, example: RefExample, names: Sequence[str]) -> Mapping[str, Any]:
        """The masks of methods that go together, from one call."""
        name = names[0]
        if name in BASELINES:
            return {name: BASELINES[name](editor, example)}
        function = self.segment or CONTROLS.get(name) or library_segmenter(names)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnknownWordsWarning)  # said of the whole split
            masks = function(
                editor, example.image, example.expression,
                recipe=self.recipe, seed=seed_of(example.key, self.seed),
            )  # fmt: skip
        return masks if isinstance(masks, Mapping) else {name: masks}

    def _counted(
        self, key: str, answer: Any, example: RefExample, method: str, seconds: float
    ) -> Row:
        if isinstance(answer, Exception):
            return error_row(key, answer, seconds)
        try:
            if answer is None:
                raise GroundProbeError(f"the segmenter returned no mask for the method {method!r}")
            pred, gold = np.asarray(getattr(answer, "mask", answer)), example.mask
            inter_px, union_px = metrics.counts(pred, gold)
            if example.ignored is not None:
                pred, gold = pred & ~example.ignored, gold & ~example.ignored
                inter_px, union_px = metrics.counts(pred, gold)
            boxes = metrics.box_counts(pred, gold)
        except Exception as error:
            return error_row(key, error, seconds)
        pixels = (inter_px, union_px, int(np.count_nonzero(pred)), int(np.count_nonzero(gold)))
        kept = None if method in BASELINES else pred
        counts = dict(zip((*COUNTS, *BOXES), (*pixels, *boxes), strict=True))
        return row(key, counts, seconds, kept)


def library_segmenter(names: Sequence[str]) -> Callable[..., Any]:
    """What gives the masks of the library's own methods from one forward pass.

    Raises:
        UnknownNameError: no such method.
    """
    for name in names:
        if name not in METHODS:
            raise unknown("method", name, (*METHODS, *CONTROLS, *BASELINES))
    return segment if tuple(names) == ("full",) else compare


def _together(methods: Iterable[str]) -> list[list[str]]:
    """Methods that one call answers; what fails or takes long on its own stands alone."""
    alone = [[name] for name in methods if name in BASELINES or name in CONTROLS]
    rest = [name for name in methods if name not in BASELINES and name not in CONTROLS]
    return [rest, *alone] if rest else alone


def _with_memory(compute: Callable[[], Any]) -> Any:
    """Call once more, with the device's cache emptied, when memory ran out the first time."""
    try:
        return compute()
    except torch.OutOfMemoryError:
        pass  # out of this block, for the error holds what fills the memory
    gc.collect()
    torch.cuda.empty_cache()
    return compute()


def _device_failed(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
