from . import emergence, errors, figures, geometry, metrics, photos, plan, study
from .capture import Trace, capture, keep_tokens, trace
from .datasets import RefExample, Split, load_split
from .editors import Editor, load_editor
from .emergence import probe_table
from .evaluation import evaluate
from .explorer import Explorer, explore
from .geometry import Geometry
from .probes import Estimate, fisher_ratio, linear_probe_auc
from .run_record import open_run
from .segmentation import Recipe, Segmentation, segment, segment_each

__version__: str
__all__ = [
    "Editor",
    "Estimate",
    "Explorer",
    "Geometry",
    "Recipe",
    "RefExample",
    "Segmentation",
    "Split",
    "Trace",
    "__version__",
    "capture",
    "emergence",
    "errors",
    "evaluate",
    "explore",
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
    "plan",
    "probe_table",
    "segment",
    "segment_each",
    "study",
    "trace",
]
