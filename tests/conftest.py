from __future__ import annotations

import signal

from hypothesis import settings

settings.register_profile("patient", deadline=None, print_blob=True)  # nothing here is timed
settings.load_profile("patient")

# Under nohup or a shell's `&` Ctrl-C is ignored, and programs started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
