"""An editor and an edit under construction, as a notebook shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sith_hf.core.html import block, fact_table, faint, html_table
from sith_hf.decomposition import MOST_ROWS, Decomposition
from sith_hf.gains import Impact
from sith_hf.towers import LoadedModel, Tower, layer_title


def editor_facts(
    loaded: LoadedModel, companion: LoadedModel | None, tower: Tower, edits: int, decomposition: Decomposition | None
) -> dict[str, str]:
    """Return what an editor is of, as names and values.

    Args:
        loaded, companion, tower: of the editor.
        edits: the number of edits that the checkpoint already has.
        decomposition: the latest one; None if there is none yet.
    """
    layers = "layer" if len(tower.layers) == 1 else "layers"
    facts = {
        "model": f"{loaded.name} ({type(loaded.model).__name__})",
        "tower": f"{tower.kind}: {len(tower.layers)} {layers}, {tower.num_heads} heads of size {tower.head_size}",
    }
    if companion is not None:
        facts["texts by"] = companion.name
    if edits:
        facts["history"] = f"{edits} {'edit' if edits == 1 else 'edits'}"
    facts["decomposition"] = "none yet" if decomposition is None else f"layers {list(decomposition.layers)}"
    return facts


def edit_html(
    title: str, rows: Sequence[Mapping[str, Any]], impact: Impact, taken: Mapping[str, float], warnings: Sequence[str],
    settings: Mapping[str, Any],
) -> str:  # fmt: skip
    """Return an edit under construction: impact, words, warnings, and its first vectors.

    Args:
        title: the edit in a line.
        rows: of :func:`sith_hf.gains.gain_rows`.
        impact, taken, warnings: of the edit.
        settings: of the tower.
    """
    shown = [(word, f"{share:.0%} of what the model writes of it, estimated") for word, share in taken.items()]
    explained, cells = any(row["explanation"] for row in rows), []
    for row in rows[:MOST_ROWS]:
        place = [layer_title(row["layer"], settings), row["head"], row["vector"]]
        words = faint("silent") if row["silent"] else f"{row['pole'] or ''} {row['explanation']}".strip()
        cells.append([*place, f"{row['gain']:.3g}", row["reason"], *([words] if explained else [])])
    columns = ["layer", "head", "vector", "gain", "reason", *(["explanation"] if explained else [])]
    facts = [("impact", str(impact)), *shown[:MOST_ROWS], *(("warning", line) for line in warnings[:MOST_ROWS])]
    return block(title, fact_table(facts), html_table(columns, cells, more=len(rows) - len(cells)))
