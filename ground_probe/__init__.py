"""Probe where and when instruction-based image-editing diffusion models ground a phrase.

The public names stand in `__init__.pyi` and are imported on first use, so that `import
ground_probe` costs nothing: the probes run without loading torch's or diffusers' machinery.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
