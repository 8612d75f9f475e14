"""``sith-hf verify``."""

from __future__ import annotations

import sys

import click

from sith_hf.cli.options import echo_json, json_option


@click.command()
@click.argument("edited")
@click.option("--base", help="The base: folder or Hub id.  [default: the base in the spec]")
@click.option("--spec", "spec_path", help="The edit spec: folder or Hub id.  [default: the one in EDITED]")
@json_option
def verify(edited: str, base: str | None, spec_path: str | None, as_json: bool) -> None:
    """Check that EDITED differs from its base only by its edit, tensor by tensor. Exit code 1 if not."""
    from sith_hf.checkpoint import verify as check
    from sith_hf.core.escaping import sanitize
    from sith_hf.edits import EditSpec

    spec = None if spec_path is None else EditSpec.from_pretrained(spec_path)
    found = check(edited, base, spec, progress=True)
    if as_json:
        echo_json(found.to_json())
    else:
        for problem in found.problems:
            click.echo(sanitize(problem, 400))
        click.echo(
            f"{'verified' if found.ok else 'NOT verified'}: {found.edited} tensors hold the edit, "
            f"{found.identical} tensors and {found.files} files identical to the base"
        )
    sys.exit(0 if found.ok else 1)
