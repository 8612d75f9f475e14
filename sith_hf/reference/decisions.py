"""Decision files: scores of singular vectors as text, as the paper's authors save their judge's, or one vector a line.

The grammar, per file; the file is UTF-8:

- **One line a vector**, as the authors' scripts write: ``4``, ``Error`` for a vector without a score, or ``theme,4``.
  The file's name holds the layer, as ``layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.txt``; the lines are the
  vectors of head 0, then of head 1, and so on, so their number is heads times rank. No line may be blank.
- **Numbered vectors**: ``LAYER HEAD VECTOR SCORE`` in each line, or ``HEAD VECTOR SCORE`` if the file's name holds the
  layer. Between the numbers stand spaces, tabs, ``, ; : = | / _ ->`` or brackets; each may have its name before it,
  such as ``layer-20_head-3_vector-5: 4``, ``(20, 3, 5): 4`` or ``L20 H3 V5 4``. A first line of the names in this
  order, blank lines and lines that begin with ``#`` are skipped.

A score is a number from 1 to 5; ``Error``, ``None``, ``NaN``, ``N/A`` and ``-`` mean that there is none. Layers, heads
and vectors count from 0. Anything else is refused, with its line.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_input
from sith_hf.decomposition import Decomposition
from sith_hf.errors import InputError
from sith_hf.gains import HIGHEST_SCORE, LOWEST_SCORE, Scores

MAX_BYTES = 50_000_000

_LAYER = re.compile(r"(?:^|[_-])layer-?(\d{1,4})(?:[_.-]|$)", re.IGNORECASE)
_SIDE = re.compile(r"_(left|right)(?:_|$)", re.IGNORECASE)
# The authors' word for the directions that a vector reads or writes.
_SIDES = {"left": "read", "right": "write"}
_NO_SCORE = frozenset({"error", "none", "nan", "n/a", "null", "-"})
_NAMES = ("layer", "head", "vector", "score")
_BETWEEN = r"(?:[\s,;:=|()\[\]/_]|->)+"
_NUMBERED = (
    r"[(\[]?\s*"
    + _BETWEEN.join(
        rf"(?:(?:{name})[\s:=_#-]*)?(\d{{1,9}})" for name in ("layer|l", "head|h", "singular[ _-]?vector|vector|sv|v")
    )
    + _BETWEEN
    + r"(?:score[\s:=_-]*)?(\S+?)\s*[)\]]?"
)
_OF_MODEL = re.compile(_NUMBERED, re.IGNORECASE)
_OF_LAYER = re.compile(_NUMBERED.replace(r"(?:(?:layer|l)[\s:=_#-]*)?(\d{1,9})" + _BETWEEN, "", 1), re.IGNORECASE)

# A singular vector by its layer, head and number.
_Vector = tuple[int, int, int]


def read_decisions(files: Iterable[str | Path], decomposition: Decomposition, *, topic: str) -> Scores:
    """Read decision files as scores of the pole ``+``, which is the one that the authors explain.

    Args:
        files: see the module's text; several layers may be in one file or in one file each.
        decomposition: the explanations that were scored: imported from the authors' files (``import_reference``), or
            with vectors of the same order and sign.
        topic: the topic of the scores, in words.

    Returns:
        Scores, NaN for the pole ``-`` and for vectors without a score. Its record counts vectors without a score
        (``empty``) and without a line (``absent``).

    Raises:
        InputError: a file or line that is not understood, a vector that the decomposition does not have, two scores for
            one vector, or no score at all.
    """
    found: dict[_Vector, float] = {}
    sha256: dict[str, str] = {}
    for path in map(Path, files):
        raw = read_input(path, "the decision file", "name a text file of scores", MAX_BYTES)
        sha256[path.name] = hashlib.sha256(raw).hexdigest()
        for line, vector, score in _read(path, raw, decomposition):
            if vector in found:
                raise InputError(f"{path}, line {line}: {_words(vector)} has a score already; keep one of the two")
            found[vector] = score
    if not any(not math.isnan(score) for score in found.values()):
        raise InputError("the decision files hold no score; expected numbers from 1 to 5")
    value = torch.full(decomposition.fidelity.shape, math.nan)
    for (layer, head, number), score in found.items():
        value[decomposition.layers.index(layer), head, number, 0] = score
    empty = sum(math.isnan(score) for score in found.values())
    absent = decomposition.fidelity[..., 0].numel() - len(found)
    return Scores.of(
        decomposition,
        value,
        topic=topic,
        judge=f"the decision files {', '.join(sorted(sha256))}",
        record={"by": "decisions", "sha256": sha256, "empty": empty, "absent": absent},
    )


def _read(path: Path, raw: bytes, decomposition: Decomposition) -> Iterable[tuple[int, _Vector, float]]:
    """Return line, vector and score of each entry of a file."""
    try:
        # A theme may hold other line separators of Unicode.
        lines = raw.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    side = _SIDE.search(path.stem)
    if side is not None and _SIDES[side[1].lower()] != decomposition.settings.get("side", "write"):
        raise InputError(
            f"{path} scores {side[1].lower()} singular vectors ({_SIDES[side[1].lower()]} directions), and this "
            "decomposition explains the others. Use the decomposition that was scored"
        )
    named = _LAYER.search(path.stem)
    layer = None if named is None else int(named[1])
    while lines and not lines[-1].strip():
        lines.pop()
    numbered = _numbered(lines, layer)
    if numbered:
        entries = [
            (line, (int(place[0]), int(place[1]), int(place[2])), _score(path, line, cell))
            for line, (*place, cell) in numbered
        ]
    elif layer is None:
        raise InputError(
            f"{path}: neither lines of LAYER HEAD VECTOR SCORE, nor a layer in the file's name, such as layer-20_"
            f"right_foldln_conceptnet_comp-0.3_sparsity-5.txt for one score a line{_first_odd(lines)}"
        )
    else:
        entries = _in_order(path, lines, layer, decomposition)
    for line, vector, _ in entries:
        _check(path, line, vector, decomposition)
    return entries


def _numbered(lines: Sequence[str], layer: int | None) -> list[tuple[int, list[str]]]:
    """Return line number and cells of each line if all lines are numbered vectors; an empty list otherwise."""
    found: list[tuple[int, list[str]]] = []
    for number, text in enumerate(lines, 1):
        stripped = text.strip()
        if not stripped or stripped.startswith("#") or (not found and _is_header(stripped)):
            continue
        of_model = _OF_MODEL.fullmatch(stripped)
        of_layer = None if layer is None or of_model is not None else _OF_LAYER.fullmatch(stripped)
        if of_model is not None:
            found.append((number, [*of_model.groups()]))
        elif of_layer is not None:
            found.append((number, [str(layer), *of_layer.groups()]))
        else:
            return []
    return found


def _is_header(text: str) -> bool:
    words = re.findall(r"[a-z]+", text.casefold())
    return tuple(words) in (_NAMES, _NAMES[1:])


def _in_order(
    path: Path, lines: Sequence[str], layer: int, decomposition: Decomposition
) -> list[tuple[int, _Vector, float]]:
    """Return the entries of a file with one score a line."""
    heads, rank = decomposition.num_heads, decomposition.rank
    scores = [_score(path, line, text.rpartition(",")[2].strip()) for line, text in enumerate(lines, 1)]
    if len(scores) != heads * rank:
        raise InputError(
            f"{path} has {len(scores)} lines, one for each vector; this decomposition has {heads} heads with {rank} "
            f"vectors each, {heads * rank} in a layer. Use the decomposition that was scored"
        )
    return [(at + 1, (layer, at // rank, at % rank), score) for at, score in enumerate(scores)]


def _score(path: Path, line: int, cell: str) -> float:
    if cell.casefold() in _NO_SCORE:
        return math.nan
    try:
        score = float(cell)
    except ValueError:
        score = math.nan
    if not LOWEST_SCORE <= score <= HIGHEST_SCORE or "_" in cell:
        shown = f"got {sanitize(cell, 40)!r}" if cell else "the line is blank"
        raise InputError(f"{path}, line {line}: a score must be a number from 1 to 5, or Error; {shown}")
    return score


def _check(path: Path, line: int, vector: _Vector, decomposition: Decomposition) -> None:
    layer, head, number = vector
    if layer not in decomposition.layers or head >= decomposition.num_heads or number >= decomposition.rank:
        layers = ", ".join(map(str, decomposition.layers))
        raise InputError(
            f"{path}, line {line}: the decomposition has no {_words(vector)}; it has layers {layers}, "
            f"{decomposition.num_heads} heads and {decomposition.rank} vectors each, counted from 0"
        )


def _words(vector: _Vector) -> str:
    return "layer {}, head {}, vector {}".format(*vector)


def _first_odd(lines: Sequence[str]) -> str:
    odd = [
        (line, text)
        for line, text in enumerate(lines, 1)
        if text.strip() and not text.startswith("#") and not _OF_MODEL.fullmatch(text.strip())
    ]
    return f". Line {odd[0][0]} is {sanitize(odd[0][1], 40)!r}" if odd else ""
