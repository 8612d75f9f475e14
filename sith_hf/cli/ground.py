"""``sith-hf ground``: the images that drive singular vectors, as contact sheets and a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details, show_answer
from sith_hf.cli.images import named_images
from sith_hf.cli.output import save_results
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.decomposition import Decomposition
    from sith_hf.grounding import Vector


@click.command()
@click.argument("model")
@click.option("--decomposition", required=True, help="The decomposition of MODEL: folder or Hub id.")
@options.output("grounding.json and grounding.png")
@options.group(
    "data",
    options.images,
    options.config,
    options.split,
    click.option("--data-revision", help="Branch, tag or commit of --images on the Hub."),
    options.streaming,
    click.option("--column", help="The column of images.  [default: image]"),
    options.limit,
)
@options.group(
    "chosen",
    click.option("--layers", type=options.LAYERS, help="Only vectors of these layers, such as -4:, 8-11 or last4."),
    click.option("--heads", type=options.HEADS, help="Only vectors of these heads."),
    click.option("--vectors", type=options.VECTORS, help="Only these vectors of each head; 0 is the strongest."),
    click.option("--top", type=int, help="The N strongest of these vectors.  [default: 10, and all of --spec]"),
)
@options.specs("Choose the vectors that this edit changes (folder or Hub id).")
@options.group("batches", options.batch_size)
@options.model
@details
@options.as_json
def ground(
    model: str,
    decomposition: str,
    output: Path,
    overwrite: bool,
    data: dict[str, Any],
    chosen: dict[str, Any],
    spec_paths: tuple[str, ...],
    batches: dict[str, Any],
    loading: dict[str, Any],
    as_json: bool,
) -> None:
    """Show the images that drive vectors of MODEL most, where in the images, and whether the words agree.

    MODEL is the decomposed model, a folder or Hub id. The protocol is this project's own: docs/guide/ground.md.

    Finished parts are stored in OUTPUT.work until the end: run the same command again to resume after an interruption.
    To use several processes: OMP_NUM_THREADS=N torchrun --nproc_per_node 2 -m sith_hf ground ...
    """
    from sith_hf.core.distributed import join_processes

    # First, so that any later error ends every process.
    processes = join_processes()
    if data and "dataset" not in data:
        raise InputError("the options about images need --images, a dataset")

    from sith_hf.decomposition import Decomposition
    from sith_hf.editor import SithEditor
    from sith_hf.files import ResumableJob
    from sith_hf.grounding import chosen_vectors
    from sith_hf.images import check_readable

    images = named_images(data) if data else None
    explained = processes.each(lambda: Decomposition.from_pretrained(decomposition))
    spec = options.spec_of(spec_paths) if spec_paths else None
    vectors = chosen_vectors(explained, spec=spec, **chosen)
    if not overwrite:
        processes.main_only(lambda: _check_output(output, explained, vectors))
    editor = processes.each(lambda: SithEditor.from_pretrained(model, **loading).with_decomposition(explained))
    if images is not None:
        processes.each(lambda: check_readable(images))
    with ResumableJob.beside(output, processes) as job:
        found = editor.ground(images, spec=spec, **chosen, **batches, job=job, progress=messages.progress())
        path = processes.on_main(lambda: save_results(output, overwrite, found))
    if processes.is_main:
        data = {**found.to_json(), "sheet": path, "processes": processes.world_size}
        notes = (f"note: {line}" for line in found.notes)
        show_answer(as_json, data, found.summary, *notes, path, rest=[found.table()])


def _check_output(output: Path, explained: Decomposition, vectors: Sequence[Vector]) -> None:
    """Raise InputError if the folder has a grounding of other vectors: fail before hours of work."""
    from sith_hf.core.reading import read_json_object
    from sith_hf.files import already_has
    from sith_hf.grounding import FILE, repeats

    path = output / FILE
    if path.exists() and not repeats(read_json_object(path, "delete it"), explained, vectors):
        raise already_has(output, "another grounding")
