from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import ground_probe as gp
from ground_probe import cli, testing
from ground_probe.errors import InputError, PhraseError
from ground_probe.study.explorer import explore
from ground_probe.study.explorer.cells import (
    CELLS,
    DIRECTIONS,
    LeadingDirections,
    coarser,
    pool,
    spread,
)
from ground_probe.study.explorer.gather import HEADS, SITES, gather
from ground_probe.study.explorer.page import packed, render

EXPRESSION = "the red circle"


@pytest.fixture(scope="module")
def editor():
    return gp.load_editor(testing.kontext())


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def truth():
    mask = np.zeros((48, 64), bool)
    mask[12:30, 40:60] = True
    return mask


@pytest.fixture(scope="module")
def views(editor, image, truth):
    expressions = [EXPRESSION, "the blue square"]
    given = {"truths": [truth, None], "edit_steps": 2}
    return gather(editor, image, expressions, (0, 2), seed=0, **given)


@pytest.fixture(scope="module")
def view(views):
    return views[0]


def data(html: str) -> dict:
    """What the page's script reads."""
    text = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)[1]
    return json.loads(text)


def unpacked(part: dict, sites: int) -> np.ndarray:
    low, high = (np.frombuffer(base64.b64decode(part[name]), "<f4") for name in ("low", "high"))
    levels = np.frombuffer(base64.b64decode(part["bytes"]), np.uint8).reshape(sites, -1)
    return low[:, None] + levels / 255 * (high - low)[:, None]


def test_attention_is_that_of_a_trace(view, editor, image):
    taken = gp.trace(editor, image, view.instruction, steps=(2,), blocks=view.blocks[1])
    maps = taken.attention[view.blocks[1], 2].mean(0)
    for stream, found in zip(view.streams, view.attention[1, 1], strict=True):
        expected = maps[taken.image_tokens(stream)].T.numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert view.sigmas == pytest.approx((1.0, taken.sigmas[2]))


def test_the_expressions_own_tokens_are_marked(view):
    # The recipe's template may hold words that this tokenizer does not know.
    pairs = zip(view.tokens, view.instruction.split(), strict=True)
    assert all(token in (word, "<unk>") for token, word in pairs)
    assert [view.tokens[i] for i in view.own] == ["the", "red", "circle"]


def test_features_are_cosines_of_standardized_states():
    hidden = torch.randn(5 * 4, 7, generator=torch.Generator().manual_seed(0)) * 9 + 3
    rows = LeadingDirections((5, 4), (5, 4))(hidden)  # 20 rows, 20 directions: nothing is lost
    standard = (hidden - hidden.mean(0)) / hidden.std(0)
    expected = torch.nn.functional.cosine_similarity(standard[:, None], standard[None], dim=-1)
    torch.testing.assert_close(rows @ rows.T, expected, atol=1e-4, rtol=0)


def test_the_share_that_is_held_is_a_share(view):
    assert view.features.shape == (4, 2, 2, 8 * 8, DIRECTIONS)
    assert view.features.dtype == view.by_head.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(view.features, axis=-1), 1, rtol=1e-5)
    assert ((view.held > 0.5) & (view.held <= 1 + 1e-5)).all()


def test_a_coarser_grid_by_hand():
    values = torch.arange(8.0)[None]
    assert pool(values, (2, 4), (1, 2)).tolist() == [[2.5, 4.5]]
    assert pool(torch.tensor([[1.0, 2.0]]), (1, 2), (2, 4)).tolist() == [[1, 1, 2, 2, 1, 1, 2, 2]]


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 1024))
def test_a_coarser_grid_fits_and_is_no_finer(rows, cols, cells):
    found = coarser((rows, cols), cells)
    assert found[0] * found[1] <= cells
    assert 1 <= found[0] <= rows and 1 <= found[1] <= cols


@given(st.integers(1, 99), st.integers(2, 99))
def test_blocks_are_spread_from_the_first_to_the_last(blocks, count):
    found = spread(range(blocks), count)
    assert len(set(found)) == len(found) == min(blocks, count)
    assert {found[0], found[-1]} == {0, blocks - 1}


