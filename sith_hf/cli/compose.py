"""``sith-hf compose``: combine edit specs into one."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli import options
from sith_hf.cli.answer import details, show_answer
from sith_hf.cli.output import save_results
from sith_hf.errors import InputError


@click.command()
@click.argument("spec_paths", metavar="SPEC SPEC...", nargs=-1, required=True)
@options.output("edit_spec.safetensors")
@details
@options.as_json
def compose(spec_paths: tuple[str, ...], output: Path, overwrite: bool, as_json: bool) -> None:
    """Combine edits of one base, in this order, into one edit spec.

    SPEC is an edit spec or an edited checkpoint: a folder or Hub id. A vector of one edit keeps its gain; for a vector
    of several, the gains multiply. An edit and a revert add up instead: equal gains cancel. Edits of both towers become
    one spec of two parts.
    """
    if len(spec_paths) < 2:
        raise InputError(f"{spec_paths[0]} alone is already one edit: name two specs or more")

    from sith_hf.cards import headline
    from sith_hf.core.escaping import sanitize
    from sith_hf.edits import EditSpec, combined

    specs = [EditSpec.from_pretrained(path) for path in spec_paths]
    result = combined(*specs)
    if not result:
        raise InputError("the edits cancel: every gain is 1, so there is no edit to save")
    gains: dict[tuple[str, int, int, int], list[float]] = {}
    for part in (part for spec in specs for part in spec.parts):
        for key, gain in zip(part.keys, part.gain.tolist(), strict=True):
            gains.setdefault((part.tower, *key), []).append(gain)
    final = {(row["tower"], row["layer"], row["head"], row["vector"]): row["gain"] for row in result.rows()}
    # A vector whose gains cancel is not in the result.
    shared = [
        {**dict(zip(("tower", "layer", "head", "vector"), key, strict=True)), "gains": own, "gain": final.get(key, 1.0)}
        for key, own in sorted(gains.items())
        if len(own) > 1
    ]
    path = save_results(output, overwrite, result)
    said = f"{len(shared)} {'vector is' if len(shared) == 1 else 'vectors are'} named by more than one spec"
    data = {"spec": path, "vectors": result.rows(), "shared": shared}
    show_answer(as_json, data, headline(result, sanitize), said, path, rest=[result])
