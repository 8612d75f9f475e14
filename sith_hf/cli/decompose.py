"""``sith-hf decompose``: explain the heads of a tower."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details
from sith_hf.cli.images import named_images
from sith_hf.cli.output import save_results, show_decomposition
from sith_hf.errors import InputError, SithError

if TYPE_CHECKING:
    from sith_hf.concepts import ConceptDictionary
    from sith_hf.decomposition import DecomposeSettings, Decomposition
    from sith_hf.editor import SithEditor
    from sith_hf.images import DatasetSettings

# For dictionaries of this size or more the required memory is printed first.
LARGE = 100_000


@click.command()
@click.argument("model")
@options.output("decomposition.safetensors and dictionary.safetensors")
@options.tower
@options.model
@options.dictionary
@options.vectors
@options.group(
    "vectors",
    click.option(
        "--side",
        type=click.Choice(["write", "read"]),
        help="Explain what each vector writes, or what it reads: looks for.  [default: write]",
    ),
    click.option(
        "--effect",
        type=click.Choice(["direct", "total"]),
        help="Explain what each vector writes itself, or also what later layers make of it, averaged over 64 images of "
        "--images or drawn ones.  [default: direct]",
    ),
)
@options.group(
    "pictures",
    click.option(
        "--images",
        help="Say what drives each vector, too: images without labels, a Hub dataset, a folder, or a Parquet file; or "
        '"leaves" for 1,000 drawn pictures of shapes.',
    ),
    click.option("--images-column", help="The column of --images.  [default: image]"),
    click.option("--images-config", help="The configuration of --images with several."),
    click.option("--images-split", help="The split of --images with several."),
    click.option("--images-revision", help="Branch, tag or commit of --images on the Hub."),
    click.option("--images-limit", type=int, help="Use only the first N rows of --images."),
    click.option(
        "--images-streaming",
        is_flag=True,
        default=None,
        help="Read --images as a stream, without a copy on disk.",
    ),
)
@options.group(
    "coding",
    click.option("--method", help="Sparse coder: comp, omp, mp, top-k or lasso.  [default: comp]"),
    click.option("--sparsity", type=int, help="Concepts per explanation.  [default: 5]"),
    click.option("--coherence-weight", type=float, help="Coherence weight lambda, for comp only.  [default: 0.3]"),
)
@options.folding
@options.image_mean
@details
@options.as_json
def decompose(
    model: str,
    output: Path,
    overwrite: bool,
    loading: dict[str, Any],
    words: dict[str, Any],
    vectors: dict[str, Any],
    pictures: dict[str, Any],
    coding: dict[str, Any],
    image_mean: Path | None,
    as_json: bool,
) -> None:
    """Explain the attention heads of MODEL, a folder or Hub id of a model of CLIP's kind.

    The concepts come from --concepts, --dictionary or --dataset, or else from a built-in list of everyday concepts. A
    tower without a way to texts, such as DINOv2, or LLaVA without --text-model, has no words: its vectors are numbered
    only.

    The words say what each vector writes. With --images, a second line says what drives it, which is not the same.

    Finished parts are stored in OUTPUT.work until the end: run the same command again to resume after an interruption.
    To use several processes: OMP_NUM_THREADS=N torchrun --nproc_per_node 2 -m sith_hf decompose ...
    """
    from sith_hf.core.distributed import join_processes

    # First, so that any later error ends every process.
    processes = join_processes()
    source = options.dictionary_of(**words) if words else None
    if pictures and "images" not in pictures:
        raise InputError("the options about images need --images, a dataset or leaves")

    from sith_hf.core.devices import exact_device
    from sith_hf.core.escaping import sanitize
    from sith_hf.decomposition import DECOMPOSITION_LAYOUT, DecomposeSettings
    from sith_hf.editor import SithEditor, check_images
    from sith_hf.files import ResumableJob
    from sith_hf.images import mean_for
    from sith_hf.pursuit import ROWS, Pursuit

    renamed = {"images": "dataset", "images_config": "name"}
    named = {renamed.get(name, name.removeprefix("images_")): value for name, value in pictures.items()}
    images = named_images(named) if named else None
    pursuit = Pursuit(**coding)
    editor = processes.each(lambda: SithEditor.from_pretrained(model, **loading))
    mean = None if image_mean is None else mean_for(editor, image_mean)
    settings = DecomposeSettings(pursuit=pursuit, image_mean=mean, **vectors)
    if source is None and editor.tower.has_joint:
        source = options.dictionary_of()
    # Fail before hours of work.
    check_images(editor, settings, images, words=source is not None)
    if source is None:
        settings.check_vectors(editor.tower)
    else:
        settings.check(editor.tower, len(source))
    if source is None and processes.is_main:
        messages.warn(f"numbers only, no words: {sanitize(editor.tower.no_words, 1000)}")
    if source is not None and processes.is_main and len(source) >= LARGE:
        most = pursuit.memory(ROWS, len(source), editor.tower.joint_size)
        messages.note(f"explaining needs at most {most / 1e9:.1f} GB beside the model and the dictionary")
    with ResumableJob.beside(output, processes) as job:
        earlier = None if overwrite else processes.main_only(lambda: _earlier(output, source, editor, settings, images))
        if processes.on_main(lambda: earlier is not None) and not processes.is_main:
            return
        if earlier is None:
            encoded = None if source is None else editor.encode(source, job=job, progress=messages.progress())
            result = editor.decompose(
                encoded,
                settings,
                images=images,
                device=exact_device(editor.loaded.device),
                job=job,
                progress=messages.progress(),
            )
            results = [item for item in (encoded, result) if item is not None]
            path = processes.on_main(lambda: save_results(output, overwrite, *results))
        else:
            encoded, result = earlier
            path = str(output / DECOMPOSITION_LAYOUT.filename)
    if processes.is_main:
        more = {
            "poles": list(result.poles),
            "concepts": 0 if source is None else len(source),
            "blank": 0 if source is None else source.blank,
            "duplicates": 0 if source is None else source.duplicates,
            "processes": processes.world_size,
        }
        show_decomposition(as_json, result, path, *([] if encoded is None else [repr(encoded)]), **more)


def _earlier(
    output: Path,
    source: ConceptDictionary | None,
    editor: SithEditor,
    settings: DecomposeSettings,
    images: DatasetSettings | None,
) -> tuple[ConceptDictionary | None, Decomposition] | None:
    """Return the results of an earlier run of the same command in ``output``, None if it has no decomposition.

    Raises:
        InputError: it has another decomposition, or one that cannot be read.
    """
    from sith_hf.concepts import ConceptDictionary
    from sith_hf.decomposition import DECOMPOSITION_LAYOUT, Decomposition, repeats
    from sith_hf.editor import repeats_on
    from sith_hf.files import already_has

    if not (output / DECOMPOSITION_LAYOUT.filename).exists():
        return None
    with suppress(SithError):
        found = Decomposition.from_pretrained(output)
        if source is None:
            if repeats(found, editor.tower, None, settings):
                return None, found
            raise already_has(output, "another decomposition")
        words = ConceptDictionary.from_pretrained(output)
        same = (words.sha256, words.template) == (source.sha256, source.template)
        if same and repeats_on(found, editor, editor.encode(words), settings, images):
            return words, found
    raise already_has(output, "another decomposition")
