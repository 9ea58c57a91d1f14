from . import errors, geometry, images, inside, metrics, study
from .capture import Trace, capture, keep_tokens, load_trace, trace
from .datasets import RefExample, Split, load_split
from .editors import Editor, Family, load_editor, register_family
from .evaluation import compare_runs, evaluate
from .geometry import Geometry
from .inside import (
    Direction,
    Lens,
    Steer,
    activation_patching,
    attention_rollout,
    decode,
    dose_curve,
    linear_cka,
    logit_lens,
    probe_direction,
    rsa,
    similarity_table,
)
from .probes import fisher_ratio, linear_probe_auc, probe_auc
from .probes.table import probe_table
from .run_record import open_run
from .segmentation import Recipe, Segmentation, recipe_for, segment, to_mask
from .stats import Difference, Estimate

__version__: str
__all__ = [
    "Difference",
    "Direction",
    "Editor",
    "Estimate",
    "Family",
    "Geometry",
    "Lens",
    "Recipe",
    "RefExample",
    "Segmentation",
    "Split",
    "Steer",
    "Trace",
    "__version__",
    "activation_patching",
    "attention_rollout",
    "capture",
    "compare_runs",
    "decode",
    "dose_curve",
    "errors",
    "evaluate",
    "fisher_ratio",
    "geometry",
    "images",
    "inside",
    "keep_tokens",
    "linear_cka",
    "linear_probe_auc",
    "load_editor",
    "load_split",
    "load_trace",
    "logit_lens",
    "metrics",
    "open_run",
    "probe_auc",
    "probe_direction",
    "probe_table",
    "recipe_for",
    "register_family",
    "rsa",
    "segment",
    "similarity_table",
    "study",
    "to_mask",
    "trace",
]
