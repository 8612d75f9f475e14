"""``sith-hf explore``: a decomposition in the browser, here or in a Space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from sith_hf.cli import messages, options
from sith_hf.cli.output import show_result
from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.explore import PushedSpace
    from sith_hf.hub import PushResult


@click.command()
@click.argument("explained", type=options.PLACE)
@click.option(
    "--model", type=options.PLACE, help="The decomposed model, to edit and to see pictures: folder or Hub id."
)
@click.option("--images", help='A data set of images: a Hub dataset, a folder, or "leaves" for drawn pictures.')
@click.option(
    "--with",
    "other",
    metavar="OTHER",
    help="Compare with another decomposition, a folder of sith-hf compare, or (with --model) a tuned model.",
)
@options.placed
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to bind to.")
@click.option("--port", type=click.IntRange(1, 65535), default=7860, show_default=True, help="The port.")
@click.option("--mcp", is_flag=True, help="Also serve search, explain and edit as MCP tools.")
@click.option("--space", metavar="NAMESPACE/NAME", help="Publish the page as a Space on the Hub instead.")
@click.option("--private", is_flag=True, default=None, help="With --space: make new repositories private.")
@click.option("--dry-run", is_flag=True, help="With --space: send nothing; list the files. Works offline.")
@click.option("--json", "as_json", is_flag=True, help="With --space: print JSON.")
@click.pass_context
def explore(
    context: click.Context,
    explained: str,
    model: str | None,
    images: str | None,
    other: str | None,
    placed: dict[str, Any],
    host: str,
    port: int,
    mcp: bool,
    space: str | None,
    private: bool | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Open EXPLAINED, a decomposition (folder or Hub id), in the browser.

    The page is for this machine only, unless --host says otherwise. With --space, it becomes a Space on the Hub, and
    the decomposition a dataset: NAMESPACE/NAME-decomposition.
    """
    named = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    wrong = named & ({"host", "port", "device", "dtype"} if space else {"private", "dry_run", "as_json"})
    if wrong:
        shown = ", ".join(sorted(f"--{name.removeprefix('as_').replace('_', '-')}" for name in wrong))
        raise InputError(f"{shown} does not go with --space" if space else f"{shown} needs --space NAMESPACE/NAME")

    from sith_hf.explore import Explorer, check_address, is_loopback, launch, push_space

    if space:
        explorer = Explorer.open(explained, model, images, other)
        pushed = push_space(explorer, space, mcp=mcp, private=private, dry_run=dry_run)
        show_result(as_json, pushed.to_json(), *_lines(pushed))
        return
    check_address(host, port)  # before the work of reading
    with launch(
        Explorer.open(explained, model, images, other, **placed), host=host, port=port, mcp=mcp, wait=False
    ) as page:
        click.echo(f"{page.url} shows {sanitize(explained, 300)}; Ctrl-C stops it")
        if mcp:
            click.echo(f"{page.url}/gradio_api/mcp/ has the MCP tools")
        if not is_loopback(host):
            messages.warn(f"everyone who reaches port {port} of this machine can use this page")
        page.wait()


def _lines(pushed: PushedSpace) -> list[Any]:
    """Return the lines about a Space: its address first."""
    both = [pushed.space, *([] if pushed.dataset is None else [pushed.dataset])]
    lines = [line for one in both for line in _about(one)]
    if pushed.space.card_kept is not None:
        lines.append(
            f"README.md of the Space was kept: {pushed.space.card_kept}. It must say sdk: gradio and app_file: app.py; "
            "delete it there and run this again for a new one"
        )
    if pushed.space.dry_run:
        lines.append(f"\nREADME.md of the Space:\n\n{pushed.space.card}")
    return lines


def _about(one: PushResult) -> list[Any]:
    from sith_hf.core.tables import table

    url = sanitize(one.url)
    if one.nothing_to_do:
        return [f"{url} already has everything"]
    done = "would be sent" if one.dry_run else "sent"
    lines = [table(["bytes", "file"], [(size, name) for name, size in one.sent.items()], f"{url}: {done}")]
    lines += [] if one.compared else ["not compared with the repository: the Hub was not reached"]
    return [*lines, *(f"not touched in the repository: {sanitize(name)}" for name in one.others)]
