"""``sith-hf compare``: what fine-tuning changed, head by head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import FEW, detailed, details, show_answer
from sith_hf.core.formatting import percent
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.adaptation import Adaptation, TensorChanges
    from sith_hf.editor import SithEditor


@click.command()
@click.argument("base")
@click.argument("tuned")
@options.output("report.md, adaptation.json and heat_map.png (needs matplotlib)", required=False)
@options.tower
@options.model
@click.option("--tuned-revision", help="Branch, tag or commit of TUNED on the Hub.")
@options.dictionary
@click.option(
    "--layers",
    type=options.LAYERS,
    help="Compare only these layers, such as 3,5,-1, -4:, 8-11 or last4.  [default: all]",
)
@click.option(
    "--directions",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Leading directions of each head's change to explain.",
)
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Rows of the tables.")
@details
@options.as_json
def compare(
    base: str,
    tuned: str,
    output: Path | None,
    overwrite: bool,
    loading: dict[str, Any],
    tuned_revision: str | None,
    words: dict[str, Any],
    layers: tuple[int | str, ...] | None,
    directions: int,
    top: int,
    as_json: bool,
) -> None:
    """Compare TUNED with BASE, the checkpoint that it was fine-tuned from, head by head.

    TUNED is a checkpoint of the same architecture, folder or Hub id, or a LoRA adapter of peft, which is merged in
    memory (needs peft). The change of each head's value-output matrix is split into reweighting of the base's singular
    vectors, rotation inside their span, and new directions; its leading directions are explained by the concepts of
    --concepts, --dictionary or --dataset, or else of a built-in list.
    """
    source = options.dictionary_of(**words) if words else None

    from sith_hf.adaptation import load_tuned, tensor_changes
    from sith_hf.charts import blank_figure
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table
    from sith_hf.editor import SithEditor

    if output is not None:
        with blank_figure():  # fail early without matplotlib
            pass
    editor = SithEditor.from_pretrained(base, **loading)
    other = SithEditor(load_tuned(editor.loaded, tuned, tuned_revision), kind=editor.tower.kind)
    tensors = tensor_changes(editor.model, other.model, editor.tower.kind)
    if not tensors.changed:
        raise _identical(editor, other)
    if source is None and editor.tower.has_joint:
        source = options.dictionary_of()
    if source is None:
        messages.warn(f"numbers only, no words: {sanitize(editor.tower.no_words, 1000)}")
    found = editor.compare(other, source, layers=layers, directions=directions, progress=messages.progress())
    data = {
        "base": editor.loaded.title,
        "tuned": other.loaded.title,
        "tensors": {"total": tensors.total, "changed": list(tensors.changed)},
        **found.to_json(),
    }
    if output is not None:
        _save(output, overwrite, found, data)
    rest = [table(*found.layer_rows(), title=f"{found.tower} tower: ||M' - M|| / ||M||, and its parts")]
    if found.changed:
        rest.append(table(*found.head_rows(top), title="The most changed heads"))
    rest += [*_word_lines(found, top), _tensor_line(found, tensors)]
    lines = [] if detailed() else _word_lines(found, min(top, FEW))
    lines += [] if output is None else [str(output)]
    show_answer(as_json, data, _answer(found, tensors), *lines, rest=rest)


def _identical(editor: SithEditor, other: SithEditor) -> InputError:
    from sith_hf.core.escaping import sanitize

    names = [sanitize(item.loaded.name, 300) for item in (other, editor)]
    return InputError(
        f"{names[0]} has the weights of {names[1]} in the {editor.tower.kind} tower: every change is zero. Name the "
        "fine-tuned checkpoint, or the tower that was tuned (--tower)"
    )


def _answer(found: Adaptation, tensors: TensorChanges) -> str:
    if not found.changed:
        return _tensor_line(found, tensors)
    from sith_hf.towers import layer_title

    first = found.changed[0]
    of_all = first.energy / sum(head.energy for head in found.heads)
    part = max(("reweighting", "rotation", "new"), key=lambda name: getattr(first, name))
    kind = "new directions" if part == "new" else part
    return (
        f"Layer {layer_title(first.layer, found.settings)}, head {first.head} changed most: by "
        f"{percent(first.relative)} of its matrix, mostly {kind}, "
        f"{percent(of_all)} of the change of all heads"
    )


def _word_lines(found: Adaptation, top: int) -> list[str]:
    from sith_hf.core.tables import table

    if found.words is None or not found.words:
        return []
    silent, poles = found.silent()
    columns, rows = found.word_rows(top)
    said = f"{silent} of {poles} poles have no words better than chance (false discovery rate 5 %)"
    shown = [table(columns, rows, title="Leading directions of the change")] if rows else []
    return [*shown, said]


def _tensor_line(found: Adaptation, tensors: TensorChanges) -> str:
    line = f"{len(tensors.changed)} of {tensors.total} tensors of the tower differ"
    if found.changed:
        return f"{line}; compared are value and output projections with the norm before them, all else is not"
    return f"{line}, but no compared head changed by more than the rounding of its weights"


def _save(output: Path, overwrite: bool, found: Adaptation, data: dict[str, Any]) -> None:
    from sith_hf.adaptation import heat_map, report
    from sith_hf.files import new_folder, write_whole

    def repeats(folder: Path) -> bool:
        return (folder / "adaptation.json").is_file()

    with new_folder(output, overwrite=overwrite, repeats=repeats) as folder:
        picture = heat_map(found, folder / "heat_map.png")
        text = report(found, data["base"], data["tuned"], picture=picture.name)
        write_whole(folder / "report.md", text.encode("utf-8"))
        content = json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n"
        write_whole(folder / "adaptation.json", content.encode("ascii"))
