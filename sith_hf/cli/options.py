"""Options that several subcommands share, and the types of their values."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import reduce, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sith_hf.cli import messages
from sith_hf.core.distributed import join_processes
from sith_hf.core.escaping import sanitize
from sith_hf.core.ranges import parse_numbers
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.concepts import ConceptDictionary
    from sith_hf.edits import AnySpec

F = TypeVar("F", bound=Callable[..., Any])


class CommaSeparated(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Values separated by commas, as a tuple.

    ``name`` is the placeholder in --help. ``item`` converts one value, or raises ValueError; ``expected`` describes the
    values in its message.
    """

    def __init__(self, name: str, item: Callable[[str], Any], expected: str = "texts") -> None:
        self.name, self.item, self.expected = name, item, expected

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.item(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{sanitize(str(value))}' is not a list of {self.expected}", param, ctx)


class NumberChoice(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Layers, heads or vectors by number (:mod:`sith_hf.core.ranges`), as a tuple of numbers and ranges."""

    def __init__(self, what: str) -> None:
        self.name, self.what = "N|A:B|A-B|lastN,...", what

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int | str, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_numbers(str(value), self.what)
        except InputError as error:
            self.fail(str(error), param, ctx)


LAYERS, HEADS, VECTORS = map(NumberChoice, ("layers", "heads", "vectors"))
NUMBERS = CommaSeparated("N,N,...", int, "whole numbers such as 5,10,20")
TEXTS = CommaSeparated("A,B,...", str.strip)


def concept_gains(texts: Iterable[str], default: float, known: Callable[[str], bool]) -> list[tuple[str, float]]:
    """Return the concepts and gains of texts such as ``sea,road`` and ``bird=1.5``.

    Args:
        texts: the values of an option.
        default: the gain of a concept without one.
        known: whether a text is a concept of the decomposition, which is never split.

    Raises:
        InputError: an empty concept, or a gain that is not a number.
    """

    def whole(text: str) -> bool:
        return bool(text.strip()) and known(text)

    found = []
    for text in texts:
        for item in [text] if whole(text) or whole(text.rpartition("=")[0]) else text.split(","):
            stem, separator, gain = item.rpartition("=")
            if whole(item) or not separator:
                stem, gain = item, str(default)
            if not stem.strip():
                raise InputError(f"'{sanitize(text)}' has an empty concept; write for example sea,road or bird=1.5")
            try:
                found.append((stem.strip(), float(gain)))
            except ValueError:
                example = f"{sanitize(stem.strip())}=0.5"
                raise InputError(f"'{sanitize(gain)}' is not a number; write a gain such as {example}") from None
    return found


def group(name: str, *options: Callable[[F], F]) -> Callable[[F], F]:
    """Make one decorator of ``options``, listed in --help in this order.

    The command receives one argument, ``name``: a dictionary of the options that were given, so that the defaults are
    those of the function that is called. Several groups of one name share the dictionary.
    """

    def decorate(command: F) -> F:
        @wraps(command)
        def gathered(**values: Any) -> Any:
            own = given(**{item.name: values.pop(item.name) for item in added})
            return command(**{**values, name: {**values.get(name, {}), **own}})

        before = len(getattr(command, "__click_params__", ()))
        decorated: Any = reduce(lambda inner, option: option(inner), reversed(options), gathered)
        added = decorated.__click_params__[before:]
        return decorated  # type: ignore[no-any-return]

    return decorate


def given(**options: Any) -> dict[str, Any]:
    """Drop the options that were not given."""
    return {name: value for name, value in options.items() if value is not None}


PATH = click.Path(path_type=Path)


class Checked(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A text that a function of ``sith_hf.core.devices`` accepts; it raises InputError for others."""

    def __init__(self, name: str, check: str) -> None:
        self.name, self.check = name, check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from sith_hf.core import devices

        getattr(devices, self.check)(str(value))
        return str(value)


placing = (
    click.option(
        "--device",
        type=Checked("NAME", "find_device"),
        help="Where passes of the model run: auto, cpu, cuda, cuda:1 or mps.  [default: auto, a GPU if there is one]",
    ),
    click.option(
        "--dtype",
        type=Checked("NAME", "find_dtype"),
        help="Dtype of the weights: auto, float32, bfloat16 or float16.  [default: auto, that of the files]",
    ),
)
# For SithEditor.from_pretrained.
model = group(
    "loading",
    click.option(
        "--text-model",
        help="For a checkpoint of one tower, or LLaVA: the whole model it belongs to; folder or Hub id.",
    ),
    click.option("--revision", help="Branch, tag or commit of MODEL (or BASE) on the Hub."),
    *placing,
)
# For commands that load a model otherwise.
placed = group("placed", *placing)
tower = group(
    "loading",
    click.option(
        "--tower",
        type=click.Choice(["vision", "text"]),
        help="The tower of MODEL to explain.  [default: vision, if MODEL has it]",
    ),
)
# For dictionary_of.
dictionary = group(
    "words",
    click.option("--concepts", type=PATH, help="A text file of concepts: UTF-8, one per line."),
    click.option("--dictionary", help="An encoded dictionary: folder or Hub id."),
    click.option("--dataset", help="A dataset with a column of concepts: folder or Hub id (with --column)."),
    click.option("--column", help="The column of --dataset."),
    click.option("--config", help="The configuration of a --dataset with several."),
    click.option("--split", help="The split of --dataset.  [default: the only one, or train]"),
    click.option("--data-revision", help="Branch, tag or commit of --dataset on the Hub."),
    click.option("--template", help='Prompt for each concept, such as "a photo of a {}".'),
)
# For DecomposeSettings; two decorators, because commands list others between them.
vectors = group(
    "vectors",
    click.option(
        "--layers",
        type=LAYERS,
        help="Layers, such as 3,5,-1, -4:, :4, 8-11 or last4; negative numbers count from the last.  [default: all]",
    ),
    click.option("--rank", type=int, help="Singular vectors kept per head.  [default: all]"),
    click.option(
        "--poles", type=click.Choice(["+-", "+"]), help="Explain both poles, or + only as in the paper.  [default: +-]"
    ),
)
folding = group(
    "vectors",
    click.option(
        "--fold/--no-fold", default=None, help="Fold the layer norm into the read directions.  [default: fold]"
    ),
    click.option("--centre/--no-centre", default=None, help="Drop the all-ones direction.  [default: same as --fold]"),
)
image_mean = click.option(
    "--image-mean",
    type=PATH,
    help="Output of sith-hf image-mean, a safetensors file with a vector image_mean, or torch.save of the vector.",
)
near = click.option(
    "--near", type=float, help="Minimum cosine of centred embeddings for a concept to count as near.  [default: 0.6]"
)
# For Edit.set_gain.
rule = group(
    "rule",
    click.option("--top", type=int, help="Choose the N vectors that carry each concept most strongly."),
    click.option(
        "--threshold",
        type=float,
        help="Choose by topic: minimum share of the concepts in an explanation.  [topic: 0.5]",
    ),
    click.option(
        "--near", type=float, help="Choose by topic: minimum cosine of embeddings for a concept to count.  [topic: 0.6]"
    ),
    click.option(
        "--both-poles", is_flag=True, help="Choose by topic: by the mean of a vector's poles, not by its stronger pole."
    ),
)
# For DatasetSettings, in a group.
data = click.option("--data", "dataset", help="Images: a Hub dataset, a folder, or a Parquet file.")
images = click.option(
    "--images",
    "dataset",
    help='Images: a Hub dataset, a folder, or a Parquet file.  [default: "leaves", 1,000 drawn pictures of shapes]',
)
config = click.option("--config", "name", help="The configuration of a dataset with several.")
split = click.option("--split", help="The split of a dataset with several.")
data_revision = click.option("--data-revision", help="Branch, tag or commit of --data on the Hub.")
streaming = click.option(
    "--streaming", is_flag=True, default=None, help="Read rows as a stream, without a copy on disk."
)
limit = click.option("--limit", type=int, help="Use only the first N rows.")
batch_size = click.option("--batch-size", type=int, help="Images at a time.  [default: 32]")
overwrite = click.option("--overwrite", is_flag=True, help="Replace results that are already in the output folder.")
include = click.option(
    "--include",
    multiple=True,
    metavar="PATTERN",
    help="Add files that are not part of the checkpoint, such as 'figures/*.svg'; links, pickles and other weights are "
    "refused. Repeatable.",
)
servers = click.option(
    "--base-url",
    "servers",
    multiple=True,
    metavar="URL",
    help="A server of the recipe's judges that may get your token (SITH_HF_JUDGE_TOKEN) and the concepts.",
)


def chance(command: F) -> F:
    """Add ``--fdr`` and ``--all``: which poles of a table of explanations are shown."""
    every = click.option(
        "--all", "every", is_flag=True, help="Show poles that are explained no better than chance too, greyed."
    )
    rate = click.option(
        "--fdr",
        type=float,
        default=0.05,
        show_default=True,
        help="False discovery rate of the explanations shown.",
    )
    return rate(every(command))


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def output(content: str, *, required: bool = True) -> Callable[[F], F]:
    """Add ``-o/--output``, a folder for ``content``, and ``--overwrite``.

    A command that finds its own results there leaves them alone and says so. Other results need ``--overwrite``.
    """
    help_line = f"Folder for {content}; created if missing."
    where = click.option("-o", "--output", type=PATH, required=required, help=help_line)

    def decorate(command: F) -> F:
        @wraps(command)
        def said(**values: Any) -> Any:
            before = [] if values.get("dry_run") else _stamps(values["output"])
            result = command(**values)
            if before and before == _stamps(values["output"]):
                messages.note(f"already done: {sanitize(str(values['output']))} was not changed")
            return result

        decorated: Any = where(overwrite(said))
        return decorated  # type: ignore[no-any-return]

    return decorate


def new_files(*names: str) -> Callable[[F], F]:
    """Add ``--overwrite``, without which the files of the options ``names`` must not exist; they are checked first."""

    def decorate(command: F) -> F:
        @wraps(command)
        def checked(overwrite: bool, **values: Any) -> Any:
            def check() -> None:
                for path in (values[name] for name in names):
                    if path is not None and os.path.lexists(path) and not overwrite:
                        raise InputError(f"{path} exists; name a new file, or replace it with --overwrite")

            join_processes().on_main(check)
            return command(**values)

        decorated: Any = click.option("--overwrite", is_flag=True, help="Replace output files that exist.")(checked)
        return decorated  # type: ignore[no-any-return]

    return decorate


def _stamps(folder: Path | None) -> list[tuple[int, ...]]:
    """Return what identifies the files at the top of a folder and their versions."""
    try:
        found = [] if folder is None else [entry.stat() for entry in os.scandir(folder)]
    except OSError:
        return []
    return sorted((item.st_ino, item.st_size, item.st_mtime_ns) for item in found)


def specs(help_line: str, *, required: bool = False) -> Callable[[F], F]:
    """Add ``--spec``, which may be repeated, for :func:`spec_of`."""
    more = "Repeat it to combine edits, of one tower or of both."
    return click.option("--spec", "spec_paths", multiple=True, required=required, help=f"{help_line} {more}")


def spec_of(paths: Iterable[str], token: str | None = None) -> AnySpec:
    """Read edit specs, folders or Hub ids, at least one, and combine them.

    Raises:
        ArtifactError: a file that is missing or damaged.
        BaseMismatch: edits that do not combine.
    """
    from sith_hf.edits import EditSpec, combined

    return combined(*(EditSpec.from_pretrained(path, token=token) for path in paths))


def dictionary_of(
    concepts: Path | None = None,
    dictionary: str | None = None,
    dataset: str | None = None,
    column: str | None = None,
    template: str | None = None,
    **source: str,
) -> ConceptDictionary:
    """Load the dictionary that the options name; the built-in one by default.

    ``source`` has ``config``, ``split`` and ``data_revision``, if given.

    Raises:
        InputError: options that exclude each other, or a source that is missing or damaged.
    """
    if sum(item is not None for item in (concepts, dictionary, dataset)) > 1:
        raise InputError("--concepts, --dictionary and --dataset exclude each other: give only one")
    if (dataset is None) != (column is None):
        raise InputError("--dataset and --column need each other: give both")
    if source and dataset is None:
        shown = ", ".join(f"--{name.replace('_', '-')}" for name in source)
        raise InputError(f"{shown} belongs to --dataset: give both, or leave it out")
    if dictionary is not None and template is not None:
        raise InputError("--template has no effect on --dictionary, which is already encoded: leave one out")

    from sith_hf.concepts import ConceptDictionary

    if concepts is not None:
        return ConceptDictionary.from_file(concepts, template=template)
    if dictionary is not None:
        return ConceptDictionary.from_pretrained(dictionary)
    if dataset is not None and column is not None:
        if "data_revision" in source:
            source["revision"] = source.pop("data_revision")
        return ConceptDictionary.from_dataset(dataset, column, template=template, **source)
    return ConceptDictionary.builtin(template=template)