def test_the_page_carries_the_numbers(view):
    page = data(render([view], "about").html)
    for name, values in (("attention", view.attention), ("byHead", view.by_head)):
        maps = values.reshape(-1, 64)
        reach = np.ptp(maps, axis=1, keepdims=True)
        error = np.abs(unpacked(page["views"][0][name], len(maps)) - maps)
        assert (error <= reach / 255 * 0.51).all()
    width, height = page["size"]
    for name, mask in (("mask", view.mask), ("truth", view.truth)):
        bits = base64.b64decode(page["views"][0][name]["bits"])
        bits = np.unpackbits(np.frombuffer(bits, np.uint8))[: width * height]
        assert (bits.reshape(height, width) == mask).all()


def test_a_constant_map_stays_constant():
    part = packed(np.full((1, 4), 0.25, np.float32))
    assert (unpacked(part, 1) == 0.25).all()


def test_the_page_needs_nothing_else(view):
    page = render([view], "about").html
    assert "default-src 'none'" in page  # a browser refuses the network
    assert not re.search(r"https?://|@import|<link", page)
    assert set(re.findall(r'src="([^,]{0,30})', page)) == {"data:image/jpeg;base64"}


def test_what_a_user_gives_is_escaped(view):
    bad = '</script><script>alert("x")</script>&<b>'
    hostile = replace(view, expression=bad, instruction=bad, tokens=(bad, *view.tokens[1:]))
    for text in (render([hostile], bad).html, render([hostile], bad)._repr_html_()):
        assert "<b>" not in text and "alert(" not in re.sub(r"&\S+|\\u\S+", "", text)
        assert text.count("<script") <= 2


