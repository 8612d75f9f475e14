"""``sith-hf verify``: compare an edited checkpoint with its base."""

from __future__ import annotations

import sys

import click

from sith_hf.cli import messages, options
from sith_hf.cli.output import show_result


@click.command()
@click.argument("edited", type=options.PLACE)
@click.option(
    "--base",
    type=options.PLACE,
    help="The base: folder or Hub id.  [default: the base in the spec, from the Hub, or a folder of that name here or "
    "beside EDITED]",
)
@options.specs("The edit spec: folder or Hub id; the one in EDITED if not given.")
@options.as_json
def verify(edited: str, base: str | None, spec_paths: tuple[str, ...], as_json: bool) -> None:
    """Check that EDITED differs from its base only by its edit, tensor by tensor. Exit code 1 if not."""
    from sith_hf.checkpoint import verify as check
    from sith_hf.core.escaping import sanitize

    found = check(edited, base, options.spec_of(spec_paths) if spec_paths else None, progress=messages.progress())
    counts = (
        f"{'verified' if found.ok else 'NOT verified'}: {found.edited} tensors hold the edit, "
        f"{found.identical} tensors and {found.files} files identical to the base"
    )
    show_result(as_json, found.to_json(), *(sanitize(problem, 400) for problem in found.problems), counts)
    sys.exit(0 if found.ok else 1)
