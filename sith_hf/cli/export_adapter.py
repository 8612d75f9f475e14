"""``sith-hf export-adapter``: write an edit as a LoRA adapter."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details, show_answer
from sith_hf.errors import InputError


@click.command("export-adapter")
@click.argument("spec_paths", metavar="SPEC...", nargs=-1, required=True)
@click.option(
    "--architecture",
    metavar="CLASS",
    help="The class of the base, such as CLIPVisionModel.  [default: the family's whole model, such as CLIPModel]",
)
@options.output("the adapter")
@details
@options.as_json
def export_adapter(
    spec_paths: tuple[str, ...], architecture: str | None, output: Path, overwrite: bool, as_json: bool
) -> None:
    """Export an edit as a LoRA adapter, a small folder that peft loads beside the base.

    SPEC is an edit spec or an edited checkpoint: a folder or Hub id. Several, of one tower or of both, are combined.
    """
    from sith_hf.cards import hub_base
    from sith_hf.checkpoint import architectures
    from sith_hf.checkpoint import export_adapter as export_adapter_
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.formatting import counted

    spec = options.spec_of(spec_paths)
    target = output.resolve()
    for source in (Path(path).resolve() for path in spec_paths):
        if source.exists() and (source == target or target in source.parents):
            raise InputError(f"{output} holds the edit spec: write the adapter to another folder")
    folder = export_adapter_(spec, output, architecture, overwrite=overwrite)
    base = hub_base(spec.base)
    if base is None and not as_json:
        messages.warn(f"{sanitize(spec.base.name)} was not loaded from the Hub: the adapter names no base model")
    ranks = {part.tower: {str(layer): part.layer.tolist().count(layer) for layer in part.layers} for part in spec.parts}
    data = {
        "folder": str(folder),
        "architecture": architecture or architectures(spec)[0],
        "base_model": base,
        "rank": next(iter(ranks.values())) if len(ranks) == 1 else ranks,
    }
    lines = [
        f"{tower} tower, layer {layer}: rank {rank}" for tower, found in ranks.items() for layer, rank in found.items()
    ]
    ranks_of = [rank for found in ranks.values() for rank in found.values()]
    where = f"{counted(len(ranks_of), 'layer')} of {data['architecture']}"
    answer = f"a LoRA adapter of rank {max(ranks_of)} at most, in {where}"
    show_answer(as_json, data, answer, folder, rest=lines)
