"""``sith-hf export-adapter``: write an edit as a LoRA adapter."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli import options
from sith_hf.cli.output import show_result
from sith_hf.errors import InputError


@click.command("export-adapter")
@click.argument("spec_path", metavar="SPEC")
@click.option(
    "--architecture",
    help="The class of the base, such as CLIPVisionModel.  [default: the whole model, such as CLIPModel]",
)
@options.output("the adapter")
@options.as_json
def export_adapter(spec_path: str, architecture: str | None, output: Path, overwrite: bool, as_json: bool) -> None:
    """Export an edit as a LoRA adapter, a small folder that peft loads beside the base.

    SPEC is an edit spec or an edited checkpoint: a folder or Hub id.
    """
    from sith_hf.cards import hub_base
    from sith_hf.checkpoint import export_adapter as export_adapter_
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.reading import read_json_object
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
    written = read_json_object(folder / "adapter_config.json", "export the adapter again")
    kind = written["auto_mapping"]["base_model_class"]
    data = {"folder": str(folder), "architecture": kind, "base_model": base, "rank": ranks}
    show_result(as_json, data, *(f"layer {layer}: rank {rank}" for layer, rank in ranks.items()), folder)
