"""Decoders without their warnings: what is wrong with a file is told by an error."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

_QUIET = threading.Lock()

logging.getLogger("imagecodecs").addHandler(logging.NullHandler())  # else it writes to stderr


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let Pillow parse headers without its warnings (odd EXIF), one at a time."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
