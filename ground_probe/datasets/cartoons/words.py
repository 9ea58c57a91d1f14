"""The words of expressions, in one place; how they follow each other is in `grammar`."""

from __future__ import annotations

from ground_probe.datasets.cartoons.noun import COLORS, NOUNS

GROUPS = {
    group: tuple(noun.name for noun in NOUNS.values() if group in noun.groups)
    for group in sorted({group for noun in NOUNS.values() for group in noun.groups})
}
"""Words for several nouns."""
PEOPLE = GROUPS["person"]

PART_WORDS = {
    "pants": ("pants", "trousers"),
    "hat": ("hat", "cap"),
    "bag": ("bag", "purse"),
    "icing": ("icing", "frosting"),
    "saucer": ("saucer", "plate"),
    "label": ("label", "sticker"),
    "trunk": ("trunk", "stem"),
    "core": ("core", "heart"),
    "rim": ("rim", "edge"),
}
"""What a part is called where that is not its name alone."""

WORN = ("shirt", "pants", "shorts", "skirt", "hat")
"""Parts that somebody is "in"."""

UNCOUNTED = ("hair", "fur", "fruit", "icing", "coffee", "mane")
"""Parts that take no article, as those that end in s."""

UNSPOKEN = ("box", "glass", "foot", "metal")
"""Parts that have a color and no word that people would use."""

PATTERN_WORDS = {
    "striped": (("striped", "stripy"), ("stripes",)),
    "dotted": (("dotted", "spotted"), ("dots", "polka dots")),
    "checked": (("checkered", "checked", "plaid"), ("checks", "squares")),
}
"""Before a noun, and behind "with"."""

SIZES = {"big": ("big", "large", "bigger", "biggest"), "small": ("small", "little", "smallest")}

PLACES = {
    "left": (("left", "far left", "leftmost"), ("on left", "on the left", "left", "far left")),
    "right": (
        ("right", "far right", "rightmost"),
        ("on right", "on the right", "right", "to the right"),
    ),
    "top": (("top", "upper"), ("at top", "at the top")),
    "bottom": (("bottom", "lower"), ("at bottom", "on the bottom", "at the bottom")),
    "middle": (("middle", "center"), ("in middle", "in the middle", "in center")),
    "front": (("front", "closest"), ("in front", "closest to us", "in the front")),
    "back": (("back", "farthest"), ("in back", "at the back", "in the back")),
    "top left": (("top left", "upper left"), ("top left", "on the top left")),
    "top right": (("top right", "upper right"), ("top right", "on the top right")),
    "bottom left": (("bottom left", "lower left"), ("bottom left", "on the bottom left")),
    "bottom right": (("bottom right", "lower right"), ("bottom right", "on the bottom right")),
}
"""A place's words before a noun, and behind it."""

ORDERS = {2: ("second", "2nd"), 3: ("third", "3rd")}

RELATIONS = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "near": ("next to", "beside", "near"),
    "behind": ("behind",),
    "front": ("in front of",),
}
PLACELESS = ("near", "behind", "front")
"""Relations that name no side of the image."""

VERBS = {name: ("standing",) for name in (*PEOPLE, "dog", "horse", "cow", "bird")}
VERBS |= {"cat": ("sitting",), **dict.fromkeys(GROUPS["vehicle"], ("parked",))}

SLIPS = {
    "left": "lft",
    "right": "rigth",
    "the": "teh",
    "guy": "gy",
    "woman": "womam",
    "shirt": "shrit",
    "with": "wiht",
    "middle": "midle",
    "closest": "closees",
    "banana": "bannana",
    "umbrella": "umbrela",
    "bottom": "botom",
    "yellow": "yelow",
    "white": "whit",
    "purple": "purpel",
    "black": "blak",
    "bicycle": "bycicle",
    "horse": "hores",
    "girl": "gril",
    "striped": "stripped",
}
"""Typing slips, as people make them now and then."""

SENSES = {word: (name,) for name, noun in NOUNS.items() for word in noun.words} | GROUPS
"""Every word that can stand for an object, with the nouns that it can mean."""


def called(part: str) -> tuple[str, ...]:
    """The words for a part."""
    return PART_WORDS.get(part, (part,))


def vocabulary() -> set[str]:
    """Every word of every expression.

    >>> {"umbrella", "rigth", "polka"} <= vocabulary()
    True
    """
    phrases = {
        *COLORS,
        *SENSES,
        *SLIPS.values(),
        "the a an in with wearing without no from that is",
    }
    phrases |= {word for noun in NOUNS.values() for part in noun.named for word in called(part)}
    for choices in (SIZES, ORDERS, RELATIONS, VERBS):
        phrases |= {phrase for words in choices.values() for phrase in words}
    for table in (PATTERN_WORDS, PLACES):
        phrases |= {phrase for pair in table.values() for words in pair for phrase in words}
    return {word for phrase in phrases for word in phrase.split()}
