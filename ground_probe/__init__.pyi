from . import errors, geometry, images, metrics, study
from .capture import Trace, capture, keep_tokens, load_trace, trace
from .datasets import RefExample, Split, load_split
from .editors import Editor, Family, load_editor, register_family
from .evaluation import compare_runs, evaluate
from .geometry import Geometry
from .probes import fisher_ratio, linear_probe_auc, probe_auc
from .run_record import open_run
from .segmentation import Recipe, Segmentation, recipe_for, segment, to_mask
from .stats import Difference, Estimate
from .study import probe_table

__version__: str
__all__ = [
    "Difference",
    "Editor",
    "Estimate",
    "Family",
    "Geometry",
    "Recipe",
    "RefExample",
    "Segmentation",
    "Split",
    "Trace",
    "__version__",
    "capture",
    "compare_runs",
    "errors",
    "evaluate",
    "fisher_ratio",
    "geometry",
    "images",
    "keep_tokens",
    "linear_probe_auc",
    "load_editor",
    "load_split",
    "load_trace",
    "metrics",
    "open_run",
    "probe_auc",
    "probe_table",
    "recipe_for",
    "register_family",
    "segment",
    "study",
    "to_mask",
    "trace",
]
