"""What can go wrong, one class for each thing a caller may want to catch."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class GroundProbeError(Exception):
    """Base of every error that ground_probe raises on purpose."""


class InputError(GroundProbeError, ValueError):
    """Something the user gave cannot be used; the message says what to give instead."""


class UnknownNameError(InputError):
    """A model, dataset, split, block or parameter that does not exist; see `unknown`."""


class MissingWeightsError(InputError):
    """Model weights that are neither in the given folder nor in the local cache, or not whole."""


class UnsupportedEditorError(GroundProbeError):
    """A pipeline in which the instruction cannot be followed to the image tokens."""


class SilentSiteError(GroundProbeError):
    """A site was asked for and never fired; the message names it and the likely cause."""


class NonFiniteError(GroundProbeError):
    """A state or map that is not finite; the message names its site and what to do."""


class PhraseError(InputError):
    """A phrase that is not in the instruction, or that lost its tokens on the way."""


class UnknownWordsWarning(UserWarning):
    """Words that an editor's tokenizer does not know, so that nothing it does refers to them."""


class IncompleteError(GroundProbeError):
    """A table was asked for while results it needs are missing."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> UnknownNameError:
    """The error for a name that does not exist, listing the names that do.

    >>> str(unknown("split", "tset", ["train", "val", "test"]))
    "unknown split 'tset': choose one of train, val, test (did you mean 'test'?)"
    """
    names = [str(choice) for choice in choices]
    lowered = {choice.lower(): choice for choice in names}
    close = get_close_matches(str(name).lower(), lowered, n=1)
    hint = f" (did you mean {lowered[close[0]]!r}?)" if close else ""
    return UnknownNameError(f"unknown {kind} {name!r}: choose one of {', '.join(names)}{hint}")