def test_two_views_of_a_large_editor_still_give_a_small_page(view):
    blocks, tokens = tuple(f"transformer_blocks.{i}" for i in range(SITES // 2)), 24
    heads = tuple((block, 23) for block in (*blocks, *blocks))[:HEADS]
    own = tuple(range(10))
    cells = coarser((64, 64), CELLS)
    count = cells[0] * cells[1]
    generator = np.random.default_rng(0)
    noise = generator.random((len(blocks), 2, 2, count, 60), dtype=np.float32)
    pixels = Image.fromarray(generator.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    photo = pixels.resize((1024, 1024))
    large = replace(
        view,
        image=photo,
        mask=np.zeros((1024, 1024), bool),
        truth=np.ones((1024, 1024), bool),
        edit=photo,
        predictions=(photo,) * 3,
        blocks=blocks,
        every_block=blocks * 2,
        heads=heads,
        every_head=24 * len(blocks),
        grounding=heads[:1],
        by_head=noise[:1, :, :, :, :10].swapaxes(-1, -2).repeat(len(heads), 0),
        own=own,
        tokens=("word",) * tokens,
        tokens_grid=(64, 64),
        geometry=replace(
            view.geometry, image_size_px=(1024, 1024), grid=cells, box=(0, 0, 1024, 1024)
        ),
        attention=noise[..., :tokens].swapaxes(-1, -2),
        features=noise[..., :DIRECTIONS],
        held=noise[..., 0, 0],
        prior=noise[0, 0, 0, :, 0].reshape(cells),
        score=noise[0, 0, 0, :, 0].reshape(cells),
    )
    for many, least in ((1, 120), (2, 64)):
        html = render([large] * many, "about").html
        assert len(html.encode()) < 2_000_000
        assert np.prod(data(html)["grid"]) >= least
    assert "18 of 36 blocks" in html and re.search("64 . 64 tokens", html)
    assert f"Of 432 heads {HEADS} that agree best" in html


def test_a_heads_map_is_that_of_a_trace(view, editor, image):
    block, head = view.heads[3]
    alone = gp.trace(editor, image, view.instruction, EXPRESSION, steps=(2,), blocks=block)
    maps = alone.attention[block, 2][head]
    for stream, found in zip(view.streams, view.by_head[3, 1], strict=True):
        expected = maps[alone.image_tokens(stream)].T.numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


def test_the_head_that_a_recipe_names_is_marked(editor, image):
    recipe = replace(gp.recipe_for(editor), heads=((1.0, 1), (0.0, 0)), propagation=0)
    (found,) = gather(editor, image, [EXPRESSION], (0,), seed=0, recipe=recipe)
    assert found.named and set(found.grounding) == {(found.blocks[-1], 1), (found.blocks[0], 0)}
    assert data(render([found], "about").html)["start"]["head"] == found.grounding[0][1]


def test_without_a_named_head_the_one_that_agrees_with_the_mask_is_marked(editor, image, truth):
    recipe = replace(gp.recipe_for(editor), heads=(), prior_streams=("reference",))
    (view,) = gather(editor, image, [EXPRESSION], (0,), 0, recipe, truths=[truth])
    step, stream = view.steps.index(view.looked[0]), view.streams.index(view.looked[1])
    maps = view.by_head[:, step, stream].sum(1)
    on = view.geometry.soft_labels(view.truth).ravel()
    hits = [on[each.argmax()] > 0.5 for each in maps]
    agree = [np.corrcoef(each, on)[0, 1] for each in maps]
    best = max(range(len(maps)), key=lambda at: (hits[at], agree[at]))
    assert not view.named and view.grounding == (view.heads[best],)


def test_the_layers_are_there(views):
    first, second = (each for each in data(render(views, "about").html)["views"])
    names = {"edit", "prediction 0", "prediction 1"}
    assert set(first["pictures"]) == set(second["pictures"]) == names
    assert first["truth"] and second["truth"] is None
    assert first["expression"] != second["expression"] and first["prior"] != second["prior"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_an_editor_without_reference_tokens(image):
    editor = gp.load_editor(testing.instruct_pix2pix())
    (found,) = gather(editor, image, [EXPRESSION], (0,), seed=0)
    assert found.predictions == () and found.edit is None
    assert found.streams == ("noise",) and len(found.blocks) == len(found.every_block) == 7
    assert found.attention.shape[-1] == found.features.shape[-2] == np.prod(found.geometry.grid)
    assert render([found], "about").html


def test_a_notebook_shows_it_in_a_sandbox(view):
    shown = render([view], "about")._repr_html_()
    assert 'sandbox="allow-scripts"' in shown and "<script" not in shown
    assert shown.index("<img") < shown.index("<iframe")


def test_it_is_written_whole_where_it_is_asked_for(editor, image, tmp_path):
    path = tmp_path / "new folder" / "seen.html"
    explorer = explore(editor, image, EXPRESSION, steps=(0,), edit_steps=0, out=path)
    assert path.read_text(encoding="utf-8") == explorer.html
    assert list(path.parent.iterdir()) == [path]


def test_mistakes_say_what_to_do(editor, image, view, tmp_path):
    with pytest.raises(InputError, match="no steps: give"):
        explore(editor, image, EXPRESSION, steps=())
    with pytest.raises(InputError, match="step 28 is not in a schedule of 28"):
        explore(editor, image, EXPRESSION, steps=(28,))
    with pytest.raises(InputError, match="3 expressions: give one, or two"):
        explore(editor, image, [EXPRESSION] * 3)
    with pytest.raises(InputError, match=r"\[\(2, 2\)\] .* for 1 expressions in an image of \(48"):
        explore(editor, image, EXPRESSION, truth=np.ones((2, 2), bool))
    with pytest.raises(PhraseError, match="at least one word"):
        explore(editor, image, " ")
    with pytest.raises(InputError, match="Is a directory"):
        render([view], "about").save(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the output folder"):
        explore(editor, image, EXPRESSION, out=tmp_path / "file" / "seen.html")


def test_the_command_writes_the_page(editor, image, truth, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gp, "load_editor", lambda model, **options: editor)
    image.save("photo.png")
    Image.fromarray(truth).save("mask.png")
    more = ["--beside", "the blue square", "--truth", "mask.png", "--edit-steps", "2"]
    command = ["explore", "photo.png", EXPRESSION, *more, "--steps", "0", "-o", "seen.html"]
    assert cli.main(command) == 0
    size = (tmp_path / "seen.html").stat().st_size
    assert capsys.readouterr().out == f"seen.html: {size / 1e6:.1f} MB\n"
    assert 100_000 < size < 2_000_000
    shown = data((tmp_path / "seen.html").read_text(encoding="utf-8"))["views"]
    assert [each["truth"] is not None for each in shown] == [True, False]
