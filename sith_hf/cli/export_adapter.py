"""``sith-hf export-adapter``: write an edit as a LoRA adapter."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli import options
from sith_hf.cli.output import show_result
from sith_hf.errors import InputError

# As in sith_hf.towers, which --help must not import.
ARCHITECTURES = ("CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection")


@click.command("export-adapter")
@click.argument("spec_path", metavar="SPEC")
@click.option(
    "--architecture",
    type=click.Choice(ARCHITECTURES),
    default=ARCHITECTURES[0],
    show_default=True,
    help="The class of the base.",
)
@options.output("the adapter")
@options.as_json
def export_adapter(spec_path: str, architecture: str, output: Path, overwrite: bool, as_json: bool) -> None:
    """Export an edit as a LoRA adapter, a small folder that peft loads beside the base.

    SPEC is an edit spec or an edited checkpoint: a folder or Hub id.
    """
    from sith_hf.cards import hub_base
    from sith_hf.checkpoint import export_adapter as export_adapter_
    from sith_hf.core.escaping import sanitize
    from sith_hf.edits import EditSpec

    spec = EditSpec.from_pretrained(spec_path)
    source, target = Path(spec_path).resolve(), output.resolve()
    if source.exists() and (source == target or target in source.parents):
        raise InputError(f"{output} holds the edit spec: write the adapter to another folder")
    folder = export_adapter_(spec, output, architecture, overwrite=overwrite)
    base = hub_base(spec.base)
    if base is None and not as_json:
        click.echo(f"{sanitize(spec.base.name)} was not loaded from the Hub: the adapter names no base model", err=True)
    ranks = {str(layer): spec.layer.tolist().count(layer) for layer in spec.layers}
    data = {"folder": str(folder), "architecture": architecture, "base_model": base, "rank": ranks}
    show_result(as_json, data, *(f"layer {layer}: rank {rank}" for layer, rank in ranks.items()), folder)
