from __future__ import annotations

from hypothesis import settings

settings.register_profile("patient", deadline=None, print_blob=True)  # nothing here is timed
settings.load_profile("patient")
