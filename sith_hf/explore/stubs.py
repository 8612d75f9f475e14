"""Import Gradio without writing stub files.

Whenever Gradio is imported, it parses the source of each of its components to write a stub file (``.pyi``) beside it:
two fifths of its import time, and a write into an installed package. It leaves out a class whose source file is not
known, so here it is not.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def no_stubs() -> Iterator[None]:
    """Hide the source files of Gradio's classes inside a ``with`` block."""
    getfile = inspect.getfile

    def hidden(item: Any) -> str:
        if isinstance(item, type) and item.__module__.startswith("gradio."):
            raise OSError("hidden")
        return getfile(item)

    with patch.object(inspect, "getfile", hidden):
        yield
