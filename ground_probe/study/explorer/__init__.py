"""The explorer: one self-contained page on an editor's look at an image and an expression."""

from ground_probe.study.explorer.page import Explorer, explore

__all__ = ["Explorer", "explore"]
