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
from ground_probe.study.explorer.gather import (
    BYTES,
    CELLS,
    DIRECTIONS,
    SITES,
    LeadingDirections,
    coarser,
    gather,
    pool,
    spread,
)
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
def view(editor, image):
    return gather(editor, image, EXPRESSION, (0, 2), seed=0)


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


def test_features_are_cosines_of_standardised_states():
    hidden = torch.randn(5 * 4, 7, generator=torch.Generator().manual_seed(0)) * 9 + 3
    rows = LeadingDirections((5, 4), (5, 4))(hidden)  # 20 rows, 20 directions: nothing is lost
    standard = (hidden - hidden.mean(0)) / hidden.std(0)
    expected = torch.nn.functional.cosine_similarity(standard[:, None], standard[None], dim=-1)
    torch.testing.assert_close(rows @ rows.T, expected, atol=1e-4, rtol=0)


def test_the_share_that_is_held_is_a_share(view):
    assert view.features.shape == (4, 2, 2, 8 * 8, DIRECTIONS)
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
    page = data(render(view, "about").html)
    maps = view.attention.reshape(-1, 64)
    reach = np.ptp(maps, axis=1, keepdims=True)
    error = np.abs(unpacked(page["attention"], len(maps)) - maps)
    assert (error <= reach / 255 * 0.51).all()
    size = page["mask"]["size"]
    bits = np.unpackbits(np.frombuffer(base64.b64decode(page["mask"]["bits"]), np.uint8))
    assert (bits[: size[0] * size[1]].reshape(size[1], size[0]) == view.mask).all()


def test_a_constant_map_stays_constant():
    part = packed(np.full((1, 4), 0.25, np.float32))
    assert (unpacked(part, 1) == 0.25).all()


def test_the_page_needs_nothing_else(view):
    page = render(view, "about").html
    assert "default-src 'none'" in page  # a browser refuses the network
    assert not re.search(r"https?://|@import|<link", page)
    assert set(re.findall(r'src="([^,]{0,30})', page)) == {"data:image/jpeg;base64"}


def test_what_a_user_gives_is_escaped(view):
    bad = '</script><script>alert("x")</script>&<b>'
    hostile = replace(view, expression=bad, instruction=bad, tokens=(bad, *view.tokens[1:]))
    for text in (render(hostile, bad).html, render(hostile, bad)._repr_html_()):
        assert "<b>" not in text and "alert(" not in re.sub(r"&\S+|\\u\S+", "", text)
        assert text.count("<script") <= 2


def test_a_large_editor_still_gives_a_small_page(view):
    blocks, tokens = tuple(f"transformer_blocks.{i}" for i in range(SITES // 2)), 24
    cells = coarser((64, 64), CELLS)
    cells = coarser(cells, BYTES // (SITES * 2 * (tokens + DIRECTIONS)))
    count = cells[0] * cells[1]
    assert count >= 100
    noise = np.random.default_rng(0).random((len(blocks), 2, 2, count, 60), dtype=np.float32)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    large = replace(
        view,
        image=Image.fromarray(pixels).resize((1024, 1024)),
        mask=np.zeros((1024, 1024), bool),
        blocks=blocks,
        every_block=blocks * 2,
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
    html = render(large, "about").html
    assert len(html.encode()) < 2_000_000
    assert "30 of 60 blocks" in html and re.search("64 . 64 tokens", html)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_an_editor_without_reference_tokens(image):
    editor = gp.load_editor(testing.instruct_pix2pix())
    found = gather(editor, image, EXPRESSION, (0,), seed=0)
    assert found.streams == ("noise",) and len(found.blocks) == len(found.every_block) == 7
    assert found.attention.shape[-1] == found.features.shape[-2] == np.prod(found.geometry.grid)
    assert render(found, "about").html


def test_a_notebook_shows_it_in_a_sandbox(view):
    shown = render(view, "about")._repr_html_()
    assert 'sandbox="allow-scripts"' in shown and "<script" not in shown
    assert shown.index("<img") < shown.index("<iframe")


def test_it_is_written_whole_where_it_is_asked_for(editor, image, tmp_path):
    path = tmp_path / "new folder" / "seen.html"
    explorer = explore(editor, image, EXPRESSION, steps=(0,), out=path)
    assert path.read_text(encoding="utf-8") == explorer.html
    assert list(path.parent.iterdir()) == [path]


def test_mistakes_say_what_to_do(editor, image, view, tmp_path):
    with pytest.raises(InputError, match="no steps: give"):
        explore(editor, image, EXPRESSION, steps=())
    with pytest.raises(InputError, match="step 28 is not in a schedule of 28"):
        explore(editor, image, EXPRESSION, steps=(28,))
    with pytest.raises(PhraseError, match="at least one word"):
        explore(editor, image, " ")
    with pytest.raises(InputError, match="it is a folder"):
        render(view, "about").save(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot make the output folder"):
        explore(editor, image, EXPRESSION, out=tmp_path / "file" / "seen.html")


def test_the_command_writes_the_page(editor, image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gp, "load_editor", lambda model, **options: editor)
    image.save("photo.png")
    assert cli.main(["explore", "photo.png", EXPRESSION, "--steps", "0", "-o", "seen.html"]) == 0
    size = (tmp_path / "seen.html").stat().st_size
    assert capsys.readouterr().out == f"seen.html: {size / 1e6:.1f} MB\n"
    assert 100_000 < size < 2_000_000
