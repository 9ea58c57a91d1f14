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
const press = key =>
  $$("#stage").dispatchEvent(new KeyboardEvent("keydown", {key, cancelable: true}));
const at = (kind, row, col) => {
  const box = $$("#stage").getBoundingClientRect();
  const where = {clientX: box.left + (col + .5) / 8 * box.width,
                 clientY: box.top + (row + .5) / 8 * box.height, bubbles: true};
  $$("#stage").dispatchEvent(new PointerEvent(kind, where));
};
const root = document.documentElement;
const picture = () => $$("#map").toDataURL();
const said = () => $$("#readout").textContent;
const shown = selector => $$(selector).getBoundingClientRect().height > 0;
"""


@pytest.fixture(scope="module")
def view():
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    editor = gp.load_editor(testing.kontext())
    seen = gather(editor, Image.fromarray(pixels), EXPRESSION, (0, 2), seed=0)
    return replace(seen, score=1 - seen.prior)  # whether there is one is the recipe's choice


@pytest.fixture(scope="module")
def page(view) -> str:
    return render(view, "about").html


def dom(page: str, folder: Path, fragment: str = "") -> str:
    """A page as a browser leaves it once its scripts have run."""
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    # In a process of their own, frames may not be ready when the page is read.
    command += ["--disable-features=IsolateSandboxedIframes"]
    command += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom"]
    result = subprocess.run([*command, path.as_uri() + fragment], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def probed(page: str, folder: Path, steps: str, fragment: str = "") -> dict[str, Any]:
    """What a script that acts as a person writes down in `found`."""
    answer = '$$("#answer").textContent = JSON.stringify(found)'
    script = (
        f"<pre id=answer></pre><script>{{{HELPERS} const found = {{}}; {steps}; {answer}}}</script>"
    )
    text = dom(page.replace("</body>", f"{script}</body>"), folder, fragment)
    return json.loads(html.unescape(re.search(r'<pre id="answer">(.*?)</pre>', text, re.S)[1]))


def number(text: str, name: str) -> float:
    return float(re.search(rf"{name} (-?[\d.]+(?:e-?\d+)?)", text)[1])


def test_the_sliders_and_switches_change_the_picture(page, tmp_path):
    steps = """
    set("#block", 0); found.first = picture(); found.blockText = $$("#block").ariaValueText
      ?? $$("#block").getAttribute("aria-valuetext");
    set("#block", 3); found.block = picture(); found.name = $$("#block-name").textContent;
    set("#step", 1); found.step = picture(); found.level = $$("#step-name").textContent;
    $$("input[value=noise]").click(); found.stream = picture();
    $$("input[value=attention]").click(); found.attention = picture();
    $$("input[name=token][value='2']").click(); found.token = picture();
    $$("input[value=where]").click(); found.where = picture();
    found.looked = [shown("#map"), shown("#overview"), $$("#block").disabled];
    $$("input[value=similarity]").click();
    found.before = [shown("#map"), shown("#mask"), shown("#tokens"), shown("#query")];
    $$("input[value=mask]").click();
    found.masked = [shown("#map"), shown("#mask"), $$("#block").disabled];
    const thumbnail = $$("tbody tr").querySelectorAll("canvas")[1];
    $$("input[value=attention]").click(); set("#blend", 100); thumbnail.click();
    found.thumbnail = [$$("#block").value, $$("#step").value, picture() === thumbnail.toDataURL()];
    """
    found = probed(page, tmp_path, steps)
    names = ("first", "block", "step", "stream", "attention", "token", "where")
    assert len({found[name] for name in names}) == len(names)
    assert found["blockText"] == "transformer_blocks.0"
    assert found["name"] == "single_transformer_blocks.1"
    assert re.fullmatch(r"2, noise level 0\.\d\d", found["level"])
    assert found["looked"] == [True, False, True]
    assert found["before"] == [True, False, False, True]
    assert found["masked"] == [False, True, True]
    assert found["thumbnail"] == ["1", "0", True]


def test_values_are_those_that_were_gathered(page, view, tmp_path):
    steps = """
    $$("input[value=attention]").click(); at("pointermove", 2, 5); found.pointed = said();
    $$("input[name=token][value='0']").click(); at("pointermove", 2, 5); found.token = said();
    press("ArrowDown"); press("ArrowLeft"); found.moved = said();
    found.scale = [$$("#low").textContent, $$("#high").textContent].map(Number);
    $$("input[value=similarity]").click(); at("click", 2, 5); at("pointermove", 2, 5);
    found.self = said(); at("pointermove", 6, 1); found.other = said();
    press("Enter"); found.chosen = said();
    $$("input[value=mask]").click(); found.mask = said();
    $$("input[value=where]").click(); found.where = said();
    """
    fragment = "#block=single_transformer_blocks.0&step=2&stream=reference"
    found = probed(page, tmp_path, steps, fragment)
    maps = view.attention[2, 1, 1].reshape(-1, 8, 8)
    slack = float(np.ptp(maps, axis=(1, 2)).max()) / 255 + 5e-4
    assert found["pointed"].startswith("token row 2, column 5: attention")
    own = maps[list(view.own)].sum(0)
    assert number(found["pointed"], "attention") == pytest.approx(own[2, 5], abs=4 * slack)
    assert number(found["token"], "attention") == pytest.approx(maps[0, 2, 5], abs=slack)
    assert found["token"].endswith(f"to “{view.tokens[0]}”")
    assert found["moved"].startswith("token row 3, column 4: ")
    assert number(found["moved"], "attention") == pytest.approx(maps[0, 3, 4], abs=slack)
    assert found["scale"] == pytest.approx([maps[0].min(), maps[0].max()], abs=slack)
    rows = view.features[2, 1, 1].reshape(8, 8, -1)
    assert number(found["self"], "cosine") == 1
    assert number(found["other"], "cosine") == pytest.approx(rows[6, 1] @ rows[2, 5], abs=0.03)
    assert found["other"].endswith("to row 2, column 5")
    assert found["chosen"].endswith("cosine 1.000 to row 6, column 1")
    assert number(found["mask"], "prior") == pytest.approx(view.prior[6, 1], abs=1e-3)
    assert number(found["mask"], "score") == pytest.approx(view.score[6, 1], abs=1e-3)
    assert number(found["where"], "prior") == pytest.approx(view.prior[6, 1], abs=1e-3)


def test_a_score_is_named_only_where_features_were_compared(view, tmp_path):
    steps = '$$("input[value=mask]").click(); at("pointermove", 2, 5); found.mask = said();'
    alone = render(replace(view, score=None), "about").html
    found = probed(alone, tmp_path, steps)
    assert "prior" in found["mask"] and "score" not in found["mask"]


def test_a_fragment_says_what_is_shown(page, tmp_path):
    steps = """found.site = [$$("#block").value, $$("#step").value];
    found.chosen = [...document.querySelectorAll("input:checked")].map(input => input.value)"""
    fragment = "#block=transformer_blocks.1&step=2&mode=attention&stream=noise&none=1&token=99"
    found = probed(page, tmp_path, steps, fragment)
    assert found == {"site": ["1", "1"], "chosen": ["attention", "-1", "noise"]}


def test_the_static_picture_stands_in_only_where_scripts_are_stripped(page, tmp_path):
    steps = 'found.shown = [shown("#still"), shown("#explorer")]; found.title = document.title'
    found = probed(page, tmp_path, steps)
    assert found["shown"] == [False, True]
    assert found["title"] == f"{EXPRESSION} · ground_probe explorer"
    stripped = dom(re.sub(r"<script.*?</script>", "", page, flags=re.S), tmp_path)
    assert '<main id="explorer" hidden' in stripped
    assert '<img id="still" src="data:image/jpeg;base64,' in stripped


def test_everything_can_be_reached_and_is_named(page, tmp_path):
    steps = """$$("input[value=attention]").click();
    const reached = [...document.querySelectorAll("input, [tabindex='0']")];
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
    send = '<script>parent.postMessage(document.querySelector("#low").textContent, "*")</script>'
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
    deaf = page.replace('form.addEventListener("input", render);', "")
    assert deaf != page
    steps = 'found.a = picture(); set("#block", 0); set("#block", 3); found.b = picture()'
    found = probed(deaf, tmp_path, steps)
    assert found["a"] == found["b"]


def test_the_page_is_no_wider_than_a_phone(view, tmp_path):
    wide = replace(view, instruction="long " * 40, tokens=("unbreakable" * 6, *view.tokens[1:]))
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
      const context = $$("#map").getContext("2d"), drawn = context.getImageData(0, 0, 8, 8).data;
      return [...drawn.filter((_, i) => i % 4 === 3)].sort((a, b) => a - b);
    };
    set("#blend", 70); found.some = clear(); set("#blend", 100); found.all = clear();
    set("#blend", 0); found.none = clear();"""
    found = probed(page, tmp_path, steps)
    assert found["some"][0] == pytest.approx(255 * 0.7**4, abs=1)
    assert found["some"][-1] == pytest.approx(255 * 0.7**0.5, abs=1)
    assert set(found["all"]) == {255} and set(found["none"]) == {0}
