"""Cartoons: exact masks, honest expressions, and a second reader that proves each has one referent.

The reader here takes the text and the pixels' labels; it shares no code with the library's checker,
and no margins: where the checker calls an expression clear, the plain rule must agree.
"""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import dilation, footprint_rectangle

import ground_probe as gp
from ground_probe.datasets import cartoons
from ground_probe.datasets.cartoons.draw import PARTS, SUPER
from ground_probe.datasets.cartoons.words import PART_WORDS, SLIPS

KINDS_OF = {
    "person": "man woman boy girl",
    "kid": "boy girl",
    "child": "boy girl",
    "animal": "dog cat bird fish horse cow",
    "vehicle": "car bus truck",
    "one": " ".join(cartoons.NOUNS),
    "thing": "tree flower car bus truck boat bicycle house cup bottle chair lamp umbrella ball "
    "apple banana cake book clock suitcase",
} | {word: noun.name for noun in cartoons.NOUNS.values() for word in noun.words}
RELATION = (
    r"\b(to the left of|left of|to the right of|right of|next to|beside|near|behind|in front of)\b"
)
PATTERN = {
    "striped": "striped stripy stripes",
    "dotted": "dotted spotted dots polka",
    "checked": "checkered checked plaid checks squares",
}
PLACE = re.compile(
    r"\b(left|right|top|bottom|upper|lower|middle|center|front|closest|back|farthest|leftmost|rightmost)\b"
)


def spelled(expression):
    right = {slip: word for word, slip in SLIPS.items()}
    return " ".join(right.get(word, word) for word in expression.split())


def read(expression, scene):
    """The objects that the words can mean, by a plain reading."""
    text = spelled(expression)
    masks = [scene.mask(i) for i in range(len(scene.objects))]
    relation = re.search(RELATION, text)
    if relation and text[relation.end() :].strip() not in ("", "us"):
        first, second = text[: relation.start()], text[relation.end() :]
        (anchor,) = looks(second, scene)
        others = looks(first, scene) - {anchor}
        return {i for i in others if related(relation[0], scene, masks, i, anchor)}
    if order := re.search(r"\b(second|2nd|third|3rd)\b(.*)\bfrom (?:the )?(left|right)$", text):
        among = sorted(looks(order[2], scene), key=lambda i: middle(masks[i])[0])
        count = 2 if order[1] in ("second", "2nd") else 3
        return {among[count - 1] if order[3] == "left" else among[-count]}
    found = looks(text, scene)
    if re.search(r"\b(big|large|bigger|biggest)\b", text):
        return {max(found, key=lambda i: scene.objects[i].height_px)}
    if re.search(r"\b(small|little|smallest)\b", text):
        return {min(found, key=lambda i: scene.objects[i].height_px)}
    if re.search(r"\b(front|closest)\b", text):
        return {max(found, key=lambda i: scene.objects[i].base_px)}
    if re.search(r"\b(back|farthest)\b", text):
        return {min(found, key=lambda i: scene.objects[i].base_px)}
    if re.search(r"\b(middle|center)\b", text):
        return {min(found, key=lambda i: abs(middle(masks[i])[0] - scene.size_px / 2))}
    sides = {
        "left|leftmost": (-1, 0),
        "right|rightmost": (1, 0),
        "top|upper": (0, -1),
        "bottom|lower": (0, 1),
    }
    toward = np.sum(
        [way for words, way in sides.items() if re.search(rf"\b({words})\b", text)] or [(0, 0)], 0
    )
    if toward.any():
        return {max(found, key=lambda i: toward @ middle(masks[i]))}
    return found


def middle(mask):
    rows, columns = np.nonzero(mask)
    return columns.mean(), rows.mean()


def related(relation, scene, masks, i, anchor):
    if "left" in relation or "right" in relation:
        sign = -1 if "left" in relation else 1
        return sign * (middle(masks[i])[0] - middle(masks[anchor])[0]) > 0
    if relation in ("next to", "beside", "near"):
        ours, theirs = (np.argwhere(masks[j]) for j in (i, anchor))
        gap = np.maximum(ours.min(0) - theirs.max(0), theirs.min(0) - ours.max(0))
        return np.hypot(*gap.clip(0)) < 21
    common = scene.objects[i].silhouette(128, 1) & scene.objects[anchor].silhouette(128, 1)
    return common.any() and (i < anchor) == (relation == "behind")


