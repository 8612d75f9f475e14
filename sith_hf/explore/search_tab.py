"""The tab ``Search``."""

from __future__ import annotations

from typing import Any

import gradio as gr

from sith_hf.explore.explorer import Explorer
from sith_hf.explore.html import render
from sith_hf.explore.panel import panel
from sith_hf.explore.search_view import search_view
from sith_hf.explore.shared import Shared


def search_tab(shared: Shared) -> None:
    """Build the tab."""
    explorer = shared.explorer
    with gr.Row(elem_classes="sith-ask"):
        text = gr.Textbox(label="Concepts", placeholder="beach, ocean", scale=5, lines=1, max_lines=4)
        button = gr.Button("Search", variant="primary", scale=1, min_width=100)
    part = panel(search_html(explorer, ""), name="search")
    shared.listen(part)
    quick: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    gr.on([text.submit, button.click], lambda text: text, text, shared.query, **quick)
    # The first text that the model encodes waits for the model.
    quick["show_progress"] = "minimal"
    shared.query.change(lambda query: (query, search_html(explorer, query)), shared.query, [text, part], **quick)


def search_html(explorer: Explorer, text: str) -> str:
    """Return the results of a search as HTML."""
    return render("search.html.j2", view=search_view(explorer, text))
