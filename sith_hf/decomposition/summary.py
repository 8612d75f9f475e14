"""A decomposition in one line, and as HTML for a notebook: what it is of, and its strongest poles beyond chance."""

from __future__ import annotations

import torch

from sith_hf.core.escaping import sanitize
from sith_hf.core.html import block, fact_table, faint
from sith_hf.decomposition.explanation import Explanation
from sith_hf.decomposition.notebook import pole_table
from sith_hf.decomposition.poles import ExplainedPoles

STRONGEST = 8
"""The poles of a summary."""


def summary_text(found: ExplainedPoles) -> str:
    """Return a decomposition in one line."""
    side = "" if found.side == "write" else f"{found.side} directions, "
    words = f"poles {''.join(found.poles)}, {len(found.texts)} concepts in use" if found.has_words else "no words"
    beyond = found.beyond_chance()
    words += "" if beyond is None else f", {int(beyond.sum())} of {beyond.numel()} poles beyond chance"
    side = side if found.tower == "vision" else f"{found.tower} tower, {side}"
    return (
        f"Decomposition({sanitize(found.base.name)}, {side}layers {_layers(found)}, {found.num_heads} heads, "
        f"{found.rank} vectors each, {words})"
    )


def summary_html(found: ExplainedPoles) -> str:
    """Return a decomposition as HTML; the explanations of a few heads are read, and no others."""
    beyond = found.beyond_chance()
    vectors = f"{found.singular_values.numel():,} singular vectors"
    of_base = (
        ("tower", found.tower if found.side == "write" else f"{found.tower}, {found.side} directions"),
        ("vectors", f"{vectors}: layers {_layers(found)}, {found.num_heads} heads, {found.rank} each"),
    )
    title = f"Decomposition of {sanitize(found.base.name, 200)}"
    if not found.has_words:
        return block(title, fact_table([*of_base, ("words", "none: decomposed without concepts")]))
    fidelity = f"{float(found.fidelity.mean()):.3f} of at most {float(found.ceiling.mean()):.3f}"
    fidelity += "" if found.chance is None else f"; random directions {found.chance:.3f}"
    if beyond is None:
        poles = "not compared with chance"
    else:
        poles = f"{int(beyond.sum()):,} of {beyond.numel():,} better than chance; the others are silent"
    facts = [
        *of_base,
        ("concepts", f"{len(found.texts):,} in use"),
        ("explanations", poles),
        ("mean fidelity", fidelity),
        ("driven by", None if found.drivers is None else f"measured on {found.drivers.title}"),
    ]
    strongest = _strongest(found)
    kind = "strongest poles" if beyond is None else "strongest poles beyond chance"
    rows = pole_table(strongest, found.base.settings) if strongest else None
    hint = "decomposition[layer, head, vector], .find(concept), .plot() and .to_pandas() show more."
    return block(title, fact_table(facts), faint(f"{kind}:") if strongest else None, rows, faint(hint))


def _layers(found: ExplainedPoles) -> str:
    """Return the layers, such as ``20-23`` or ``2, 5``."""
    numbers = found.layers
    whole = len(numbers) > 1 and numbers == tuple(range(numbers[0], numbers[-1] + 1))
    return f"{numbers[0]}-{numbers[-1]}" if whole else ", ".join(map(str, numbers))


def _strongest(found: ExplainedPoles) -> list[Explanation]:
    """Return the poles of the most energy, without those that are known to be no better than chance."""
    energy, beyond = found.energy_share.unsqueeze(-1).expand(found.fidelity.shape), found.beyond_chance()
    score = energy if beyond is None else torch.where(beyond, energy, -1.0)
    values, index = score.flatten().sort(descending=True, stable=True)
    pairs = zip(index[:STRONGEST].tolist(), values[:STRONGEST].tolist(), strict=True)
    return [found.at(number) for number, value in pairs if value >= 0]
