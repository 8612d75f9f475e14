"""``python -m tests.cards.golden``: write the golden files again. Check the diff."""

import tempfile
from pathlib import Path

import tests.conftest  # noqa: F401  - offline, and nobody's own cache
from tests.cards.golden import HERE, write_golden

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        write_golden(HERE, Path(work))