def looks(text, scene):
    """The objects with the noun, colors, pattern and parts that the words name."""
    head, _, tail = re.sub(r"\b(in|wearing|with|without|no)\b", "|", text, count=1).partition("|")
    place = re.search(r"^ (the )?(front|back|middle|center)", tail)
    clause = "" if place else tail
    absent = bool(re.search(r"\b(without|no)\b", text))
    words = (text if place else head).split()
    nouns = next(KINDS_OF[w].split() for w in reversed(words) if w in KINDS_OF)
    color = next((w for w in words if w in cartoons.COLORS), None)
    pattern = next((p for p, named in PATTERN.items() if set(named.split()) & set(words)), None)
    tail_pattern = next(
        (p for p, named in PATTERN.items() if set(named.split()) & set(clause.split())), None
    )
    tail_color = next((w for w in clause.split() if w in cartoons.COLORS), None)
    found = set()
    for i, thing in enumerate(scene.objects):
        fits = thing.noun in nouns and color in (None, thing.color)
        fits &= {pattern, tail_pattern} <= {None, thing.pattern}
        named = parts_named(clause, thing)
        if clause and not (tail_pattern and not named and not tail_color):
            has = any(tail_color in (None, thing.parts[p]) for p in named if p in thing.parts)
            fits &= has != absent
        if fits:
            found.add(i)
    return found


def parts_named(clause, thing):
    return [p for p in thing.kind.parts if set(PART_WORDS.get(p, (p,))) & set(clause.split())]


@pytest.mark.parametrize("style", cartoons.STYLES)
@pytest.mark.parametrize("split", ["val", "test"])
def test_an_expression_means_exactly_one_object(style, split):
    examples = cartoons.load(style, split, limit=100)
    for position in range(len(examples)):
        drawn = examples.scene(position)
        assert read(drawn.expression, drawn.scene) == {drawn.target}, (position, drawn.expression)


def test_the_reader_can_fail():
    drawn = cartoons.load("cartoons", "test", limit=1).scene(0)
    assert read("thing", drawn.scene) != {drawn.target}


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32), side=st.sampled_from([64, 96, 128]))
def test_masks_are_what_is_seen(seed, side):
    """Masks do not share a pixel, and hold the labels that change when their object goes."""
    scene = cartoons.sample_scene(np.random.default_rng(seed), side)
    count = len(scene.objects)
    masks = np.stack([scene.mask(i) for i in range(count)])
    assert 2 <= count <= 6 and masks.sum(0).max() <= 1
    for i in range(count):
        with_it, without = _owners(scene), _owners(scene.without(i))
        without[without >= i] += 1  # the others' numbers, as they were
        changed = (with_it != without).reshape(side, SUPER, side, SUPER).sum((1, 3))
        assert np.array_equal(2 * changed > SUPER**2, masks[i])
        assert scene.visible(i) >= cartoons.VISIBLE
        whole = scene.objects[i].silhouette(side).sum()
        assert scene.visible(i) == (with_it == i).sum() / whole
        before, after = (s.render().astype(int) for s in (scene, scene.without(i)))
        gone = np.abs(before - after).max(-1) > 12
        assert (gone & masks[i]).sum() > 0.6 * masks[i].sum()  # the rest looks like what is behind


def _owners(scene):
    return (scene.labels.astype(int) + PARTS - 1) // PARTS - 1


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_an_edit_of_a_part_changes_its_pixels_alone(seed):
    rng = np.random.default_rng(seed)
    scene = cartoons.sample_scene(rng)
    index = int(rng.integers(len(scene.objects)))
    thing = scene.objects[index]
    part = list(thing.parts)[rng.integers(len(thing.parts))]
    edited = scene.changed(index, part=part, color="blue" if thing.parts[part] != "blue" else "red")
    differs = (scene.render() != edited.render()).any(-1)
    number = PARTS * index + list(thing.kind.parts).index(part) + 1
    touched = (scene.labels == number).reshape(128, SUPER, 128, SUPER).any((1, 3))
    assert not (differs & ~dilation(touched, footprint_rectangle((3, 3)))).any()  # the blur's reach
    assert edited.objects[index].parts[part] in ("blue", "red")
    assert np.array_equal(scene.labels, edited.labels)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_an_object_s_own_parts_differ_in_color(seed):
    for thing in cartoons.sample_scene(np.random.default_rng(seed)).objects:
        assert len(set(thing.parts.values())) == len(thing.parts)
        assert 19.9 < max(np.ptp(np.reshape(thing.box(), (2, 2)), axis=0)) < 80.1


