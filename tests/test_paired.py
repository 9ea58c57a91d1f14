"""Two runs compared: by hand, against plain second implementations, and what is refused."""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.stats import norm, t

import ground_probe as gp
from ground_probe import cli
from ground_probe.errors import IncompleteError, InputError
from ground_probe.evaluation import Store, mask_of, moved_most, moved_page, side_by_side
from ground_probe.evaluation.rows import error_row, row
from ground_probe.evaluation.store import MANIFEST_COLUMNS
from ground_probe.images import overlay

SPEC = {"dataset": "scenes", "split": "test", "model": "m", "recipe": {"step": 0}}


def write(folder, pairs, images=None, method="full", spec=SPEC, texts=None, record=None, failed=()):
    """An evaluation with given (intersection, union) pixels."""
    count = len(pairs)
    images, texts = images or range(count), texts or ["left man"] * count
    names = [f"scenes/test/{n}" for n in range(count)]
    manifest = [
        (f"{method}{n}", "scenes", "test", str(image), name, text, method)
        for n, (image, name, text) in enumerate(zip(images, names, texts, strict=True))
    ]
    store = Store(folder)
    store.freeze(pd.DataFrame(manifest, columns=list(MANIFEST_COLUMNS)), spec)
    with store.writer("main") as writer:
        for n, (inter, union) in enumerate(pairs):
            counts = {"inter_px": inter, "union_px": union, "pred_px": inter, "gold_px": union}
            key = f"{method}{n}"
            writer.append(
                [error_row(key, "ValueError: no") if n in failed else row(key, counts, 1)]
            )
    if record is not None:
        (folder / "run.json").write_text(json.dumps({"status": "success", **record}))
    return folder


def cell(table, metric, by="all", level="all"):
    (found,) = table.query("metric == @metric and by == @by and level == @level").to_dict("records")
    return found


def test_by_hand(tmp_path):
    texts = ["cup", "left cup", "man in a very red hat"]
    a = write(tmp_path / "a", [(1, 2), (3, 4), (0, 10)], texts=texts)
    b = write(tmp_path / "b", [(2, 2), (3, 4), (5, 10)], texts=texts)
    table = gp.compare_runs(a, b)
    miou, oiou = cell(table, "miou"), cell(table, "oiou")
    assert (miou["a"], miou["b"]) == (pytest.approx(1.25 / 3), pytest.approx(2.25 / 3))
    assert miou["difference"] == pytest.approx(1 / 3) and miou["n"] == miou["n_images"] == 3
    assert (oiou["a"], oiou["b"]) == (4 / 16, 10 / 16)
    assert cell(table, "p@0.5")["difference"] == pytest.approx(1 / 3)
    located = cell(table, "miou", "location words", "yes")
    assert (located["n"], located["difference"]) == (1, 0)
    assert table[table["metric"] == "miou"].groupby("by")["n"].sum().eq(3).all()
    same = gp.compare_runs(a, a)
    assert same["difference"].eq(0).all() and same["p"].eq(1).all()
    assert (same["low"].eq(0) == same["n_images"].gt(1)).all(), "one image has no interval"
    back = gp.compare_runs(b, a)
    assert np.allclose(back["difference"], -table["difference"])
    moved = moved_most(a, b)
    assert moved["example"].tolist()[:2] == ["scenes/test/0", "scenes/test/2"]
    assert moved["difference"].tolist() == [0.5, 0.5, 0]


