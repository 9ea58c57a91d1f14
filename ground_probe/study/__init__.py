"""The study: what only the notebooks and the batch use; the library never imports it.

Where and when the referent is decodable, against every control, and what its segmenter is worth.
The names stand in `__init__.pyi` and are imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
