from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from ground_probe.study import figures


def segmentation() -> pd.DataFrame:
    rows = [
        ("scenes", "test", "full", "miou", 0.6, 0.5, 0.65, 8, 8, 0),
        ("scenes", "test", "attention", "miou", 0.3, 0.2, 0.4, 8, 8, 0),
        ("scenes", "test", "full", "oiou", 0.9, 0.8, 1.0, 8, 8, 0),
    ]
    names = ["dataset", "split", "method", "metric", "value", "low", "high"]
    return pd.DataFrame(rows, columns=[*names, "n_expected", "n_ok", "n_error"])


def photo(value: int = 90) -> Image.Image:
    return Image.new("RGB", (20, 10), (value, value, value))


def mask() -> np.ndarray:
    made = np.zeros((10, 20), dtype=bool)
    made[2:5, 3:9] = True
    return made


def text_of(figure: Figure) -> str:
    """Everything a reader can read on a figure."""
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def shown(figure: Figure) -> str:
    """What matplotlib really draws of the texts, mathematics as such."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    return "\n".join(t._preprocess_math(t.get_text())[0] for t in texts if t.get_parse_math())


def test_a_dollar_is_a_dollar():
    name = "$x^2$ of $5 and {a}_b $\\frac"  # mathematics that does not even parse
    sheet = figures.contact_sheet([photo()] * 2, about=name, titles=[name, name])
    bars = figures.method_bars(segmentation().assign(method=name), title=name)
    lay = figures.overlay(photo(), mask(), about=name, title=name)
    for figure in (sheet, bars, lay):
        assert name in text_of(figure) and "$" not in shown(figure)


def test_a_sheet_of_large_photos_is_drawn_from_small_ones():
    large, half = Image.new("RGB", (2000, 1500)), np.zeros((1500, 2000), dtype=bool)
    half[:, 1000:] = True
    (axes,) = figures.contact_sheet([large], about="", maps=[half], golds=[half]).axes
    picture, shade = (layer.get_array() for layer in axes.images)
    assert max(picture.shape) <= 640 and picture.shape[:2] == shade.shape[:2]
    np.testing.assert_array_equal(shade[0, :, 3] == 0, np.arange(500) >= 250)


def test_bars_are_the_values_with_their_intervals():
    (axes,) = figures.method_bars(segmentation()).axes
    assert [bar.get_width() for bar in axes.patches] == [0.6, 0.3]
    ends = [segment[:, 0] for segment in axes.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [[0.5, 0.65], [0.2, 0.4]])
    assert axes.get_yticks()[0] > axes.get_yticks()[1]  # the first row stands on top


def test_bars_of_several_folders_are_told_apart_in_the_colors_of_their_methods():
    both = pd.concat([segmentation().assign(folder=f"runs/{name}") for name in ("a", "b")])
    (axes,) = figures.method_bars(both, about="tiny").axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:2] == ["the recipe · a", "the recipe · b"]
    assert figures.METHOD_KINDS["the recipe"] == axes.patches[0].get_facecolor()[:3]
    doubled = both.assign(folder=both.folder + "/same")
    (axes,) = figures.method_bars(doubled).axes
    assert axes.get_yticklabels()[0].get_text() == "the recipe · runs/a/same"


def test_every_figure_says_block_step_stream_and_how_many():
    assert "n = 8 · 0 errors" in text_of(figures.method_bars(segmentation()))
    about = "blocks.1 · step 0 · reference"
    assert about in text_of(figures.overlay(photo(), mask(), about=about, gold=mask()))
    sheet = figures.contact_sheet([photo()] * 3, about=about, titles=["a", "b", "c"])
    assert f"{about} · n = 3" in text_of(sheet) and "c" in text_of(sheet)


def test_a_mask_lies_where_it_is_and_nowhere_else():
    axes = figures.overlay(photo(), mask(), about="").axes[0]
    photo_layer, shade = (layer.get_array() for layer in axes.images)
    assert photo_layer.shape[:2] == shade.shape[:2]
    np.testing.assert_array_equal(shade[..., 3] == 0, mask())


def test_a_sheet_takes_masks_and_maps():
    maps = [mask(), np.linspace(0, 1, 200).reshape(10, 20)]
    sheet = figures.contact_sheet([photo(), photo(9)], about="", maps=maps, golds=[mask()] * 2)
    assert [len(axes.images) for axes in sheet.axes] == [2, 2]
    assert [len(axes.collections) for axes in sheet.axes] == [1, 1]  # what is meant, outlined
    np.testing.assert_array_equal(sheet.axes[1].images[1].get_array(), maps[1])


def test_a_figure_is_kept_the_same_twice(tmp_path):
    one, two = (tmp_path / name / "a.png" for name in "ab")
    for path in (one, two):
        figures.save(figures.method_bars(segmentation()), path)
    assert one.read_bytes() == two.read_bytes()
    with Image.open(one) as picture:
        assert picture.width > 500
