"""``sith-hf image-mean``: average the image embeddings of a dataset."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import show_answer
from sith_hf.cli.output import save_results
from sith_hf.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from sith_hf.editor import SithEditor
    from sith_hf.images import DatasetSettings
    from sith_hf.towers import ImageMean


@click.command()
@click.argument("model")
@options.output("image_mean.safetensors")
@options.group("data", options.data)
@click.option("--estimate", is_flag=True, help="Estimate the mean from the weights, without images.")
@options.group(
    "data",
    options.config,
    options.split,
    options.data_revision,
    options.streaming,
    click.option("--column", help="The column of images.  [default: image]"),
    options.limit,
)
@options.group("batches", options.batch_size)
@options.model
@options.as_json
def image_mean(
    model: str,
    output: Path,
    overwrite: bool,
    data: dict[str, Any],
    estimate: bool,
    batches: dict[str, Any],
    loading: dict[str, Any],
    as_json: bool,
) -> None:
    """Average the normalised image embeddings of a dataset by MODEL, a folder or Hub id.

    Pass it to sith-hf decompose with --image-mean, as the paper does, to close the gap between image and text
    embeddings. It did not make words truer where the truth is known (docs/guide/image-mean.md).

    Finished parts are stored in OUTPUT.work until the end: run the same command again to resume after an interruption.
    To use several processes: OMP_NUM_THREADS=N torchrun --nproc_per_node 2 -m sith_hf image-mean ...
    """
    from sith_hf.core.distributed import join_processes

    # First, so that any later error ends every process.
    processes = join_processes()
    if ("dataset" in data) == estimate:
        raise InputError("use one of --data, to average images, and --estimate, to use the weights only")
    if estimate and (data or batches):
        raise InputError("--estimate reads no images; remove the options about images")

    from sith_hf.editor import SithEditor
    from sith_hf.files import ResumableJob
    from sith_hf.images import DatasetSettings, estimated_mean, mean_of_images
    from sith_hf.towers import IMAGE_MEAN_LAYOUT

    if "data_revision" in data:
        data["revision"] = data.pop("data_revision")
    if "column" in data:
        data["columns"] = {"image": data.pop("column")}
    images = None if estimate else DatasetSettings.from_data(data, "the options")
    editor = processes.each(lambda: SithEditor.from_pretrained(model, **loading))
    with ResumableJob.beside(output, processes) as job:
        earlier = None
        if not (overwrite or images is None):
            earlier = processes.on_main(partial(_earlier, output, editor, images))
        if earlier is not None:
            mean, path = earlier, str(output / IMAGE_MEAN_LAYOUT.filename)
        else:
            if images is None:
                mean = estimated_mean(editor)
            else:
                mean = mean_of_images(editor, images, job=job, progress=messages.progress(), **batches)
            path = processes.on_main(lambda: save_results(output, overwrite, mean))
    if not processes.is_main:
        return
    length = float(mean.image_mean.norm())
    skipped = "".join(f", {number} skipped ({reason})" for reason, number in mean.skipped.items())
    kind = "estimate without images" if estimate else f"mean of {mean.count} images{skipped}"
    data = {
        "image_mean": path,
        "count": mean.count,
        "skipped": dict(mean.skipped),
        "length": length,
        "images_sha256": mean.images_sha256,
        "source": dict(mean.source),
        "processes": processes.world_size,
    }
    show_answer(as_json, data, f"{kind}, of length {length:.3f}", path)


def _earlier(output: Path, editor: SithEditor, images: DatasetSettings) -> ImageMean | None:
    """Return the result of an earlier run of the same command in ``output``, None if it has no image mean.

    Raises:
        InputError: it has another image mean, or one that cannot be read.
    """
    from sith_hf.files import already_has
    from sith_hf.images import is_mean_of
    from sith_hf.towers import IMAGE_MEAN_LAYOUT, ImageMean

    if not (output / IMAGE_MEAN_LAYOUT.filename).exists():
        return None
    with suppress(ArtifactError):
        found = ImageMean.from_pretrained(output)
        if is_mean_of(found, editor, images):
            return found
    raise already_has(output, "another image mean")
