"""The score CSV that a person fills in: one explained pole per row, safe to open in a spreadsheet.

Columns: ``layer``, ``head``, ``vector``, ``pole`` (``plus`` or ``minus``), ``concepts`` and ``weights`` (JSON lists,
the heaviest first), ``fidelity``, ``coherence``, ``energy_share`` and, last, ``score``. Spreadsheets run a cell that
begins with ``=``, ``+``, ``-``, ``@`` or a control character. No cell here does: poles are words, numbers are numbers,
and concepts are in a JSON list. Semicolons in the list are escaped, because in some locales they separate cells.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sith_hf.core.escaping import escape_texts, sanitize
from sith_hf.core.fingerprint import texts_sha256
from sith_hf.core.reading import read_input
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError

COLUMNS = (
    "layer", "head", "vector", "pole", "concepts", "weights", "fidelity", "coherence", "energy_share", "score",
)  # fmt: skip
_NEEDED = ("layer", "head", "vector", "pole", "concepts", "score")
_WORDS = {"+": "plus", "-": "minus"}
_POLES = {word: pole for pole, word in _WORDS.items()} | {pole: pole for pole in _WORDS}

# A ViT-H with 80 vectors per head has 80,000 rows of about 300 bytes.
MAX_BYTES = 200_000_000
_REPORTED = 3

# An explained pole by its layer, head, vector and sign.
PoleKey = tuple[int, int, int, str]


def explanations_sha256(decomposition: Decomposition) -> str:
    """Return the fingerprint of a decomposition's explanations: its layers, its poles, and the concepts of each pole.

    Weights are not included: they follow from the concepts and the direction, and their last digits differ between
    machines. Raises InputError for a decomposition without explanations.
    """
    decomposition.require_words()
    parts = [repr((decomposition.layers, decomposition.poles, tuple(decomposition.concept.shape)))]
    rows = zip(decomposition.concept.flatten(0, -2).tolist(), decomposition.weight.flatten(0, -2).tolist(), strict=True)
    for concepts, weights in rows:
        pairs = zip(concepts, weights, strict=True)
        parts.append(escape_texts([decomposition.texts[i] for i, weight in pairs if i >= 0 and weight > 0]))
    return texts_sha256(parts)


def score_csv_text(decomposition: Decomposition, value: Tensor | None = None) -> str:
    """Return a score CSV with a row per explained pole, filled in with ``value`` ``[L, H, R, poles]`` except NaN."""
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    scores = [math.nan] * decomposition.fidelity.numel() if value is None else value.flatten().tolist()
    for item, score in zip(decomposition.explanations(), scores, strict=True):
        writer.writerow([
            item.layer, item.head, item.vector, _WORDS[item.pole],
            escape_texts([text for text, _ in item.concepts], marks=";"),
            json.dumps([round(weight, 3) for _, weight in item.concepts]),
            f"{item.fidelity:.3f}", f"{item.coherence:.3f}", f"{item.energy_share:.4f}",
            "" if math.isnan(score) else f"{score:.6g}",
        ])  # fmt: skip
    return file.getvalue()


def read_score_csv(path: str | Path, decomposition: Decomposition) -> tuple[Tensor, dict[str, Any]]:
    """Read a score CSV that a person filled in.

    Cells may be separated by commas, semicolons or tabs, as spreadsheets save them. Columns may have any order; only
    the place, the concepts and the score are read.

    Args:
        path: a CSV file in UTF-8.
        decomposition: the one that the file was written for.

    Returns:
        ``[L, H, R, poles]`` float32 scores, 1 to 5 or NaN, and a record: the file's sha256, the number of rows without
        a score (``empty``) and of explained poles without a row (``absent``).

    Raises:
        InputError: not such a file, a row of another decomposition, two rows for one pole, a score outside 1 to 5, or
            no score at all. The message names the lines.
    """
    raw = read_input(
        Path(path), "the score CSV", "make one with `sith-hf judge DECOMPOSITION --export FILE`", MAX_BYTES
    )
    places = {(item.layer, item.head, item.vector, item.pole): item for item in decomposition.explanations()}
    found: dict[PoleKey, float] = {}
    complaints: list[str] = []
    for line, cells in _rows(path, raw):
        try:
            place = _place(cells)
            if place not in places:
                raise InputError("the decomposition has no such layer, head, vector and pole")
            if place in found:
                raise InputError("this pole has a row already; keep one of the two")
            if _texts(cells["concepts"]) != [text for text, _ in places[place].concepts]:
                raise InputError("the concepts differ from the decomposition: the file was written for another one")
            found[place] = _score(cells["score"])
        except InputError as error:
            complaints.append(f"line {line}: {error}")
    if complaints:
        more = f"; and {len(complaints) - _REPORTED} more lines" if len(complaints) > _REPORTED else ""
        raise InputError(f"{path}: {'; '.join(complaints[:_REPORTED])}{more}")
    filled = [score for score in found.values() if not math.isnan(score)]
    if not filled:
        raise InputError(f"{path}: no score is filled in; write numbers from 1 to 5 into the column score")
    value = torch.tensor([found.get(place, math.nan) for place in places])
    record = {"empty": len(found) - len(filled), "absent": len(places) - len(found)}
    return value.reshape(decomposition.fidelity.shape), {"sha256": hashlib.sha256(raw).hexdigest(), **record}


def _rows(path: str | Path, raw: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line number and cells by column, for every row that is not blank."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as CSV in UTF-8") from None
    head = text.partition("\n")[0]
    border = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=border)
    try:
        names = [name.strip().lower() for name in next(reader, [])]
        if any(names.count(name) != 1 for name in _NEEDED):
            raise InputError(
                f"{path}, line 1: expected the columns {', '.join(_NEEDED)}, each once, in the first line. Decision "
                "files of the paper's authors are read by sith-hf import-scores"
            )
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) < len(names):
                raise InputError(f"{path}, line {reader.line_num}: {len(cells)} cells, expected {len(names)}")
            yield reader.line_num, dict(zip(names, cells, strict=False))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _place(cells: dict[str, str]) -> PoleKey:
    numbers = []
    for name in ("layer", "head", "vector"):
        cell = cells[name].strip()
        if not (cell.isascii() and cell.isdigit() and len(cell) < 10):
            raise InputError(f"{name} is not a whole number; got {sanitize(cell, 40)!r}")
        numbers.append(int(cell))
    pole = _POLES.get(cells["pole"].strip().lower())
    if pole is None:
        raise InputError(f"pole is plus or minus; got {sanitize(cells['pole'], 40)!r}")
    return numbers[0], numbers[1], numbers[2], pole


def _texts(cell: str) -> object:
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return None


def _score(cell: str) -> float:
    """Return the score of a cell, with a decimal point or a decimal comma; NaN for an empty one."""
    text = cell.strip()
    if not text:
        return math.nan
    try:
        score = float(text.replace(",", "."))
    except ValueError:
        score = math.nan
    if not 1 <= score <= 5:
        raise InputError(f"a score must be a number from 1 to 5, or an empty cell; got {sanitize(text, 40)!r}")
    return score