def test_p_is_the_share_of_all_swaps_and_the_interval_that_of_resampled_images(tmp_path):
    rng = np.random.default_rng(3)
    union = rng.integers(20, 90, 16)
    one, other = (np.minimum(union, rng.integers(0, top, 16)) for top in (60, 90))
    images = [n // 2 for n in range(16)]
    a, b = (
        write(tmp_path / name, list(zip(inter.tolist(), union.tolist(), strict=True)), images)
        for name, inter in (("a", one), ("b", other))
    )
    table = gp.compare_runs(a, b)
    for metric in ("miou", "oiou"):

        def score(inter, metric=metric):
            return inter.sum() / union.sum() if metric == "oiou" else (inter / union).mean()

        found, as_large = score(other) - score(one), []
        for swaps in itertools.product([False, True], repeat=8):
            swapped = np.repeat(swaps, 2)
            first, second = np.where(swapped, other, one), np.where(swapped, one, other)
            as_large.append(abs(score(second) - score(first)) >= abs(found) - 1e-12)
        there = cell(table, metric)
        assert there["difference"] == pytest.approx(found)
        assert there["p"] == pytest.approx(np.mean(as_large), abs=0.025)
        drawn = rng.integers(8, size=(9000, 8))
        rows = np.concatenate([2 * drawn, 2 * drawn + 1], axis=1)
        scores = [
            x[rows].sum(1) / union[rows].sum(1) if metric == "oiou" else (x / union)[rows].mean(1)
            for x in (one, other)
        ]
        tail = 100 * norm.cdf(np.sqrt(8 / 7) * t.ppf(0.025, 7))  # widened: images are few
        ends = np.percentile(scores[1] - scores[0], [tail, 100 - tail])
        assert np.allclose(ends, [there["low"], there["high"]], atol=0.05)


def test_what_is_not_the_same_is_refused_in_a_sentence(tmp_path):
    pairs = [(1, 2), (3, 4), (0, 10)]
    a = write(tmp_path / "a", pairs)
    more = write(tmp_path / "more", [*pairs, (1, 1)])
    with pytest.raises(InputError, match=r"examples differ: 0 are only in .*a, 1 only in .*more;"):
        gp.compare_runs(a, more)
    changed = write(tmp_path / "changed", pairs, spec={**SPEC, "data_revision": "2"})
    with pytest.raises(InputError, match=r"data_revision is None in .*a and '2' in"):
        gp.compare_runs(a, changed)
    other = write(tmp_path / "other", pairs, method="attention")
    with pytest.raises(
        InputError, match=r"no method is in all runs: \['full'\] and \['attention'\]"
    ):
        gp.compare_runs(a, other)
    failed = write(tmp_path / "failed", pairs, failed=[1])
    with pytest.raises(InputError, match=r"1 results failed, the first is scenes/test/1: retry"):
        gp.compare_runs(a, failed)
    (failed / "run.json").write_text('{"status": "success", "waived": ["scenes/test/1"]}')
    assert cell(gp.compare_runs(a, failed), "miou")["n"] == 2, "left out of both"
    half = write(tmp_path / "half", pairs)
    lines = (half / "rows-main.jsonl").read_bytes().splitlines(keepends=True)
    (half / "rows-main.jsonl").write_bytes(lines[0])
    with pytest.raises(IncompleteError, match="missing 2"):
        gp.compare_runs(a, half)


def test_several_runs_become_one_table_in_three_forms(tmp_path, capsys):
    pairs = {"a": [(1, 2), (3, 4)], "b_1": [(2, 2), (3, 4)], "c": [(1, 2), (0, 4)]}
    folders = [str(write(tmp_path / name, each)) for name, each in pairs.items()]
    table = gp.compare_runs(*folders)
    assert table["run"].unique().tolist() == folders[1:] and set(table["against"]) == {folders[0]}
    pd.testing.assert_frame_equal(
        table[table["run"] == folders[2]].reset_index(drop=True),
        gp.compare_runs(folders[0], folders[2]),
    )
    wide = side_by_side(table)
    assert wide.index.tolist() == [("full", folder) for folder in folders]
    assert [cell.split(",")[0] for cell in wide["miou"]] == [
        "0.625", "0.875 (+0.250", "0.250 (-0.375"
    ]  # fmt: skip
    files = [str(tmp_path / f"table{form}") for form in (".csv", ".md", ".tex")]
    assert cli.main(["compare", *folders, "--out", *files]) == 0
    assert all(file in capsys.readouterr().out for file in files[:1])
    pd.testing.assert_frame_equal(pd.read_csv(files[0]), table, check_dtype=False)
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| method | run | miou | oiou |") and len(lines) == 5
    assert lines[3].split(" | ")[1:3] == [folders[1], wide["miou"].iloc[1]]
    latex = (tmp_path / "table.tex").read_text()
    assert r"b\_1" in latex and latex.count(r"\\") == 4 and "0.875 (+0.250" in latex
    with pytest.raises(InputError, match=r"unknown form of a table '.xls': choose one of .csv"):
        gp.evaluation.write_comparison(table, "table.xls")
    assert cli.main(["compare", folders[0]]) == 2
    assert "is one run: give at least two" in capsys.readouterr().err
    third = str(write(tmp_path / "third", [(1, 2), (3, 4), (1, 4)]))
    assert cli.main(["compare", *folders, third]) == 2
    assert "their examples differ: 0 are only in" in capsys.readouterr().err


def halves(editor, image, expression, recipe="left", **how):
    mask = np.zeros((image.height, image.width), bool)
    mask[:, : image.width // 2] = recipe == "left"
    mask[: image.height // 2] |= recipe == "top"
    return mask


def test_what_moved_most_is_a_page_of_pictures(tmp_path, capsys):
    split = gp.load_split("scenes", "test", limit=6)
    for name in ("left", "top"):
        gp.evaluate(None, split, tmp_path / name, name, segment=halves)
    names = [str(tmp_path / name) for name in ("left", "top")]
    page = tmp_path / "moved.html"
    assert cli.main(["compare", *names, "--page", str(page), "--moved", "3"]) == 0
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    moved = moved_most(*names).head(3)
    assert text == moved_page(*names, split, n=3), "the part that was evaluated, or all of it"
    assert [text.index(html.escape(key)) for key in moved["example"]] == sorted(
        text.index(html.escape(key)) for key in moved["example"]
    )
    assert "http" not in text and "<script" not in text and text.count("<img") == 12
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    example = split[split.keys.index(moved["example"][0])]
    expected = [example.image, *(
        overlay(example.image, mask)
        for mask in (example.mask, *(halves(None, example.image, "", name) for name in
                                     ("left", "top")))
    )]  # fmt: skip
    for picture, image in zip(pictures, expected, strict=False):
        seen = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))), float)
        assert np.abs(seen - np.asarray(image)).mean() < 8, "a JPEG of it"
    other = gp.load_split("cartoons", "test", limit=6)
    with pytest.raises(InputError, match=r"has revision scenes-2 of scenes, these are cartoons-1"):
        moved_page(*names, other)
    (row, *_) = gp.evaluate(
        None, split, tmp_path / "baseline", methods=["whole_image"]
    ).rows.to_dict("records")  # fmt: skip
    with pytest.raises(InputError, match="no mask, for it failed or is a baseline's"):
        mask_of(row)