@pytest.mark.parametrize("style", cartoons.STYLES)
def test_most_scenes_hold_a_second_object_of_the_noun(style):
    examples = cartoons.load(style, "test", limit=100)
    twins = 0
    for position in range(len(examples)):
        drawn = examples.scene(position)
        nouns = [thing.noun for thing in drawn.scene.objects]
        twins += nouns.count(nouns[drawn.target]) > 1
    assert twins >= 0.6 * len(examples)


@pytest.mark.parametrize(
    ("style", "low", "high"), [("cartoons", 3, 4.5), ("cartoons+", 3, 4.5), ("cartoonsg", 6, 10)]
)
def test_sentences_are_as_long_as_people_s(style, low, high):
    """RefCOCO has 3.5 words a sentence, RefCOCO+ 3.5 and RefCOCOg 8.4."""
    expressions = cartoons.load(style, "val", limit=300).expressions
    lengths = [len(expression.split()) for expression in expressions]
    assert low < np.mean(lengths) < high
    assert max(lengths) <= 14
    articles = np.mean(
        [expression.split()[0] in ("the", "teh", "a", "an") for expression in expressions]
    )
    assert articles == 1 if style == "cartoonsg" else articles < 0.2


def test_places_only_where_the_style_has_them():
    for style, low, high in [("cartoons", 0.4, 0.8), ("cartoons+", 0.0, 0.0)]:
        words = [
            spelled(e).replace("in front of", "")
            for e in cartoons.load(style, "val", limit=200).expressions
        ]
        assert low <= np.mean([bool(PLACE.search(text)) for text in words]) <= high


def test_every_word_is_in_the_vocabulary_and_slips_are_few():
    known, slips = cartoons.vocabulary(), 0
    for style in cartoons.STYLES:
        for expression in cartoons.load(style, "val", limit=200).expressions:
            assert set(expression.split()) <= known
            slips += spelled(expression) != expression
    assert 2 <= slips <= 30


def test_held_out_colors_and_builds_are_referred_to_in_test_only():
    for style in cartoons.STYLES:
        for split in ("train", "test"):
            examples = cartoons.load(style, split, limit=200)
            targets = [(d := examples.scene(i)).scene.objects[d.target] for i in range(200)]
            held = Counter(name for thing in targets for name in cartoons.held_out(thing))
            assert (min(held["color"], held["build"]) > 4) if split == "test" else not held


def test_examples_are_pure_functions_of_seed_and_position():
    once, again = (gp.load_split("cartoonsg", "val", limit=12, seed=3) for _ in range(2))
    other = gp.load_split("cartoonsg", "val", limit=12, seed=4)
    assert once[7].key == again[7].key and once[7].expression == again[7].expression
    assert np.array_equal(once[7].image, again[7].image)
    assert not np.array_equal(once[7].image, other[7].image)
    keys = [gp.load_split("cartoons", part, limit=20).keys for part in ("train", "val", "test")]
    assert len(set().union(*keys, once.keys, other.keys)) == 84


def test_an_example_has_distractors_and_their_expressions():
    split = gp.load_split("cartoons", "test", limit=8)
    for position in range(8):
        example, scene = split[position], split.scene(position).scene
        assert example.image.size == (128, 128) and example.mask.any()
        assert len(example.distractors) == len(example.others) == len(scene.objects) - 1
        rest = [i for i in range(len(scene.objects)) if i != split.scene(position).target]
        for index, expression in zip(rest, example.others, strict=True):
            assert not expression or read(expression, scene) == {index}, expression


def test_every_noun_draws_all_its_parts():
    for noun in cartoons.NOUNS.values():
        for build in ((0.0,) * 4, (1.0,) * 4, (0.5,) * 4):
            drawn = {part for part, _ in noun.draw(build)}
            assert drawn - set(noun.parts) <= {"hat", "bag"}
            assert set(noun.parts) <= drawn and len(noun.parts) <= PARTS
            assert noun.main in noun.named and set(noun.sometimes) <= set(noun.parts)
