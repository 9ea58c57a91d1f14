"""A study's folder as a paper of one page: question, answer, figure, tables, then the details."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment

from ground_probe.evaluation.tables import CHIEF
from ground_probe.study.table import best_blocks, read_table


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
_MAIN = "steps_grounding.png"


def separability_by_step(emergence: pd.DataFrame) -> pd.DataFrame:
    """Per label set and stream, what the block chosen on val scores on test, at each step."""
    chosen = {labels: best_blocks(emergence, labels) for labels in emergence["labels"].unique()}
    rows = (
        pd.concat(chosen, names=["labels"]).droplevel(1).set_index(["stream", "step"], append=True)
    )
    return rows["value"].unstack("step").rename(columns="step {}".format)


def segmentation_scores(segmentation: pd.DataFrame) -> pd.DataFrame:
    """Per dataset, split and method, the chief metrics with their intervals, best first."""
    rows = segmentation.itertuples()
    cells = [f"{row.value:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in rows]
    index = ["dataset", "split", "method", "n_ok", "n_error"]
    wide = segmentation.assign(cell=cells).pivot(index=index, columns="metric")
    table, values = wide["cell"], wide["value"]
    shown = [name for name in CHIEF if name in table] or list(table)
    return table.loc[values.sort_values(shown[0], ascending=False).index, shown]


def tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables of a study's folder, by title."""
    tables = {}
    if (path := folder / "emergence.csv").exists():
        title = "Separability by step (linear probe, AUC on test, block chosen on val)"
        tables[title] = separability_by_step(read_table(path))
    if (path := folder / "segmentation.csv").exists():
        from ground_probe.study.figures import METHODS_IN_WORDS  # late: it brings seaborn

        words = {name: words for name, (words, _) in METHODS_IN_WORDS.items()}
        tables["Segmentation"] = segmentation_scores(pd.read_csv(path)).rename(words)
    return tables


def index_page(folder: Path, fields: Mapping[str, Any]) -> str:
    """The page of a study's folder; `fields` are those of the study's record."""
    parts = fields["parts"]
    verdicts = [text for part in parts.values() for text in part.get("verdicts", {}).values()]
    emergence = parts.get("10_emergence", {})
    order = [*(name for name in SECTIONS if name in parts), *parts]
    template = (files("ground_probe.study") / "page.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(template).render(
        question=_QUESTION,
        answer=_answer(emergence),
        about=_about(fields, emergence),
        main=_MAIN,
        main_caption=SECTIONS["10_emergence"].figures[_MAIN],
        tables=tables(folder),
        not_shown=[text for text in verdicts if "not shown" in text.lower()],
        explorer=(folder / "explorer.html").exists(),
        sections={
            name: (SECTIONS.get(name, Section(name, "", {})), parts[name])
            for name in dict.fromkeys(order)
        },
        drawn={path.name for path in folder.glob("figures/*.png")},
        files=[*sorted(path.name for path in folder.glob("*.csv")), "run.json"],
    )


def _answer(emergence: Mapping[str, Any]) -> str:
    """The claim of grounding in the reference stream, as the notebook worded it."""
    known = emergence.get("verdicts", {})
    return known.get("grounding reference") or emergence.get("conclusion") or "Not shown."


def _about(fields: Mapping[str, Any], emergence: Mapping[str, Any]) -> str:
    commit = f"{fields['commit'] or 'none'}{' with changes' if fields['dirty'] else ''}"
    model, data = emergence.get("model", []), emergence.get("data", [])
    images = f"{emergence['n_images']} examples of test" if "n_images" in emergence else ""
    known = (" ".join(map(str, model)), " ".join(map(str, data[:1])), images)
    run = f"run {fields['digest']}, {fields['started_utc']}, commit {commit}"
    return " · ".join(filter(None, (*known, run)))
