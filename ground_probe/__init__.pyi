from . import errors, geometry, metrics, photos, study
from .capture import Trace, capture, keep_tokens, load_trace, trace
from .datasets import RefExample, Split, load_split
from .editors import Editor, load_editor
from .evaluation import evaluate
from .geometry import Geometry
from .probes import Estimate, fisher_ratio, linear_probe_auc
from .run_record import open_run
from .segmentation import Recipe, Segmentation, segment, segment_each, to_mask
from .study import probe_table

__version__: str
__all__ = [
    "Editor",
    "Estimate",
    "Geometry",
    "Recipe",
    "RefExample",
    "Segmentation",
    "Split",
    "Trace",
    "__version__",
    "capture",
    "errors",
    "evaluate",
    "fisher_ratio",
    "geometry",
    "keep_tokens",
    "linear_probe_auc",
    "load_editor",
    "load_split",
    "load_trace",
    "metrics",
    "open_run",
    "photos",
    "probe_table",
    "segment",
    "segment_each",
    "study",
    "to_mask",
    "trace",
]
