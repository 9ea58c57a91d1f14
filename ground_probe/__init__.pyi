from . import emergence, errors, figures, geometry, metrics, photos, study
from .capture import Trace, capture, keep_tokens, trace
from .datasets import RefExample, load_split
from .editors import Editor, load_editor
from .emergence import probe_table
from .evaluation import evaluate
from .geometry import Geometry
from .probes import Estimate, fisher_ratio, linear_probe_auc
from .run_record import open_run
from .segmentation import Recipe, Segmentation, segment

__version__: str
__all__ = [
    "Editor",
    "Estimate",
    "Geometry",
    "Recipe",
    "RefExample",
    "Segmentation",
    "Trace",
    "__version__",
    "capture",
    "emergence",
    "errors",
    "evaluate",
    "figures",
    "fisher_ratio",
    "geometry",
    "keep_tokens",
    "linear_probe_auc",
    "load_editor",
    "load_split",
    "metrics",
    "open_run",
    "photos",
    "probe_table",
    "segment",
    "study",
    "trace",
]
