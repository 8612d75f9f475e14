"""``sith-hf diff``: compare two edit specs, two decompositions or two checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details, show_answer
from sith_hf.core.escaping import sanitize
from sith_hf.errors import HubError, InputError

if TYPE_CHECKING:
    from sith_hf.adaptation import CheckpointDiff, DecompositionDiff

SPEC, DECOMPOSITION, CHECKPOINT = "edit spec", "decomposition", "checkpoint"


@click.command()
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.option("--top", type=click.IntRange(min=1), default=20, show_default=True, help="Rows of the table.")
@details
@options.as_json
def diff(first: str, second: str, top: int, as_json: bool) -> None:
    """Compare A and B, two edit specs, two decompositions or two checkpoints: folders or Hub ids.

    Edit specs: the vectors of one only, the gains that differ, and the size of the difference in the weights.
    Decompositions: the vectors that are others, with close singular values compared as a subspace, and the words that
    differ. Checkpoints: the tensors that differ, and whether an edit that one of them records explains it.
    """
    kinds = [_kind(name) for name in (first, second)]
    if kinds[0] != kinds[1]:
        a, b = ("an edit spec" if kind == SPEC else f"a {kind}" for kind in kinds)
        raise InputError(
            f"{sanitize(first, 300)} is {a}, and {sanitize(second, 300)} is {b}: name two of a kind (for the spec of "
            "an edited checkpoint, its folder sith/)"
        )
    found = {SPEC: _specs, DECOMPOSITION: _decompositions, CHECKPOINT: _checkpoints}[kinds[0]](first, second, top)
    show_answer(as_json, {"kind": kinds[0], **found.data}, *found.lines, rest=found.rest)


class _Said(NamedTuple):
    """What two things differ in: as data, the answer and what one needs next, and the rest."""

    data: dict[str, Any]
    lines: list[str]
    rest: list[str]


def _kind(name: str) -> str:
    from sith_hf.decomposition import DECOMPOSITION_LAYOUT
    from sith_hf.edits import EDIT_SPEC_LAYOUT
    from sith_hf.hub import fetch_file, not_found
    from sith_hf.towers import checkpoint_path

    # An edited checkpoint records its spec too, so that checkpoints come first.
    files = {DECOMPOSITION_LAYOUT.filename: DECOMPOSITION}
    files |= dict.fromkeys(("config.json", "open_clip_config.json"), CHECKPOINT)
    files |= {EDIT_SPEC_LAYOUT.filename: SPEC}
    path = checkpoint_path(name)
    if path is None:
        try:
            found = fetch_file(name, list(files), repo_types=("model", "dataset")).name
        except HubError as error:
            raise InputError(not_found(name, error)) from None
        return files[found]
    if path.is_file() and path.name in files:
        return files[path.name]
    for file, kind in files.items():
        if (path / file).is_file():
            return kind
    raise InputError(f"{sanitize(name, 300)} is no edit spec, no decomposition and no checkpoint: check the path")


def _specs(first: str, second: str, top: int) -> _Said:
    from sith_hf.adaptation import diff_specs
    from sith_hf.core.tables import table
    from sith_hf.edits import EditSpec

    found = diff_specs(EditSpec.from_pretrained(first), EditSpec.from_pretrained(second))
    columns, rows = found.rows()
    rest = [table(columns, rows[:top])] if rows else []
    rest += [f"{len(rows) - top} more vectors differ (--top, or --json for all)"] if len(rows) > top else []
    size = f"of the weights: A {found.first_norm:.4g}, B {found.second_norm:.4g}, difference {found.norm:.4g}"
    same = "" if rows else "the same edit: "
    answer = f"{same}{len(rows)} vectors differ, {found.same} have one gain in both; norm of the change {size}"
    return _Said(found.to_json(), [answer], rest)


def _decompositions(first: str, second: str, top: int) -> _Said:
    from sith_hf.adaptation import diff_decompositions
    from sith_hf.decomposition import Decomposition

    found = diff_decompositions(Decomposition.from_pretrained(first), Decomposition.from_pretrained(second))
    return _Said(found.to_json(), *_decomposition_lines(found, top))


def _decomposition_lines(found: DecompositionDiff, top: int) -> tuple[list[str], list[str]]:
    from sith_hf.adaptation import TURNED
    from sith_hf.core.tables import table

    columns, rows = found.rows(top)
    rest = [table(columns, rows)] if rows else []
    for name, (a, b) in found.settings.items():
        rest.append(sanitize(f"setting {name}: {a!r} in A, {b!r} in B", 300))
    lines = [
        f"{len(found.blocks)} blocks of vectors: {found.turned} turned by more than {TURNED:g} degrees, "
        f"{found.words_changed} with other words",
        f"of {'the same' if found.same_weights else 'different'} weights; layers {list(found.layers)}",
    ]
    if found.fidelity is not None:
        lines.append(f"mean fidelity {found.fidelity[0]:.3f} in A, {found.fidelity[1]:.3f} in B")
    return lines, rest


def _checkpoints(first: str, second: str, top: int) -> _Said:
    from sith_hf.adaptation import diff_checkpoints
    from sith_hf.checkpoint import locate

    found = diff_checkpoints(locate(first), locate(second), progress=messages.progress())
    return _Said(found.to_json(), *_checkpoint_lines(found, top))


def _checkpoint_lines(found: CheckpointDiff, top: int) -> tuple[list[str], list[str]]:
    from sith_hf.core.tables import table

    if found.same:
        return [f"the same weights: {found.identical} tensors with equal bytes"], []
    columns, rows = found.rows(top)
    rest = [table(columns, rows)] if rows else []
    if len(found.differences) > top:
        rest.append(f"{len(found.differences) - top} more tensors differ (--top, or --json for all)")
    for side, names in (("A", found.only_first), ("B", found.only_second)):
        rest += [f"only in {side}: {sanitize(name, 200)}" for name in names[:top]]
    lines = [f"{len(found.differences)} tensors differ, {found.identical} have equal bytes"]
    if found.explained:
        lines.append(f"the edit that {found.edited} records explains every difference: diff the specs, or show it")
    else:
        lines += [f"not explained by the edit of {found.edited}: {sanitize(p, 300)}" for p in found.problems[:top]]
        lines.append("sith-hf compare A B says what changed in the heads, and explains it in words")
    return lines, rest
