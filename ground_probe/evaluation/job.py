"""The unit of work: sentences of whole images in, rows of counted pixels out."""

from __future__ import annotations

import gc
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from ground_probe import metrics
from ground_probe.datasets.example import RefExample, Split
from ground_probe.errors import GroundProbeError, UnknownWordsWarning, unknown
from ground_probe.evaluation.baselines import BASELINES, CONTROLS
from ground_probe.evaluation.identity import UNIDENTIFIED
from ground_probe.evaluation.rows import BOXES, COUNTS, Row, error_row, row
from ground_probe.io import seed_of

Rows = list[Row]


@dataclass(frozen=True, slots=True)
class Item:
    """One sentence to evaluate: its position in the split and the keys its methods answer."""

    index: int
    image_id: str
    keys: Mapping[str, str]


Chunk = tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """Everything that turns an item into rows; travels to workers, which load the editor."""

    load: Callable[[], Any]
    split: Split
    segment: Callable[..., Any] | None
    recipe: Any
    seed: int
    keep_masks: bool = True

    def describe(self, editor: Any) -> dict[str, Any]:
        """What of the editor and the recipe changes numbers, and belongs in the keys."""
        recipe = self.recipe
        if editor is not None and (recipe is None or isinstance(recipe, str | Path)):
            from ground_probe.segmentation import recipe_for

            recipe = recipe_for(editor, recipe)
        return {
            "model": _revision(editor),
            "dtype": _text(getattr(editor, "dtype", None)),
            "recipe": getattr(recipe, "choices", recipe),
        }

    def where(self, editor: Any) -> dict[str, Any]:
        """What of the editor is worth recording, though no number should depend on it."""
        known = {name: _text(getattr(editor, name, None)) for name in ("name", "commit", "device")}
        return known | {"unknown_words": self._unknown_words(editor)}

    def _unknown_words(self, editor: Any) -> str | None:
        """What to say, once, of the split's words that the editor does not know."""
        if not hasattr(editor, "pipeline"):
            return None
        from ground_probe.editors import unknown_words

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
        """Sentences of one image share its encoding; what needs no editor needs no torch."""
        if not hasattr(editor, "pipeline"):
            return nullcontext()
        from ground_probe.editors import encoded_once

        return encoded_once(editor)

    def run(self, editor: Any, item: Item) -> Rows:
        """The rows of an item, one a method; of one that raises, error rows.

        Raises:
            RuntimeError: the device failed (any CUDA error but out of memory): nothing that this
                process computes from here on can be trusted, so it must end.
        """
        start = time.perf_counter()
        try:
            example = self.split[item.index]
        except Exception as error:
            return _failed(item.keys.values(), error, start)
        rows: Rows = []
        for names in _together(item.keys):
            start = time.perf_counter()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", UnknownWordsWarning)  # said of the whole split
                    masks = _with_memory(partial(self._masks, editor, example, names))
            except Exception as error:
                rows += _failed([item.keys[name] for name in names], error, start)
                continue
            seconds = time.perf_counter() - start
            rows += [
                self._counted(item.keys[name], masks.get(name), example, name, seconds)
                for name in names
            ]
        return rows

    def _counted(
        self, key: str, answer: Any, example: RefExample, method: str, seconds: float
    ) -> Row:
        try:
            if isinstance(answer, GroundProbeError):
                raise answer
            if answer is None:
                raise GroundProbeError(f"the segmenter returned no mask for the method {method!r}")
            pred, gold = np.asarray(getattr(answer, "mask", answer)), example.mask
            inter_px, union_px = metrics.counts(pred, gold)
            if example.ignored is not None:
                pred, gold = pred & ~example.ignored, gold & ~example.ignored
                inter_px, union_px = metrics.counts(pred, gold)
            boxes = metrics.box_counts(pred, gold)
        except GroundProbeError as error:
            return error_row(key, error, seconds)
        pixels = (inter_px, union_px, int(np.count_nonzero(pred)), int(np.count_nonzero(gold)))
        kept = pred if self.keep_masks and method not in BASELINES else None
        counts = dict(zip((*COUNTS, *BOXES), (*pixels, *boxes), strict=True))
        return row(key, counts, seconds, kept)

    def _masks(self, editor: Any, example: RefExample, names: Sequence[str]) -> Mapping[str, Any]:
        """The masks of methods that go together, from one call."""
        if names[0] in BASELINES:
            return {names[0]: BASELINES[names[0]](editor, example)}
        given = (editor, example.image, example.expression)
        how = {"recipe": self.recipe, "seed": seed_of(example.key, self.seed)}
        if names[0] in CONTROLS and self.segment is None:
            return {names[0]: CONTROLS[names[0]](*given, **how)}
        masks = (self.segment or library_segmenter(names))(*given, **how)
        return masks if isinstance(masks, Mapping) else {names[0]: masks}


def library_segmenter(names: Sequence[str]) -> Callable[..., Any]:
    """What gives the masks of the library's own methods from one forward pass.

    Raises:
        UnknownNameError: no such method.
    """
    from ground_probe.segmentation import compare, segment
    from ground_probe.segmentation.methods import METHODS

    for name in names:
        if name not in METHODS:
            raise unknown("method", name, (*METHODS, *CONTROLS, *BASELINES))
    return segment if tuple(names) == ("full",) else compare


def _together(methods: Iterable[str]) -> list[list[str]]:
    """Methods that one call answers; what fails or takes long on its own stands alone."""
    alone = [[name] for name in methods if name in BASELINES or name in CONTROLS]
    rest = [name for name in methods if name not in BASELINES and name not in CONTROLS]
    return [rest, *alone] if rest else alone


def _failed(keys: Iterable[str], error: Exception, start: float) -> Rows:
    """Error rows; a failed device is raised on."""
    if _device_failed(error):
        raise error
    return [error_row(key, error, time.perf_counter() - start) for key in keys]


def chunks(items: Sequence[Item], sentences: int) -> Iterator[Chunk]:
    """Group items into chunks of about `sentences`, never dividing an image.

    >>> items = [Item(i, image, {}) for i, image in enumerate("aaabcc")]
    >>> [[item.index for item in chunk] for chunk in chunks(items, 2)]
    [[0, 1, 2], [3, 4, 5]]
    """
    images: dict[str, list[Item]] = {}
    for item in items:
        images.setdefault(item.image_id, []).append(item)
    chunk: list[Item] = []
    for image in images.values():
        chunk += image
        if len(chunk) >= sentences:
            yield tuple(chunk)
            chunk = []
    if chunk:
        yield tuple(chunk)


def _with_memory(compute: Callable[[], Any]) -> Any:
    """Call once more, with the device's cache emptied, when memory ran out the first time."""
    try:
        return compute()
    except Exception as error:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
    gc.collect()
    torch.cuda.empty_cache()
    return compute()


def _device_failed(error: BaseException) -> bool:
    torch = sys.modules.get("torch")
    if torch is None or isinstance(error, torch.OutOfMemoryError):
        return False
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def _revision(editor: Any) -> str | None:
    """What tells an editor from every other; one that cannot say it is like no other."""
    if editor is None:
        return None
    return getattr(editor, "revision", "") or f"{UNIDENTIFIED}{uuid4().hex[:16]}"


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
