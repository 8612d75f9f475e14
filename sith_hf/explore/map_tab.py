"""The tab with the map and the open head."""

from __future__ import annotations

import gradio as gr

from sith_hf.explore.html import render
from sith_hf.explore.map_view import energy_map
from sith_hf.explore.panel import panel
from sith_hf.explore.shared import Shared


def map_tab(shared: Shared) -> None:
    """Build the tab."""
    decomposition = shared.explorer.decomposition
    part = panel(render("map.html.j2", view=energy_map(decomposition)), name="map")
    shared.listen(part)
    head = panel("<p>Choose a head.</p>", name="head")
    shared.listen(head)
    shared.head.change(
        lambda place: f"<h2>Layer {place[0]}, head {place[1]}</h2>",
        shared.head,
        head,
        show_progress="hidden",
        api_visibility="private",
    )
    gr.Markdown("")
