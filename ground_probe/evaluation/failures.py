"""What failed so far, as far as a run must know: whether all did, and which kinds did."""

from __future__ import annotations

from ground_probe.errors import GroundProbeError
from ground_probe.evaluation.job import Rows
from ground_probe.evaluation.rows import Row

ALIKE = 5
"""Sentences that may fail alike, with nothing before them that worked, before a run gives up."""


class Failures:
    """The failures of one run; `one_traceback` each sentence's rows, then `check` them."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()
        self._sentences, self._worked = 0, False

    def one_traceback(self, rows: Rows) -> Rows:
        """The rows with a traceback where none of its kind was kept yet."""
        self._sentences += 1
        for row in rows:
            if row["status"] == "ok":
                self._worked = True
                continue
            kind = _kind(row)
            if kind in self._kinds:
                row.pop("traceback", None)
            self._kinds.add(kind)
        return rows

    def check(self, rows: Rows) -> None:
        """Raise GroundProbeError once `ALIKE` sentences failed alike and none worked."""
        if self._sentences == ALIKE and not self._worked and len(self._kinds) == 1:
            raise GroundProbeError(
                f"the first {ALIKE} sentences all failed alike ({rows[0]['error']}), so nothing "
                "more was tried: the traceback is in the rows file; once it is mended repeat the "
                "command with --retry-errors"
            )


def _kind(row: Row) -> str:
    """The class of an error and the line that raised it."""
    lines = row.get("traceback", "").splitlines()
    place = [line.strip() for line in lines if line.startswith("  File ")][-1:]
    return " ".join([row["error"].partition(":")[0], *place])
