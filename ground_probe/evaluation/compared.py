"""What was compared, for people: one table of several runs, and a page of what moved most."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment
from PIL import Image

from ground_probe.datasets.example import RefExample
from ground_probe.datasets.listed import as_split
from ground_probe.errors import InputError, unknown
from ground_probe.evaluation.paired import finished
from ground_probe.evaluation.rows import mask_of
from ground_probe.evaluation.store import Store
from ground_probe.evaluation.tables import CHIEF, ratios
from ground_probe.images import overlay
from ground_probe.io import whole_file

FORMS = (".csv", ".md", ".tex")
_SIDE_PX = 320


def side_by_side(differences: pd.DataFrame) -> pd.DataFrame:
    """A row for each method and run, a column for each chief metric, of `compare_runs`.

    A cell is a value and, but in the run that the others are compared with, the difference to that
    run with its p: `0.646 (+0.034, p = .003)`.
    """
    whole = differences[differences["by"].eq("all") & differences["metric"].isin(CHIEF)]
    whole = whole.dropna(subset="difference")
    first = whole.drop_duplicates(["method", "metric"])
    rows = [
        (row.method, row.against, row.metric, f"{row.a:.3f}") for row in first.itertuples()
    ] + [
        (row.method, row.run, row.metric, f"{row.b:.3f} ({row.difference:+z.3f}, p = {row.p:.3f})")
        for row in whole.itertuples()
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["method", "run", "metric", "cell"])
    table["cell"] = table["cell"].str.replace("p = 0.", "p = .")
    wide = table.pivot_table(
        index=["method", "run"], columns="metric", values="cell", aggfunc="first", sort=False
    )
    wide = wide[[name for name in CHIEF if name in wide]].rename_axis(columns=None)
    return pd.concat([wide.xs(m, drop_level=False) for m in wide.index.unique("method")])


def write_comparison(differences: pd.DataFrame, path: str | Path) -> None:
    """Write what `compare_runs` found: all of it as CSV, `side_by_side` as Markdown or LaTeX.

    Raises:
        UnknownNameError: the name ends otherwise than in .csv, .md or .tex.
        InputError: the file cannot be written.
    """
    form = Path(path).suffix
    if form not in FORMS:
        raise unknown("form of a table", form, FORMS)
    if form == ".csv":
        text = differences.to_csv(index=False)
    else:
        wide = side_by_side(differences).reset_index()
        text = wide.to_latex(index=False, escape=True) if form == ".tex" else _markdown(wide)
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _markdown(table: pd.DataFrame) -> str:
    cells = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    rows = ([str(cell).replace("|", "\\|") for cell in row] for row in cells)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def moved_most(run_a: str | Path, run_b: str | Path, method: str = "full") -> pd.DataFrame:
    """The examples of both runs, those whose IoU moved most first.

    Nothing where nothing is meant counts 1, as in gIoU.

    Returns:
        `example, expression, iou_a, iou_b, difference`.
    """
    a, b = _rows(run_a, run_b, method)
    ious = [pd.Series(ratios(rows, ["giou"])[0][:, 0], rows.index) for rows in (a, b)]
    table = pd.DataFrame({"expression": a["expression"], "iou_a": ious[0], "iou_b": ious[1]})
    table["difference"] = table["iou_b"] - table["iou_a"]
    order = table["difference"].abs().sort_values(ascending=False, kind="stable").index
    return table.loc[order].reset_index()


def moved_page(
    run_a: str | Path,
    run_b: str | Path,
    split: Sequence[RefExample],
    method: str = "full",
    n: int = 20,
) -> str:
    """The examples that moved most as an HTML page that needs no other file.

    Each with its photo, the true mask and the masks of both runs.

    Args:
        run_a: the folder of an evaluation that kept its masks.
        run_b: another's, of the same examples.
        split: what was evaluated, or more.
        method: of both.
        n: how many examples.

    Raises:
        InputError: the runs differ in their examples, the split is not what was evaluated, or a
            run kept no masks.
    """
    split, spec = as_split(split), Store(Path(run_a)).spec()
    if spec.get("data_revision", split.revision) != split.revision:
        raise InputError(
            f"the page needs the photos that were evaluated: {run_a} has revision "
            f"{spec['data_revision']} of {spec['dataset']}, these are {split.revision} of "
            f"{split.dataset}"
        )
    moved = moved_most(run_a, run_b, method)
    moved = moved[moved["difference"].ne(0)].head(n)
    a, b = _rows(run_a, run_b, method)
    shown = []
    for row in moved.itertuples():
        example = split[split.keys.index(row.example)]
        masks = [mask_of({**rows.loc[row.example], "example": row.example}) for rows in (a, b)]
        pictures = [example.image, *(overlay(example.image, m) for m in (example.mask, *masks))]
        names = ("photo", "truth", f"A {row.iou_a:.3f}", f"B {row.iou_b:.3f}")
        shown.append(
            {"row": row, "pictures": dict(zip(names, map(_encoded, pictures), strict=True))}
        )
    page = Environment(autoescape=True).from_string(_PAGE)
    return page.render(
        runs={"A": run_a, "B": run_b}, method=method, data=split.dataset, split=split.split,
        shown=shown, of=len(a),
    )  # fmt: skip


def _rows(run_a: str | Path, run_b: str | Path, method: str) -> list[pd.DataFrame]:
    """The `ok` rows of a method, by example."""
    tables = finished(run_a, run_b)
    for rows in tables:
        if method not in set(rows["method"]):
            raise unknown("method", method, rows["method"].unique())
    return [rows[rows["method"].eq(method)].set_index("example") for rows in tables]


def _encoded(image: Image.Image) -> str:
    image = image.copy()
    image.thumbnail((_SIDE_PX, _SIDE_PX))
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>What moved most</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 84rem; padding: 1rem }
section { border-top: 1px solid #ccc; margin-top: 1rem } h2 { font-size: 1.1rem; margin: .6rem 0 }
div { display: grid; gap: .5rem; grid-template-columns: repeat(4, 1fr) } figure { margin: 0 }
img { width: 100%; max-height: 22rem; object-fit: contain; object-position: left }
figcaption, .small { color: #444; font-size: 14px; overflow-wrap: anywhere }
</style>
<h1>What moved most</h1>
<p>{{ data }} {{ split }}, method {{ method }}: {{ shown|length }} of {{ of }} expressions, by the
difference of their IoU.</p>
<ul>{% for name, run in runs.items() %}<li>{{ name }}: {{ run }}</li>{% endfor %}</ul>
{% for each in shown %}<section>
<h2>{{ each.row.expression }} ({{ "%+.3f"|format(each.row.difference) }})</h2>
<div>{% for name, source in each.pictures.items() %}<figure><img src="{{ source }}" loading="lazy"
alt="{{ name }}: {{ each.row.expression }}"><figcaption>{{ name }}</figcaption></figure>{% endfor %}
</div><p class="small">{{ each.row.example }}</p></section>
{% endfor %}</html>
"""
