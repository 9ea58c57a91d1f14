"""The explorer in a real browser: what a person does, and what the picture then is."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import nbformat
import numpy as np
import pytest
from PIL import Image

import ground_probe as gp
from ground_probe import testing
from ground_probe.study import run as study
from ground_probe.study.explorer.gather import gather
from ground_probe.study.explorer.page import Explorer, render

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser found: {', '.join(NAMES)}")

EXPRESSION = 'the red <i>circle</i> & "more"'
HELPERS = """
const $$ = selector => document.querySelector(selector);
const set = (selector, value) => {
  $$(selector).value = value; $$(selector).dispatchEvent(new Event("input", {bubbles: true}));
};
const press = (key, on = ".stage") =>
  $$(on).dispatchEvent(new KeyboardEvent("keydown", {key, cancelable: true, bubbles: true}));
const at = (kind, row, col) => {
  const box = $$(".stage").getBoundingClientRect();
  const where = {clientX: box.left + (col + .5) / 8 * box.width,
                 clientY: box.top + (row + .5) / 8 * box.height, bubbles: true};
  $$(".stage").dispatchEvent(new PointerEvent(kind, where));
};
const root = document.documentElement;
const picture = () => $$(".map").toDataURL();
const said = () => $$(".readout").textContent;
const shown = selector => $$(selector).getBoundingClientRect().height > 0;
const click = (name, value) => $$(`input[name="${name}"][value="${value}"]`).click();
const drawn = () => {
  const {width, height} = $$(".outlines");
  const data = $$(".outlines").getContext("2d").getImageData(0, 0, width, height).data;
  return data.filter((v, i) => i % 4 === 3 && v).length;
};
"""


@pytest.fixture(scope="module")
def views():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    editor, truth = gp.load_editor(testing.kontext()), np.zeros((64, 64), bool)
    truth[8:24, 16:40] = True
    given = {"truths": [truth, None], "edit_steps": 2}
    expressions = [EXPRESSION, "the blue square"]
    return gather(editor, Image.fromarray(pixels), expressions, (0, 2), seed=0, **given)


@pytest.fixture(scope="module")
def view(views):
    return views[0]


@pytest.fixture(scope="module")
def page(view) -> str:
    return render([view], "about").html


def dom(page: str, folder: Path, fragment: str = "", window: str = "800,600") -> str:
    """A page as a browser leaves it once its scripts have run."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    # In a process of their own, frames may not be ready when the page is read.
    command += ["--disable-features=IsolateSandboxedIframes"]
    command += [f"--window-size={window}"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    result = subprocess.run([*command, path.as_uri() + fragment], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def probed(
    page: str, folder: Path, steps: str, fragment: str = "", window: str = "800,600"
) -> dict[str, Any]:
    """What a script that acts as a person writes down in `found`."""
    answer = '$$("#answer").textContent = JSON.stringify(found)'
    script = (
        f"<pre id=answer></pre><script>{{{HELPERS} const found = {{}}; {steps}; {answer}}}</script>"
    )
    text = dom(page.replace("</body>", f"{script}</body>"), folder, fragment, window)
    return json.loads(html.unescape(re.search(r'<pre id="answer">(.*?)</pre>', text, re.S)[1]))


def number(text: str, name: str) -> float:
    return float(re.search(rf"{name} (-?[\d.]+(?:e-?\d+)?)", text)[1])


def test_the_sliders_and_switches_change_the_picture(page, view, tmp_path):
    steps = """
    set("#block", 0); found.first = picture();
    found.blockText = $$("#block").getAttribute("aria-valuetext");
    set("#block", 3); found.block = picture(); found.name = $$("#block-name").textContent;
    set("#step", 1); found.step = picture(); found.level = $$("#step-name").textContent;
    click("stream", "reference"); found.stream = picture();
    click("head", "0"); found.head = picture();
    click("head", "mean"); click("word0", "2"); found.token = picture();
    click("map", "where"); found.where = picture();
    found.looked = [shown(".map"), shown("#overview"), $$("#block").disabled];
    click("map", "what"); found.what = picture();
    click("map", "similarity"); found.similarity = picture();
    found.before = [shown(".map"), shown("#overview"), shown(".query"), $$("#heads").disabled];
    click("map", "none");
    found.bare = [shown(".map"), $$("#opacity").disabled];
    click("map", "attention"); set("#opacity", 100);
    const thumbnail = $$("tbody tr:last-child").querySelectorAll("canvas")[1];
    thumbnail.click();
    found.thumbnail = [$$("#block").value, $$("[name=head]:checked").value,
                       picture() === thumbnail.toDataURL()];
    """
    found = probed(page, tmp_path, steps, "#head=mean&stream=noise")
    names = ["first", "block", "step", "stream", "head", "token", "where", "what", "similarity"]
    assert len({found[name] for name in names}) == len(names)
    assert found["blockText"] == "transformer_blocks.0"
    assert found["name"] == "single_transformer_blocks.1"
    assert re.fullmatch(r"2, noise level 0\.\d\d", found["level"])
    assert found["looked"] == [True, False, True]
    assert found["before"] == [True, True, True, True]
    assert found["bare"] == [False, True]
    last = max(head for block, head in view.heads if block == view.blocks[1])
    assert found["thumbnail"] == ["1", str(last), True]


def test_it_opens_at_the_head_that_grounds(page, view, tmp_path):
    steps = """found.map = $$("[name=map]:checked").value;
    found.mark = $$("[name=head]:checked").nextElementSibling.textContent;
    found.block = $$("#block-name").textContent;
    found.stream = $$("[name=stream]:checked").value; found.highest = $$(".highest").textContent;
    """
    found = probed(page, tmp_path, steps)
    block, head = view.grounding[0]
    assert found["map"] == "attention" and found["mark"] == f"head {head} ★"
    assert found["block"] == block and found["stream"] == view.looked[1]
    site = view.heads.index((block, head)), 0, view.streams.index(view.looked[1])
    highest = view.by_head[site].sum(0).argmax()
    on = view.geometry.soft_labels(view.truth).ravel()[highest] > 0.5
    assert found["highest"] == f"The highest token lies {'on' if on else 'NOT on'} the true mask."


def test_layers_are_switched_on_and_off(page, tmp_path):
    steps = """
    const source = () => $$(".photo").src;
    found.photo = source(); click("picture", "edit"); found.edit = source();
    click("picture", "prediction"); set("#step", 0); found.first = source();
    set("#step", 1); found.second = source();
    found.truth = drawn(); $$("[name=mask]").click(); found.both = drawn();
    $$("[name=truth]").click(); found.mask = drawn(); $$("[name=mask]").click();
    found.none = drawn();
    """
    found = probed(page, tmp_path, steps)
    assert len({found[name] for name in ("photo", "edit", "first", "second")}) == 4
    assert found["none"] == 0 < found["truth"] < found["both"]
    assert found["both"] > found["mask"] > 0


def test_the_outline_of_the_true_mask_lies_on_its_border(page, tmp_path):
    steps = """
    const canvas = $$(".outlines"), scale = canvas.width / 64, context = canvas.getContext("2d");
    const clear = (x, y) => context.getImageData(x * scale, y * scale, 1, 1).data[3] === 0;
    found.on = [[16, 15], [40, 20], [30, 8], [30, 24]].map(([x, y]) => clear(x, y));
    found.off = [[20, 15], [12, 15], [44, 20], [30, 28], [30, 4], [60, 60]].map(
      ([x, y]) => clear(x, y));
    """
    found = probed(page, tmp_path, steps)
    assert found == {"on": [False] * 4, "off": [True] * 6}


def test_the_address_says_what_is_shown_and_shows_it_again(page, tmp_path):
    steps = """
    set("#block", 2); set("#step", 1); click("map", "similarity"); at("click", 2, 5);
    click("picture", "edit"); $$("[name=mask]").click(); $$("[name=truth]").click();
    set("#opacity", 35); click("stream", "reference"); found.hash = location.hash;
    found.map = picture();"""
    sent = probed(page, tmp_path, steps)
    steps = """found.hash = location.hash; found.map = picture();
    found.boxes = [$$("[name=mask]").checked, $$("[name=truth]").checked];
    found.opacity = $$("#opacity").value"""
    found = probed(page, tmp_path, steps, sent["hash"])
    assert {name: found[name] for name in sent} == sent
    assert found["boxes"] == [True, False] and found["opacity"] == "35"
    asked = parse_qs(sent["hash"][1:])
    assert asked["block"] == ["single_transformer_blocks.0"] and asked["step"] == ["2"]
    assert asked["query"] == ["21"] and asked["map"] == ["similarity"]


def test_keys_do_what_they_say(page, view, tmp_path):
    steps = """
    const state = () => [$$("#block").value, $$("#step").value, $$("[name=head]:checked").value];
    for (const key of ["[", ".", "h"]) press(key, "body");
    found.moved = state(); press("]", "body"); press(",", "body"); found.back = state();
    press("p", "body"); found.picture = $$("[name=picture]:checked").value;
    press("t", "body"); press("m", "body");
    found.boxes = [$$("[name=mask]").checked, $$("[name=truth]").checked];
    """
    found = probed(page, tmp_path, steps, "#block=transformer_blocks.1&step=0&head=mean")
    first = min(head for block, head in view.heads if block == view.blocks[0])
    assert found["moved"] == ["0", "1", str(first)]
    assert found["back"] == ["1", "0", str(first)]
    assert found["picture"] == "prediction" and found["boxes"] == [True, False]


def test_one_head_reads_words_of_the_expression_alone(page, view, tmp_path):
    steps = """
    click("head", "mean"); click("word0", "0"); found.outer = picture();
    click("head", "1"); found.word = $$("[name=word0]:checked").value;
    found.closed = [...document.querySelectorAll("[name=word0]:disabled")].map(e => e.value);
    at("pointermove", 2, 5); found.all = said();
    click("word0", String(OWN)); at("pointermove", 2, 5); found.one = said();
    """.replace("OWN", str(view.own[1]))
    fragment = "#block=single_transformer_blocks.0&step=2&stream=reference"
    found = probed(page, tmp_path, steps, fragment)
    assert found["word"] == "-1"
    others = [str(at) for at in range(len(view.tokens)) if at not in view.own]
    assert found["closed"] == others
    maps = view.by_head[view.heads.index((view.blocks[2], 1)), 1, 1].reshape(-1, 8, 8)
    slack = float(np.ptp(maps, axis=(1, 2)).max()) / 255 + 5e-4
    assert number(found["all"], "attention") == pytest.approx(maps.sum(0)[2, 5], abs=4 * slack)
    assert number(found["one"], "attention") == pytest.approx(maps[1, 2, 5], abs=slack)


def test_two_expressions_stand_side_by_side(views, tmp_path):
    steps = """
    const [one, two] = [...document.querySelectorAll(".panel")];
    const boxes = [one, two].map(e => e.getBoundingClientRect());
    found.beside = boxes[0].right <= boxes[1].left && boxes[0].top === boxes[1].top;
    found.titles = [one, two].map(e => e.querySelector("h2").textContent);
    const map = panel => panel.querySelector(".map").toDataURL();
    found.differ = map(one) !== map(two);
    const before = map(two); set("#step", 1); found.follows = map(two) !== before;
    const first = map(one); click("word1", String(OWN)); found.alone = map(one) === first;
    at("pointermove", 2, 5);
    found.said = [one, two].map(e => e.querySelector(".readout").textContent);
    """.replace("OWN", str(views[1].own[0]))
    found = probed(render(views, "about").html, tmp_path, steps, window="1280,900")
    assert found["beside"] and found["differ"] and found["follows"] and found["alone"]
    assert found["titles"] == [EXPRESSION, "the blue square"]
    assert all(text.startswith("token row 2, column 5: attention") for text in found["said"])
    assert "true mask" in found["said"][0] and "true mask" not in found["said"][1]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_an_editor_of_one_stream_and_several_grids_is_shown(tmp_path):
    editor = gp.load_editor(testing.instruct_pix2pix())
    unet = gather(editor, Image.new("RGB", (64, 64), "gray"), ["the circle"], (0,), seed=0)
    steps = """found.shown = [shown("#explorer"), shown(".map")]; found.first = picture();
    set("#block", 3); found.second = picture(); found.hash = location.hash;
    found.pictures = document.querySelectorAll("[name=picture]").length;"""
    found = probed(render(unet, "about").html, tmp_path, steps)
    assert found["shown"] == [True, True] and found["pictures"] == 1
    assert found["first"] != found["second"] and "stream=noise" in found["hash"]


def test_values_are_those_that_were_gathered(page, view, tmp_path):
    steps = """
    at("pointermove", 2, 5); found.pointed = said();
    click("word0", "0"); at("pointermove", 2, 5); found.token = said();
    press("ArrowDown"); press("ArrowLeft"); found.moved = said();
    found.scale = [$$(".low").textContent, $$(".high").textContent].map(Number);
    click("map", "similarity"); at("click", 2, 5); at("pointermove", 2, 5);
    found.self = said(); at("pointermove", 6, 1); found.other = said();
    press("Enter"); found.chosen = said();
    click("map", "where"); found.where = said(); click("map", "what"); found.what = said();
    click("map", "none"); found.none = said();
    """
    fragment = "#block=single_transformer_blocks.0&step=2&stream=reference&head=mean"
    found = probed(page, tmp_path, steps, fragment)
    maps = view.attention[2, 1, 1].reshape(-1, 8, 8)
    slack = float(np.ptp(maps, axis=(1, 2)).max()) / 255 + 5e-4
    assert found["pointed"].startswith("token row 2, column 5: attention")
    own = maps[list(view.own)].sum(0)
    assert number(found["pointed"], "attention") == pytest.approx(own[2, 5], abs=4 * slack)
    assert number(found["token"], "attention") == pytest.approx(maps[0, 2, 5], abs=slack)
    assert f"to “{view.tokens[0]}”" in found["token"]
    assert found["moved"].startswith("token row 3, column 4: ")
    assert number(found["moved"], "attention") == pytest.approx(maps[0, 3, 4], abs=slack)
    assert found["scale"] == pytest.approx([maps[0].min(), maps[0].max()], abs=slack)
    rows = view.features[2, 1, 1].reshape(8, 8, -1)
    assert number(found["self"], "cosine") == 1
    assert number(found["other"], "cosine") == pytest.approx(rows[6, 1] @ rows[2, 5], abs=0.03)
    assert "to row 2, column 5" in found["other"]
    assert "cosine 1.000 to row 6, column 1" in found["chosen"]
    assert number(found["where"], "prior") == pytest.approx(view.prior[6, 1], abs=1e-3)
    assert number(found["what"], "score") == pytest.approx(view.score[6, 1], abs=1e-3)
    cover = view.geometry.soft_labels(view.mask)[6, 1], view.geometry.soft_labels(view.truth)[6, 1]
    expected = [f"{100 * share:.0f} % in the" for share in cover]
    assert expected[0] in found["none"] and f"{expected[1]} true mask" in found["none"]


def test_a_fragment_says_what_is_shown(page, tmp_path):
    steps = """found.site = [$$("#block").value, $$("#step").value];
    found.chosen = [...document.querySelectorAll("input:checked")].map(input => input.value)"""
    fragment = "#block=transformer_blocks.1&step=2&map=attention&stream=noise&none=1&word0=99"
    found = probed(page, tmp_path, steps, fragment + "&head=77&truth=0")
    assert found["site"] == ["1", "1"]
    assert found["chosen"] == ["-1", "photo", "attention", "mean", "noise"]


def test_the_static_picture_stands_in_only_where_scripts_are_stripped(page, tmp_path):
    steps = 'found.shown = [shown("#still"), shown("#explorer")]; found.title = document.title'
    found = probed(page, tmp_path, steps)
    assert found["shown"] == [False, True]
    assert found["title"] == f"{EXPRESSION} · ground_probe explorer"
    stripped = dom(re.sub(r"<script.*?</script>", "", page, flags=re.S), tmp_path)
    assert re.search('<main id="explorer"[^>]* hidden', stripped)
    assert '<img id="still" src="data:image/jpeg;base64,' in stripped


def test_everything_can_be_reached_and_is_named(page, tmp_path):
    steps = """
    const reached = [...document.querySelectorAll("input:enabled, [tabindex='0']")];
    found.unnamed = reached.filter(e => !(e.ariaLabel || e.labels?.[0]?.textContent.trim())).length;
    found.count = reached.length;
    found.outlines = reached.filter(e => {
      e.focus({focusVisible: true});
      const ring = e.matches(".choices input") ? e.nextElementSibling : e;
      return document.activeElement === e && parseFloat(getComputedStyle(ring).outlineWidth) >= 2;
    }).length;
    found.overflow = root.scrollWidth - root.clientWidth;"""
    found = probed(page, tmp_path, steps)
    assert found["unnamed"] == 0
    assert found["outlines"] == found["count"] > 10
    assert found["overflow"] == 0


def test_two_stand_in_one_executed_notebook(page, tmp_path):
    send = '<script>parent.postMessage(document.querySelector(".low").textContent, "*")</script>'
    shown = Explorer(page.replace("</body>", f"{send}</body>"), "data:,")._repr_html_()
    output = nbformat.v4.new_output("display_data", {"text/html": shown})
    cell = nbformat.v4.new_code_cell("explore(...)", outputs=[output, output])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "small.ipynb")
    listen = """<pre id=answer></pre><script>
    const heard = [];
    addEventListener("message", event => {
      heard.push([event.origin, event.data !== ""]);
      document.querySelector("#answer").textContent = JSON.stringify(heard);
    });</script>"""
    as_html = study._as_html(tmp_path / "small.ipynb").replace("<main>", f"<main>{listen}", 1)
    text = dom(as_html, tmp_path)
    heard = json.loads(re.search(r'<pre id="answer">(.*?)</pre>', text)[1])
    assert heard == [["null", True]] * 2  # each in an origin of its own


def test_the_check_of_the_picture_can_fail(page, tmp_path):
    deaf = page.replace('document.addEventListener("input"', 'document.addEventListener("never"')
    assert deaf != page
    steps = 'found.a = picture(); set("#block", 0); set("#block", 3); found.b = picture()'
    found = probed(deaf, tmp_path, steps)
    assert found["a"] == found["b"]


@pytest.mark.parametrize("count", [1, 2])
def test_the_page_is_no_wider_than_a_phone(views, count, tmp_path):
    wide = [
        replace(view, instruction="long " * 40, tokens=("unbreakable" * 6, *view.tokens[1:]))
        for view in views[:count]
    ]
    steps = "found.overflow = root.scrollWidth - root.clientWidth"
    inner = render(wide, "about " * 40).html
    steps = f"{{{HELPERS} const found = {{}}; {steps}; parent.postMessage(found, '*')}}"
    frame = html.escape(inner.replace("</body>", f"<script>{steps}</script></body>"))
    outer = f"""<pre id=answer></pre><script>addEventListener("message", event => {{
      document.querySelector("#answer").textContent = JSON.stringify(event.data) }})</script>
    <iframe srcdoc="{frame}" style="width:400px;height:900px;border:0"></iframe>"""
    text = dom(outer, tmp_path)
    found = json.loads(re.search(r'<pre id="answer">(.*?)</pre>', text)[1])
    assert found == {"overflow": 0}


def test_the_photo_shows_between_the_high_values_of_a_map(page, tmp_path):
    steps = """
    const clear = () => {
      const context = $$(".map").getContext("2d"), drawn = context.getImageData(0, 0, 8, 8).data;
      return [...drawn.filter((_, i) => i % 4 === 3)].sort((a, b) => a - b);
    };
    set("#opacity", 70); found.some = clear(); set("#opacity", 100); found.all = clear();
    set("#opacity", 0); found.none = clear();"""
    found = probed(page, tmp_path, steps)
    assert found["some"][0] == pytest.approx(255 * 0.7**4, abs=1)
    assert found["some"][-1] == pytest.approx(255 * 0.7**0.5, abs=1)
    assert set(found["all"]) == {255} and set(found["none"]) == {0}
