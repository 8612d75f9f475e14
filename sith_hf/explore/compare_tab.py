"""The tab ``Compare``."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sith_hf.core.escaping import sanitize
from sith_hf.errors import SithError
from sith_hf.explore.compare_view import SHOWN
from sith_hf.explore.comparison import comparison_of
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.html import render
from sith_hf.explore.panel import panel, sent
from sith_hf.explore.shared import Shared

# What is compared, the map, and the open head.
Chosen = tuple[str, str, tuple[int, int] | None]
NOTHING: Chosen = ("", "", None)

QUICK: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def compare_tab(shared: Shared) -> None:
    """Build the tab."""
    explorer = shared.explorer
    chosen = gr.State(NOTHING)
    with gr.Row(elem_classes="sith-ask"):
        name = gr.Textbox(
            explorer.other or "",
            label="Compare with (B)",
            placeholder="a folder or Hub id" if explorer.local else "nothing was named when this page was started",
            interactive=explorer.local,
            max_length=1000,
            scale=4,
        )
        button = gr.Button("Compare", scale=1, min_width=120)
    with gr.Row(elem_classes="sith-split"):
        with gr.Column(scale=4, min_width=320):
            whole = panel(compare_html(explorer, NOTHING), name="compare", scripts=["map.js"])
        with gr.Column(scale=5, min_width=320):
            both = panel(name="compare-head")

    def opened(event: gr.SelectData, now: Chosen) -> Any:
        """Compare with what the command line names when the tab is opened first."""
        return (explorer.other, "", None) if event.value == "Compare" and explorer.other and not now[0] else gr.skip()

    def clicked(now: Chosen, event: gr.EventData) -> Chosen:
        try:
            data = sent(event)
            match data:
                case {"action": "map", "map": wanted}:
                    return now[0], wanted, now[2]
                case {"action": "both"}:
                    return now[0], now[1], shared.place(data)[:2]
        except SithError as error:
            raise gr.Error(str(error), print_exception=False) from None
        return now

    options = {**QUICK, "show_progress": "minimal"}
    gr.on([button.click, name.submit], lambda text: (text.strip() or " ", "", None), name, chosen, **QUICK)
    shared.tabs.select(opened, chosen, chosen, **QUICK)
    whole.click(clicked, chosen, chosen, **QUICK)
    chosen.change(lambda now: compare_html(explorer, now), chosen, whole, **options)
    chosen.change(lambda now: head_html(explorer, now), chosen, both, **options)
    shared.listen(both)


def compare_html(explorer: Explorer, chosen: Chosen) -> str:
    """Return the comparison and its map as HTML; what is wrong stands in it."""
    other, wanted, place = chosen
    values: dict[str, Any] = {"view": None, "map": None, "problem": "", "has_model": explorer.model is not None}
    if not other:
        return render("compare.html.j2", **values, open=None)
    try:
        view = comparison_of(explorer, other)
    except (SithError, OSError) as error:
        return render("compare.html.j2", **{**values, "problem": sanitize(str(error), 2000)}, open=None)
    shown = view.maps.get(wanted) or next(iter(view.maps.values()))
    first = (shown.rows[0][0].layer, shown.rows[0][0].head)
    return render("compare.html.j2", **{**values, "view": view, "map": shown}, open=place or first)


def head_html(explorer: Explorer, chosen: Chosen) -> str:
    """Return the open head on both sides as HTML; nothing while none is open."""
    other, _, place = chosen
    if not other or place is None:
        return ""
    try:
        view = comparison_of(explorer, other).head(*place)
    except (SithError, OSError) as error:
        return render("compare_head.html.j2", view=None, problem=sanitize(str(error), 2000), shown=SHOWN)
    return render("compare_head.html.j2", view=view, problem="", shown=SHOWN)
