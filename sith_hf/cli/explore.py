"""``sith-hf explore``: a decomposition in the browser."""

from __future__ import annotations

import click

from sith_hf.cli import options  # noqa: F401


@click.command()
@click.argument("explained")
@click.option("--model", help="The decomposed model, to edit and to see pictures: folder or Hub id.")
@click.option("--images", help="A data set of images.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to bind to.")
@click.option("--port", type=int, default=7860, show_default=True, help="The port.")
@click.option("--mcp", is_flag=True, help="Also serve search, explain and edit as MCP tools.")
def explore(explained: str, model: str | None, images: str | None, host: str, port: int, mcp: bool) -> None:
    """Open EXPLAINED, a decomposition (folder or Hub id), in the browser."""
    from sith_hf.explore import Explorer, launch

    launch(Explorer.open(explained, model, images), host=host, port=port, mcp=mcp)
