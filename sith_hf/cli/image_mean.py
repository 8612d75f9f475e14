"""``sith-hf image-mean``."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli.options import echo_json, given, json_option, model_options, output_option
from sith_hf.errors import InputError


@click.command()
@click.argument("model")
@output_option("image_mean.safetensors")
@click.option("--data", help="Images: a Hub dataset, a folder, or a Parquet file.")
@click.option("--estimate", is_flag=True, help="Estimate the mean from the weights, without images.")
@click.option("--config", help="The configuration of a dataset with several.")
@click.option("--split", help="The split of a dataset with several.")
@click.option("--data-revision", help="Branch, tag or commit of --data on the Hub.")
@click.option("--streaming", is_flag=True, help="Read rows as a stream, without a copy on disk.")
@click.option("--column", help="The column of images.  [default: image]")
@click.option("--limit", type=int, help="Use only the first N rows.")
@click.option("--batch-size", type=int, help="Images at a time.  [default: 32]")
@model_options
@json_option
def image_mean(
    model: str,
    output: Path,
    data: str | None,
    estimate: bool,
    config: str | None,
    split: str | None,
    data_revision: str | None,
    streaming: bool,
    column: str | None,
    limit: int | None,
    batch_size: int | None,
    revision: str | None,
    text_model: str | None,
    as_json: bool,
) -> None:
    """Average the normalised image embeddings of a dataset by MODEL, a folder or Hub id.

    The mean closes the gap between image and text embeddings: pass it to sith-hf decompose with --image-mean.

    Finished pieces are kept in OUTPUT.work: after an interruption, run the same command again to continue.
    Several processes share the work: OMP_NUM_THREADS=N torchrun --nproc_per_node 2 -m sith_hf image-mean ...
    """
    from sith_hf.core.distributed import join_processes

    # First, so that an error from here on ends every process.
    processes = join_processes()
    options = given(name=config, split=split, revision=data_revision, limit=limit, column=column)
    if (data is None) != estimate:
        raise InputError("use one of --data, to average images, and --estimate, to use the weights only")
    if estimate and (options or streaming or batch_size is not None):
        raise InputError("--estimate reads no images; remove the options about images")

    from sith_hf.editor import SithEditor
    from sith_hf.files import ResumableJob
    from sith_hf.images import DatasetSettings, estimated_mean, mean_of_images

    columns = {} if column is None else {"columns": {"image": options.pop("column")}}
    source = None if data is None else {"dataset": data, "streaming": streaming, **columns, **options}
    plan = None if source is None else DatasetSettings.from_data(source, "the options")
    editor = SithEditor.from_pretrained(model, revision, text_model=text_model)
    with ResumableJob.beside(output, processes) as job:
        if plan is None:
            mean = estimated_mean(editor)
        else:
            mean = mean_of_images(editor, plan, job=job, progress=True, **given(batch_size=batch_size))
        path = processes.on_main(lambda: str(output / mean.save_pretrained(output).name))
    if not processes.is_main:
        return
    if as_json:
        echo_json(
            {
                "image_mean": path,
                "count": mean.count,
                "skipped": dict(mean.skipped),
                "length": float(mean.image_mean.norm()),
                "images_sha256": mean.images_sha256,
                "source": dict(mean.source),
                "processes": processes.world_size,
            }
        )
        return
    skipped = "".join(f", {number} skipped ({reason})" for reason, number in mean.skipped.items())
    what = "estimate without images" if plan is None else f"mean of {mean.count} images{skipped}"
    click.echo(f"{what}, of length {float(mean.image_mean.norm()):.3f}")
    click.echo(path)
