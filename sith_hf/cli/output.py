"""Print the results of subcommands."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from sith_hf.cli import messages
from sith_hf.cli.answer import show_answer
from sith_hf.core.escaping import sanitize
from sith_hf.core.formatting import counted
from sith_hf.core.tables import left_out_lines

if TYPE_CHECKING:
    from sith_hf.checkpoint import SavedCheckpoint
    from sith_hf.decomposition import Decomposition, Explanation

_TEXT = "Text tower."
_READ = "Read directions: what each vector looks for."


class Savable(Protocol):
    """A result with ``save_pretrained``."""

    def save_pretrained(self, folder: str | Path) -> Path: ...


def save_results(output: Path, overwrite: bool, *results: Savable) -> str:
    """Save results in one folder, all or none, and keep its other files. Return the path of the last one.

    Raises:
        InputError: the folder has other results of these kinds, without ``overwrite``.
        OutputError: they could not be written.
    """
    from sith_hf.files import new_folder

    with new_folder(output, keep_others=True, overwrite=overwrite) as folder:
        names = [item.save_pretrained(folder).name for item in results]
    for name in names:
        messages.detail(f"wrote {output / name}")
    return str(output / names[-1])


def show_result(as_json: bool, data: Any, *lines: object) -> None:
    """Print ``data`` as JSON, or ``lines``."""
    text = json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) if as_json else "\n".join(map(str, lines))
    click.echo(text)


def vectors_title(decomposition: Decomposition, *, side: bool = True) -> str | None:
    """Return the title of a table of vectors; None for what is usual, the write directions of a vision tower.

    Args:
        decomposition: of the vectors.
        side: whether the title says that they are read directions.
    """
    said = [_TEXT] * (decomposition.tower == "text") + [_READ] * (side and decomposition.side == "read")
    return " ".join(said) or None


def heard(
    rows: list[list[object]],
    explanations: Sequence[Explanation],
    *,
    every: bool,
    fdr: float,
    words: int | None = None,
) -> tuple[list[list[object]], list[int], str]:
    """Choose the rows of a table of explanations that are shown.

    Args:
        rows: of the table, one for each explanation.
        explanations: of the rows.
        every: whether the rows of silent poles are shown.
        fdr: the false discovery rate.
        words: the column of words, if a row is also shown for what drives its pole; its words are then left out.

    Returns:
        the rows to show, which of them are greyed, and a line that says how many poles are silent.
    """
    from sith_hf.decomposition import silent_line

    line = silent_line(explanations, shown=every, fdr=fdr, more="--all shows them")
    if every:
        return rows, [number for number, item in enumerate(explanations) if item.silent], line
    shown = []
    for row, item in zip(rows, explanations, strict=True):
        if not item.silent:
            shown.append(row)
        elif words is not None and item.driven_by:
            shown.append([*row[:words], "silent", *row[words + 1 :]])
    return shown, [], line


def show_decomposition(as_json: bool, result: Decomposition, path: str, *lines: str, **more: object) -> None:
    """Print a decomposition that was saved at ``path``: as JSON with ``more``, or as text, ``lines`` with --details."""
    from sith_hf.decomposition import speaking

    explained = result.has_words
    fidelity = float(result.fidelity.mean()) if explained else None
    found = result.beyond_chance()
    beyond = None if found is None else int(found.sum())
    data = {
        "decomposition": path,
        "tower": result.tower,
        "readout": result.settings.get("readout"),
        "layers": list(result.layers),
        "heads": result.num_heads,
        "vectors": result.rank,
        "fidelity": fidelity,
        "chance": result.chance,
        "beyond_chance": beyond,
        "settings": dict(result.settings),
        "effect": result.effect,
        "total_cosine": None if result.total_cosine is None else float(result.total_cosine.mean()),
        "drivers": None if result.drivers is None else {**result.drivers.to_json(), "silent": result.drivers.silent},
        **more,
    }
    quality = [f"mean fidelity {fidelity:.3f} of at most {float(result.ceiling.mean()):.3f}"] if explained else []
    if found is not None:
        quality.append(
            f"{beyond} of {found.numel()} explanations are better than chance (fidelity {result.chance:.3f}; false "
            "discovery rate 5 %)"
        )
    readout = f", read out by {result.settings.get('readout', 'a way that is not recorded')}" if explained else ""
    way = f"{result.tower} tower{readout}"
    rest = [repr(result), sanitize(way, 400), *lines, *quality]
    show_answer(as_json, data, speaking(result), *evidence_lines(result), path, rest=rest)


def evidence_lines(result: Decomposition) -> list[str]:
    """Return what a decomposition measured on images, in words: the total effect, and what drives its vectors."""
    lines = []
    if result.total_cosine is not None:
        images = result.settings.get("effect_images") or {}
        cosine = f"mean cosine of direct and total effect {float(result.total_cosine.mean()):.3f}"
        lines.append(f"total effect over {images.get('count', '?')} images of {images.get('title')}: {cosine}")
    if result.drivers is not None:
        poles, silent = result.fidelity.numel(), result.drivers.silent
        lines.append(
            f"driven by: {poles - silent} of {poles} poles name concepts, {silent} are silent; correlations over "
            f"{result.drivers.title} (false discovery rate 5 %)"
        )
    return [sanitize(line, 400) for line in lines]


def show_saved(as_json: bool, saved: SavedCheckpoint) -> None:
    """Print how much of a checkpoint changed, and the files that were left out; as JSON with each tensor."""
    data = {
        "folder": str(saved.folder),
        "changed": dict(saved.changed),
        "left_out": list(saved.left_out),
        "reasons": dict(saved.reasons),
        "effect": None if saved.effect is None else saved.effect.to_json(),
    }
    largest = max(saved.changed.values(), default=0.0)
    changed = f"{len(saved.changed)} tensors changed, by at most {largest:.3g}"
    effect = [] if saved.effect is None else str(saved.effect).splitlines()
    first, *more = [*effect, changed]
    left_out = f"{counted(len(saved.reasons), 'file')} left out"
    rest = [*more, *left_out_lines(saved.reasons)]
    show_answer(as_json, data, first, *([left_out] if saved.reasons else []), saved.folder, rest=rest)
