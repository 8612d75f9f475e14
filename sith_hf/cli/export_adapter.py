"""``sith-hf export-adapter``."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli.options import echo_json, json_option, output_option, overwrite_option

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
@output_option("the adapter")
@overwrite_option
@json_option
def export_adapter(spec_path: str, architecture: str, output: Path, overwrite: bool, as_json: bool) -> None:
    """Export an edit as a LoRA adapter, a small folder that peft loads beside the base.

    SPEC is an edit spec or an edited checkpoint: a folder or Hub id.
    """
    from sith_hf.cards import hub_base
    from sith_hf.checkpoint import export_adapter as export_adapter_
    from sith_hf.core.escaping import sanitize
    from sith_hf.edits import EditSpec
    from sith_hf.errors import InputError

    spec = EditSpec.from_pretrained(spec_path)
    given, target = Path(spec_path).resolve(), output.resolve()
    if given.exists() and (given == target or target in given.parents):
        raise InputError(f"{output} holds the edit spec: write the adapter to another folder")
    folder = export_adapter_(spec, output, architecture, overwrite=overwrite)
    base = hub_base(spec.base)
    ranks = {layer: spec.layer.tolist().count(layer) for layer in spec.layers}
    if as_json:
        echo_json(
            {
                "folder": str(folder),
                "architecture": architecture,
                "base_model": base,
                "rank": {str(layer): rank for layer, rank in ranks.items()},
            }
        )
        return
    for layer, rank in ranks.items():
        click.echo(f"layer {layer}: rank {rank}")
    if base is None:
        click.echo(f"{sanitize(spec.base.name)} was not loaded from the Hub: the adapter names no base model", err=True)
    click.echo(f"{folder}")
