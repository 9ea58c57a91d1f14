"""What a command says when it is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's answer, for people and for scripts.

    Args:
        text: What is printed.
        data: What `--json` prints instead.
        failure: A last line for people, where the answer is bad news; the exit code is then 2.
    """

    text: str
    data: dict | list
    failure: str = ""
