"""The notebooks of the documentation: run one, and compare its outputs with the stored ones.

``python -m tests.support.notebooks`` runs all of them and stores their outputs.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# Rounding may differ between machines, by a little more than the last of three decimals.
TOLERANCE = 0.02
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")


def run(path: Path) -> Any:
    """Run a notebook in a fresh kernel, in a folder of its own; return it with new outputs. Raises if a cell does."""
    import tempfile

    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        client = NotebookClient(
            notebook, timeout=900, kernel_name="python3", record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # Bars and warnings of libraries depend on the machine.
            cell.outputs = [item for item in cell.outputs if item.get("name") != "stderr"]
            for item in cell.outputs:
                item.get("data", {}).pop("image/jpeg", None)  # a picture of Pillow comes as a PNG, too
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def outputs(cell: Any) -> list[Any]:
    """The outputs of a cell. What it printed in a row is one: how a kernel cuts it depends on the time it takes."""
    found: list[Any] = []
    for item in cell.get("outputs", ()):
        if item["output_type"] == "stream":
            if found and found[-1]["output_type"] == "stream":
                found[-1]["text"] += "".join(item["text"])
                continue
            item = {"output_type": "stream", "text": "".join(item["text"])}
        found.append(item)
    return found


def texts(cell: Any) -> list[str]:
    """The text of each output of a cell: what it printed, and the plain form of its value."""
    return [
        item["text"] if item["output_type"] == "stream" else "".join(item.get("data", {}).get("text/plain", ""))
        for item in outputs(cell)
    ]


def shown(cell: Any) -> list[list[str]]:
    """The forms of each output of a cell, such as ``["image/png", "text/plain"]``."""
    return [sorted(item.get("data", {item["output_type"]: ""})) for item in outputs(cell)]


def numbers(text: str) -> list[float]:
    """The numbers in a text."""
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]


def differences(stored: Any, fresh: Any) -> list[str]:
    """The cells whose outputs differ in their words, their forms, or in a number by more than the tolerance."""
    found = []
    for number, (old, new) in enumerate(zip(stored.cells, fresh.cells, strict=True)):
        if old.source != new.source or shown(old) != shown(new):
            found.append(f"cell {number}: {shown(old)} stored, {shown(new)} now")
            continue
        for before, after in zip(texts(old), texts(new), strict=True):
            a, b = numbers(before), numbers(after)
            close = len(a) == len(b) and all(
                abs(x - y) <= max(TOLERANCE, TOLERANCE * abs(x)) for x, y in zip(a, b, strict=True)
            )
            if not close or _words(before) != _words(after):
                found.append(f"cell {number}: {before!r} stored, {after!r} now")
    return found


def _words(text: str) -> str:
    # Columns of a frame are as wide as their longest number.
    return " ".join(_NUMBER.sub("0", text).split())


def main(paths: list[str]) -> None:
    """Run notebooks, all by default, and store their outputs."""
    for path in [Path(name) for name in paths] or NOTEBOOKS:
        nbformat.write(run(path), path)


if __name__ == "__main__":
    main(sys.argv[1:])
