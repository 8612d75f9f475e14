"""Build the page and serve it, if Gradio is installed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from sith_hf.errors import MissingExtra
from sith_hf.explore.explorer import Explorer
from sith_hf.explore.stubs import no_stubs
from sith_hf.explore.warm import warm_up

if TYPE_CHECKING:
    from gradio import Blocks

HOST, PORT = "127.0.0.1", 7860


def build_app(explorer: Explorer) -> Blocks:
    """Return the page as a Gradio app. Raises MissingExtra without Gradio."""
    # Gradio reads these when it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        with no_stubs():
            from sith_hf.explore.app import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise MissingExtra("gradio", "explore") from None
    return page(explorer)


def launch(explorer: Explorer, *, host: str = HOST, port: int = PORT, mcp: bool = False, wait: bool = True) -> Any:
    """Serve the page until Ctrl-C.

    Args:
        explorer: what it shows.
        host: the address to bind to. Anyone who reaches it can use the page.
        port: the port.
        mcp: also serve search, explain and edit as MCP tools.
        wait: block until Ctrl-C; if not, return Gradio's app, to be closed with ``close()``.

    Raises:
        MissingExtra: without Gradio.
    """
    app = build_app(explorer)
    warm_up(explorer)
    from sith_hf.explore.app import LOOK

    app.launch(
        server_name=host,
        server_port=port,
        mcp_server=mcp,
        prevent_thread_lock=not wait,
        share=False,
        ssr_mode=False,
        quiet=True,
        footer_links=[],
        **LOOK,
    )
    return app
