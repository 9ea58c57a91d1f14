"""A study's folder as a paper of one page: question, answer, figure, tables, then the details."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ground_probe.evaluation.tables import CHIEF

EXPLORER = "explorer.html"


class Section(NamedTuple):
    """A notebook on the page: its question, and its figures in reading order with captions."""

    title: str
    question: str
    figures: Mapping[str, str]


SECTIONS = {
    "10_emergence": Section(
        "Emergence",
        "From which denoising step on do the tokens of an image tell which object is meant?",
        {
            "steps_grounding.png": "The referent against the other objects, by step: the editor "
            "beside every control. A claim needs the editor above all of them.",
            "steps_separability.png": "The referent against everything else, by step: what any "
            "detector of objects passes.",
            "emergence_grounding.png": "Grounding in every block and step of the reference "
            "stream; brown is below chance, where the probe points to another object.",
            "emergence_separability.png": "Separability in every block and step.",
            "visible_change.png": "How far the image has visibly changed at each step, at the "
            "referent and elsewhere.",
            "causal.png": "What moves when another object's expression takes the place of the "
            "expression, less a random change of the same size.",
            "tokens.png": "Tokens in the plane of UMAP, which shows what differs most and need "
            "not be what a probe reads.",
        },
    ),
    "20_where_and_what": Section(
        "Where and what",
        "Which blocks, attention heads and words tell the referent at the first step?",
        {
            "attention.png": "One head, chosen on val, beside the mean of heads: where the "
            "attention to the expression is highest.",
            "where_heads.png": "Every head of every block.",
            "where_blocks.png": "Probes on hidden states beside attention, by block.",
            "where_words_auc.png": "Which words' maps tell the referent.",
            "where_words_mass.png": "Which words the image attends to; much attention without "
            "grounding is a sink.",
            "where_templates.png": "What the words around the expression change.",
        },
    ),
    "30_segmentation": Section(
        "Segmentation",
        "What is one denoising step worth as a segmenter of whatever an expression refers to?",
        {
            "segmentation.png": "The segmenter beside simpler ways, ceilings and references.",
            "masks.png": "Masks of the first examples, unselected, with their IoU.",
        },
    ),
    "00_quickstart": Section(
        "One example",
        "An image, an expression, a mask, and the edits themselves",
        {
            "quickstart.png": "The mask of one step; dashed, the true one.",
            "where_and_what.png": "Where the editor looks, and what is like what is there.",
            "edit.png": "The finished edits of the first examples, right or not.",
        },
    ),
    "90_report": Section(
        "Report",
        "Every evaluation in this folder, beside what is published",
        {"report.png": "mIoU of every evaluation."},
    ),
}
_QUESTION = "Does an instruction-based image editor know where to edit at its first denoising step?"
_MAIN = ("10_emergence", "steps_grounding.png")


def separability_by_step(emergence: pd.DataFrame) -> pd.DataFrame:
    """Per label set and stream, what the block chosen on val scores on test, at each step.

    Args:
        emergence: the rows of `emergence.csv`.
    """
    from ground_probe.study.table import best_blocks  # late: it brings torch

    chosen = {labels: best_blocks(emergence, labels) for labels in emergence["labels"].unique()}
    rows = (
        pd.concat(chosen, names=["labels"]).droplevel(1).set_index(["stream", "step"], append=True)
    )
    return rows["value"].unstack("step").rename(columns="step {}".format)


def segmentation_scores(segmentation: pd.DataFrame) -> pd.DataFrame:
    """Per dataset, split and method, the chief metrics with their intervals, best first.

    Args:
        segmentation: the rows of `segmentation.csv`.
    """
    cells = segmentation.assign(
        cell=[
            f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in segmentation.itertuples()
        ]
    )
    index = ["dataset", "split", "method", "n_ok", "n_error"]
    table = cells.pivot(index=index, columns="metric", values="cell")
    values = cells.pivot(index=index, columns="metric", values="value")
    shown = [name for name in CHIEF if name in table] or list(table)
    return table.loc[values.sort_values(shown[0], ascending=False).index, shown]


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a study's folder, by title."""
    tables = {}
    if (path := folder / "emergence.csv").exists():
        title = "Separability by step (linear probe, AUC on test, block chosen on val)"
        tables[title] = separability_by_step(pd.read_csv(path, dtype={"step": "Int64"}))
    if (path := folder / "segmentation.csv").exists():
        from ground_probe.study.figures import METHODS_IN_WORDS  # late: it brings seaborn

        words = {name: words for name, (words, _) in METHODS_IN_WORDS.items()}
        tables["Segmentation"] = segmentation_scores(pd.read_csv(path)).rename(words)
    return tables


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ground_probe study</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem }}
h1 {{ line-height: 1.2 }} h2 {{ border-top: 1px solid #ccc; margin-top: 2rem; padding-top: 1rem }}
figure {{ margin: 1rem 0 }} img {{ max-width: 100%; max-height: 40rem; height: auto }}
figcaption, .small {{ color: #444; font-size: 14px }}
.table {{ overflow-x: auto }} table {{ border-collapse: collapse; font-size: 14px }}
th, td {{ border-bottom: 1px solid #ccc; padding: .25rem .6rem; text-align: right }}
th {{ font-weight: 600 }} td {{ white-space: nowrap }} p, li {{ overflow-wrap: anywhere }}
</style>
<h1>{question}</h1>
<p><strong>{answer}</strong></p>
<p class="small">{about}</p>
{main}
{tables}
{not_shown}
{explorer}
{sections}
<h2>Files</h2>
<ul class="small">{files}</ul>
</html>
"""


def index_page(folder: Path, fields: Mapping[str, Any]) -> str:
    """The page of a study's folder.

    Args:
        folder: of results.
        fields: of the study's record.
    """
    commit = f"{fields['commit'] or 'none'}{' with changes' if fields['dirty'] else ''}"
    parts = fields["parts"]
    verdicts = [text for part in parts.values() for text in part.get("verdicts", {}).values()]
    absent = [text for text in verdicts if "not shown" in text.lower()]
    emergence = parts.get("10_emergence", {})
    names = [name for name in SECTIONS if name in parts]
    names += [name for name in parts if name not in SECTIONS]
    listed = sorted(path.name for path in folder.glob("*.csv"))
    return _PAGE.format(
        question=html.escape(_QUESTION),
        answer=html.escape(_answer(emergence)),
        about=html.escape(_about(fields, emergence, commit)),
        main=_figure(folder, _MAIN[1], SECTIONS[_MAIN[0]].figures[_MAIN[1]]),
        tables="".join(
            f"<h3>{html.escape(title)}</h3>"
            f'<div class="table">{table.to_html(float_format="{:.3f}".format, border=0)}</div>'
            for title, table in tables(folder).items()
        ),
        not_shown=_list("What was not shown", absent),
        explorer=f"<p>{_link(EXPLORER, 'Explorer')}: one example, every block, head and step.</p>"
        if (folder / EXPLORER).exists()
        else "",
        sections="".join(_section(folder, name, parts[name]) for name in names),
        files="".join(f"<li>{_link(name)}</li>" for name in (*listed, "run.json")),
    )


def _answer(emergence: Mapping[str, Any]) -> str:
    """The claim of grounding in the reference stream, as the notebook worded it."""
    known = emergence.get("verdicts", {})
    return known.get("grounding reference") or emergence.get("conclusion") or "Not shown."


def _about(fields: Mapping[str, Any], emergence: Mapping[str, Any], commit: str) -> str:
    model, data = emergence.get("model", []), emergence.get("data", [])
    images = f"{emergence['n_images']} examples of test" if "n_images" in emergence else ""
    known = (" ".join(map(str, model)), " ".join(map(str, data[:1])), images)
    run = f"run {fields['digest']}, {fields['started_utc']}, commit {commit}"
    return " · ".join(filter(None, (*known, run)))


def _section(folder: Path, name: str, part: Mapping[str, Any]) -> str:
    section = SECTIONS.get(name, Section(name, "", {}))
    figures = (_figure(folder, *each) for each in section.figures.items() if each[0] != _MAIN[1])
    return (
        f"<h2>{html.escape(section.title)}</h2><p><em>{html.escape(section.question)}</em> "
        f"({_link(f'{name}.html', 'page')}, {_link(f'{name}.ipynb', 'notebook')})</p>"
        f"<p>{html.escape(str(part.get('conclusion', '')))}</p>{''.join(figures)}"
        f"{_verdicts(part.get('verdicts', {}))}"
    )


def _verdicts(verdicts: Mapping[str, str]) -> str:
    lines = (
        f"<li>{html.escape(name)}: {html.escape(text)}</li>" for name, text in verdicts.items()
    )
    text = "".join(lines)
    if not text:
        return ""
    return f'<details><summary>Every verdict</summary><ul class="small">{text}</ul></details>'


def _figure(folder: Path, name: str, caption: str) -> str:
    path = f"figures/{name}"
    if not (folder / path).exists():
        return ""
    caption = html.escape(caption)
    return (
        f'<figure><a href="{path}"><img src="{path}" alt="{caption}" loading="lazy"></a>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _list(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f'<h3>{title}</h3><ul class="small">{items}</ul>'


def _link(name: str, text: str = "") -> str:
    return f'<a href="{html.escape(name)}">{html.escape(text or name)}</a>'