def test_the_photos_of_own_data_are_asked_for(tmp_path, capsys):
    scene = gp.load_split("scenes", "test", limit=1)[0]
    scene.image.save(tmp_path / "a.png")
    Image.fromarray(halves(None, scene.image, "")).save(tmp_path / "mask.png")
    rows = tmp_path / "mine.jsonl"
    rows.write_text(json.dumps({"image": "a.png", "expression": "it", "mask": "mask.png"}))
    for name in ("left", "top"):
        split = gp.load_split(str(rows), "test")
        gp.evaluate(None, split, tmp_path / name, name, segment=halves)
    argv = ["compare", *(str(tmp_path / n) for n in ("left", "top"))]
    argv += ["--page", str(tmp_path / "page.html")]
    assert cli.main(argv) == 2
    assert "mine is data of your own: say by --dataset PATH" in capsys.readouterr().err
    assert cli.main([*argv, "--dataset", str(rows)]) == 0
    assert (tmp_path / "page.html").read_text().count("<img") == 4


def test_five_hundred_sentences_are_compared_and_the_command_says_what_moved(tmp_path, capsys):
    rng = np.random.default_rng(0)
    union = rng.integers(10, 9000, 500)
    folders = [
        write(tmp_path / name, [(int(rng.integers(0, u + 1)), int(u)) for u in union])
        for name in ("a", "b")
    ]
    names = [str(folder) for folder in folders]
    assert cli.main(["compare", *names, "--out", str(tmp_path / "d.csv")]) == 0
    said = capsys.readouterr().out
    assert "moved most (full):" in said and said.count("scenes/test/") == 20
    assert len(pd.read_csv(tmp_path / "d.csv")) % 7 == 0
    assert cli.main(["compare", names[0], str(tmp_path / "none")]) == 2
    assert "holds no evaluation" in capsys.readouterr().err
