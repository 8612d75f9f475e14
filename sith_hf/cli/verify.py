"""``sith-hf verify``: compare an edited checkpoint with its base."""

from __future__ import annotations

import sys

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import show_answer


@click.command()
@click.argument("edited")
@click.option(
    "--base",
    help="The base: folder or Hub id.  [default: the base in the spec, from the Hub, or a folder of that name here or "
    "beside EDITED]",
)
@options.specs("The edit spec: folder or Hub id; the one in EDITED if not given.")
@options.as_json
def verify(edited: str, base: str | None, spec_paths: tuple[str, ...], as_json: bool) -> None:
    """Check that EDITED differs from its base only by its edit, tensor by tensor. Exit code 1 if not."""
    from sith_hf.checkpoint import verify as check
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.formatting import counted

    found = check(edited, base, options.spec_of(spec_paths) if spec_paths else None, progress=messages.progress())
    same = f"{counted(found.identical, 'tensor')} and {counted(found.files, 'file')} identical to the base"
    edit = f"{counted(found.edited, 'tensor')} that {'holds' if found.edited == 1 else 'hold'} the edit"
    answer = (
        f"verified: identical to the base except {edit} ({same})"
        if found.ok
        else f"NOT verified: {counted(len(found.problems), 'problem')} beside {edit} ({same})"
    )
    show_answer(as_json, found.to_json(), answer, *(sanitize(problem, 400) for problem in found.problems))
    sys.exit(0 if found.ok else 1)
