from .attended import BEYOND, attended_words, sinks, summarize_words
from .calibrate import calibrate
from .claim import RIVALS, Claim, claim, seed_spread
from .collect import collect, collect_each
from .effects import causal_check, causal_sentences, effects
from .explorer import Explorer, explore
from .findings import (
    EditCheck,
    check_edit,
    conclude_ablation,
    conclude_edits,
    conclude_emergence,
    conclude_heads,
    conclude_methods,
)
from .heads import Overlay, attention_overlays, chosen_heads, head_table
from .paired import paired_probes, selectivity
from .plan import Plan, plan
from .refits import refit
from .report import Report, collect_report, paper_table
from .samples import Samples
from .score import score, score_control_labels, score_inputs, score_visible
from .spec import CONDITIONS, FOLDS, Spec, at_least, early_spec, load_splits, splits_of
from .stack import LABELS
from .table import COLUMNS, beside_controls, best_blocks, read_table, summarize
from .templates import check_templates, compare_templates
from .visible import visible_change

__all__ = [
    "BEYOND",
    "COLUMNS",
    "CONDITIONS",
    "FOLDS",
    "LABELS",
    "RIVALS",
    "Claim",
    "EditCheck",
    "Explorer",
    "Overlay",
    "Plan",
    "Report",
    "Samples",
    "Spec",
    "at_least",
    "attended_words",
    "attention_overlays",
    "beside_controls",
    "best_blocks",
    "calibrate",
    "causal_check",
    "causal_sentences",
    "check_edit",
    "check_templates",
    "chosen_heads",
    "claim",
    "collect",
    "collect_each",
    "collect_report",
    "compare_templates",
    "conclude_ablation",
    "conclude_edits",
    "conclude_emergence",
    "conclude_heads",
    "conclude_methods",
    "early_spec",
    "effects",
    "explore",
    "head_table",
    "load_splits",
    "paired_probes",
    "paper_table",
    "plan",
    "read_table",
    "refit",
    "score",
    "score_control_labels",
    "score_inputs",
    "score_visible",
    "seed_spread",
    "selectivity",
    "sinks",
    "splits_of",
    "summarize",
    "summarize_words",
    "visible_change",
]
