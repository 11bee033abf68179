"""Pillow without its warnings."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator

_QUIET = threading.Lock()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let Pillow parse headers without its warnings (odd EXIF), one at a time."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
