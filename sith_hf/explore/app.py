"""The page: one tab a file."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.resources import files
from typing import Any

import gradio as gr

from sith_hf.errors import SithError
from sith_hf.explore.basket import Basket
from sith_hf.explore.compare_tab import compare_tab
from sith_hf.explore.edit_tab import edit_tab
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.header_view import header
from sith_hf.explore.html import render
from sith_hf.explore.leave_tab import leave_tab
from sith_hf.explore.map_tab import map_tab
from sith_hf.explore.panel import panel
from sith_hf.explore.search_tab import search_tab
from sith_hf.explore.shared import Shared
from sith_hf.explore.tools import Tools

# Fonts of the reader's machine: the page asks no other host for any.
LOOK: dict[str, Any] = {
    "theme": gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
        # Gradio's blue has too little contrast to white.
        **{
            f"button_primary_{part}{state}{scheme}": colour
            for part, colours in (("background_fill", ("#00649d", "#00507d")), ("text_color", ("#ffffff", "#ffffff")))
            for state, colour in zip(("", "_hover"), colours, strict=True)
            for scheme in ("", "_dark")
        }
    ),
    "css": (files("sith_hf.explore") / "static" / "explore.css").read_text(encoding="utf-8"),
    "js": (files("sith_hf.explore") / "static" / "pulse.js").read_text(encoding="utf-8"),
}

TABS = {"map": map_tab, "search": search_tab, "edit": edit_tab, "leave": leave_tab, "compare": compare_tab}


def page(explorer: Explorer) -> gr.Blocks:
    """Return the page of ``explorer``."""
    with gr.Blocks(title="sith-hf explore", analytics_enabled=False, delete_cache=(600, 3600)) as app:
        panel(render("header.html.j2", view=header(explorer)), name="header")
        head = gr.State((explorer.decomposition.layers[-1], 0))
        basket, query, colour = gr.State(Basket()), gr.State(""), gr.State(("energy", ""))
        added = panel(_added(Basket()), name="added", scripts=["added.js"])
        with gr.Tabs() as tabs:
            shared = Shared(explorer, head, basket, tabs, query, colour)
            for name, build in TABS.items():
                with gr.Tab(name.capitalize(), id=name) as tab:
                    build(shared)
                if name == "edit":
                    basket.change(_edit_title, basket, tab, show_progress="hidden", api_visibility="private")
        basket.change(_added, basket, added, show_progress="hidden", api_visibility="private")
        tools = Tools(explorer)
        for tool in (tools.search, tools.explain, tools.edit):
            gr.api(_answered(tool))
    return app


def _added(basket: Basket) -> str:
    """Return a line about the basket as HTML: read aloud, and for the buttons of the vectors in it."""
    return render("added.html.j2", items=basket.items)


def _answered(tool: Callable[..., str]) -> Callable[..., str]:
    """Return a tool whose errors reach the client, and are not printed as faults of the program."""

    @wraps(tool)
    def answered(*values: Any, **named: Any) -> str:
        try:
            return tool(*values, **named)
        except SithError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return answered


def _edit_title(basket: Basket) -> gr.Tab:
    """Show on the tab that something was added, whichever tab is open."""
    return gr.Tab(label=f"Edit ({len(basket.items)})" if basket.items else "Edit")
