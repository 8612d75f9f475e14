"""The vectors of an edit as rows and as a table: gain, share, fidelity beside chance, and the reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sith_hf.core.tables import table
from sith_hf.decomposition import Decomposition, concepts_text, poles_label
from sith_hf.gains.gains import Gains


def gain_rows(decomposition: Decomposition, gains: Gains) -> list[dict[str, Any]]:
    """Return the vectors whose gain is not 1 as plain data, by layer, head and vector.

    Fidelity, p-value and explanation are of the pole that counted, or of the better explained one; ``beyond_chance`` is
    whether any pole is better explained than chance at a false discovery rate of 0.05, and ``silent`` whether that pole
    is not; None if not known. Without explanations, pole and fidelity are None too.
    """
    found, rows = decomposition.beyond_chance(), []
    for key, gain in sorted(gains.gain.items()):
        if gain == 1:
            continue
        place = (decomposition.position(key[0]), *key[1:])
        poles = [decomposition.explain(*key, pole) for pole in decomposition.poles]
        evidence = [item.to_json() for item in gains.evidence.get(key, ())]
        counted = {item.get("pole") for item in evidence}
        best = max(poles, key=lambda pole: (pole.pole in counted, pole.fidelity), default=None)
        shares = [item["share"] for item in evidence if "share" in item]
        rows.append(
            {
                **dict(zip(("layer", "head", "vector"), key, strict=True)),
                "gain": gain,
                "label": poles_label(poles),
                "reason": gains.reason.get(key, ""),
                "share": max(shares, default=None),
                "evidence": evidence,
                "pole": None if best is None else best.pole,
                "fidelity": None if best is None else best.fidelity,
                "p_value": None if best is None else best.p_value,
                "beyond_chance": None if found is None else bool(found[place].any()),
                "explanation": "" if best is None else concepts_text(best),
                "silent": None if best is None or best.beyond_chance is None else best.silent,
            }
        )
    return rows


def gain_table(rows: Sequence[dict[str, Any]], title: str | None = None) -> str:
    """Format the rows of :func:`gain_rows` as text.

    ``(chance)``: no pole is better explained than chance. A pole that is not shows no words.
    """
    columns = ["layer", "head", "vector", "gain", "share", "fidelity", "reason", "explanation"]
    cells: list[list[object]] = []
    for row in rows:
        share = "" if row["share"] is None else f"{row['share']:.2f}"
        chance = " (chance)" if row["beyond_chance"] is False else ""
        fidelity = "" if row["fidelity"] is None else f"{row['fidelity']:.2f}{chance}"
        numbers = [row["layer"], row["head"], row["vector"], f"{row['gain']:.3g}", share, fidelity]
        words = "silent" if row["silent"] else row["explanation"]
        cells.append([*numbers, row["reason"], f"{row['pole'] or ''} {words}".strip()])
    known = [row["silent"] for row in rows if row["silent"] is not None]
    said = f"{sum(known)} of {len(known)} poles are silent: explained no better than chance." if any(known) else ""
    return "\n".join([table(columns, cells, title), *([said] if said else [])])
