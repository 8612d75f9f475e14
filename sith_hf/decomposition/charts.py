"""Charts of a decomposition: the map of its heads, and the vectors of one head (matplotlib, extra ``plot``)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sith_hf.charts import FAINT, INK, SERIES, blank_figure, dress, head_grid
from sith_hf.core.escaping import sanitize
from sith_hf.core.validation import whole_number
from sith_hf.decomposition.explanation import Explanation
from sith_hf.decomposition.poles import ExplainedPoles
from sith_hf.towers import layer_title

_WORDS = 3


def draw_map(found: ExplainedPoles, concept: str | None = None, embedding: Tensor | None = None) -> Any:
    """Draw layers (rows, first on top) by heads (columns).

    The colour is the share of the head's energy in vectors with words better than chance. If that is not known, it is
    the mean fidelity, weighted by energy; without words, the share of the strongest vector.

    Args:
        found: the decomposition.
        concept: colour by this concept instead: the largest share of an explanation that it and similar concepts have
            in a pole of the head, without silent poles.
        embedding: its text embedding, ``[P]``, for a concept that no explanation has.

    Returns:
        a ``matplotlib.figure.Figure``, which a notebook shows.

    Raises:
        InputError: an unknown concept without an embedding, or a decomposition without words.
        MissingExtra: matplotlib is not installed.
    """
    values, label, high = _colours(found, concept, embedding)
    layers, heads = values.shape
    with blank_figure(2.6 + max(2.2, 0.24 * heads), 1.5 + max(1.6, 0.22 * layers)) as figure:
        axes = figure.subplots()
        titles = [str(layer_title(layer, found.base.settings)) for layer in found.layers]
        head_grid(axes, values.tolist(), titles, label=label, high=high)
        of = "" if concept is None else f"{sanitize(concept, 40)}: "
        dress(axes, title=f"{of}heads of the {found.tower} tower", x="head", y="layer", grid=False)
        figure.draw_without_rendering()  # ticks are made when a figure is first drawn, here in the style
        return figure


def _colours(found: ExplainedPoles, concept: str | None, embedding: Tensor | None) -> tuple[Tensor, str, float | None]:
    """Return the value of each head, ``[L, H]``, its name, and the end of the colour bar."""
    if concept is not None or embedding is not None:
        query = found.embedding_of(concept or "") if embedding is None else embedding
        share, beyond = found.share(query.reshape(1, -1).float()), found.beyond_chance()
        share = share if beyond is None else share * beyond
        return 100 * share.amax(dim=(-2, -1)), "largest share of a pole's words, %", None
    if not found.has_words:
        return 100 * found.energy_share[..., 0], "energy of the strongest vector, %", None
    energy = found.energy_beyond_chance
    if energy is not None:
        return 100 * energy, "energy beyond chance, %", None
    return (found.energy_share * found.fidelity.mean(dim=-1)).sum(dim=-1), "mean fidelity, weighted by energy", None


def draw_head(found: ExplainedPoles, layer: int, head: int, vectors: int = 12) -> Any:
    """Draw the strongest vectors of one head: energy, the fidelity of each pole beside chance and ceiling, and words.

    Full marks are poles beyond chance, whose words stand beside them; empty marks are silent poles.

    Args:
        found: the decomposition.
        layer: a layer number; a negative one counts from the last decomposed layer.
        head: a head; a negative one counts from the last.
        vectors: how many.

    Returns:
        a ``matplotlib.figure.Figure``, which a notebook shows.

    Raises:
        InputError: a layer or head that is not there, or no vector.
        MissingExtra: matplotlib is not installed.
    """
    count = min(whole_number(vectors, "vectors", least=1), found.rank)
    (layer,) = found.resolve_layers([layer])
    (head,) = found.resolve_heads([head])
    place = found.position(layer), head
    with blank_figure(9.0 if found.has_words else 5.0, 1.6 + 0.36 * count) as figure:
        columns = 2 if found.has_words else 1
        panels = figure.subplots(1, columns, sharey=True, squeeze=False, width_ratios=(1, 1.7)[:columns])[0]
        rows = range(count)
        panels[0].barh(rows, [100 * found.energy_share[(*place, v)].item() for v in rows], color=SERIES[0], height=0.6)
        title = f"layer {layer_title(layer, found.base.settings)}, head {head}"
        dress(panels[0], title=title, x="energy, % of the head", y="vector")
        panels[0].set_yticks(rows, [str(v) for v in rows])
        panels[0].set_ylim(count - 0.4, -0.6)
        if found.has_words:
            _fidelities(panels[1], found, place, count)
        figure.draw_without_rendering()  # ticks are made when a figure is first drawn, here in the style
        return figure


def _fidelities(axes: Any, found: ExplainedPoles, place: tuple[int, int], count: int) -> None:
    """Draw the fidelity of each pole, chance, the ceiling, and the words to the right."""
    poles = found.of_head(*place)[: count * len(found.poles)]
    for item in poles:
        at = item.vector + _offset(found, item)
        face = "none" if item.silent else SERIES[0]
        axes.plot(item.fidelity, at, marker="o", markersize=5, color=SERIES[0], markerfacecolor=face)
        words = "silent" if item.silent else ", ".join(sanitize(text, 24) for text, _ in item.concepts[:_WORDS])
        style = {"fontsize": 8, "va": "center", "color": FAINT if item.silent else INK, "annotation_clip": False}
        axes.annotate(f"{item.pole} {words}", (1.0, at), xytext=(6, 0), textcoords="offset points", **style)
    for vector in range(count):
        ceiling = found.ceiling[(*place, vector)].item()
        axes.plot([ceiling, ceiling], [vector - 0.4, vector + 0.4], color=FAINT, linewidth=1.2)
    chance = poles[0].chance
    if chance is not None:
        axes.axvline(chance, color=FAINT, linestyle=":", linewidth=1.2)
        axes.annotate("chance", (chance, -0.6), xytext=(3, 2), textcoords="offset points", fontsize=8, color=FAINT)
    axes.set_xlim(min(0.0, *(item.fidelity for item in poles)), 1.0)
    dress(axes, x="fidelity (line: ceiling)")


def _offset(found: ExplainedPoles, item: Explanation) -> float:
    return 0.0 if len(found.poles) == 1 else -0.18 if item.pole == found.poles[0] else 0.18
