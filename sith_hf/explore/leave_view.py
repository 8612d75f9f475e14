"""What leaves the explorer: the edit, the recipe that repeats it, and the edited checkpoint, saved or published."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from sith_hf.checkpoint import SITH, SavedCheckpoint, measured, save_edited, write_card
from sith_hf.core.escaping import sanitize, shown_name
from sith_hf.core.reading import read_bytes
from sith_hf.core.secrets import mask
from sith_hf.core.strict_yaml import write_yaml
from sith_hf.core.tables import left_out_lines
from sith_hf.editor import Edit
from sith_hf.edits import EditEffect
from sith_hf.errors import HubError, InputError, SithError
from sith_hf.evaluation import measure_effect, unmeasurable
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.edit_view import draft, preview
from sith_hf.explore.explorer import Explorer
from sith_hf.files import scratch_folder, write_whole
from sith_hf.hub import PushResult, is_repo_id
from sith_hf.publish import push_edited
from sith_hf.recipe import RECIPE, Recipe, decompose_key
from sith_hf.world import EMBEDDED, embedded_checkpoint

# Items that a title lists.
_LISTED = 4


@dataclass(frozen=True)
class SavedView:
    """An edited checkpoint that was written.

    Attributes:
        folder: its folder.
        effect: what the edit does to the concepts that it names, or why that was not measured.
        changed: the number of tensors that changed.
        left_out: lines about the files that were left out.
    """

    folder: str
    effect: str
    changed: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class PushView:
    """What a push sent, or would send.

    Attributes:
        title: what was done, in a sentence.
        url: the repository, or the pull request.
        sent: name and size in bytes of each file.
        deleted, unchanged, others: names of files.
        left_out: lines about the files that were left out.
        notes: what else to know.
        metadata: the head of the card, YAML.
        card: the rest of the card, Markdown, with its pictures inside.
    """

    title: str
    url: str
    sent: tuple[tuple[str, int], ...]
    deleted: tuple[str, ...]
    unchanged: tuple[str, ...]
    others: tuple[str, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    metadata: str = field(repr=False)
    card: str = field(repr=False)


def title_of(basket: Basket) -> str:
    """Return what an edit does, in one line, such as ``suppresses sea, amplifies bird x1.5``."""
    verbs = {"suppresses": [], "weakens": [], "amplifies": [], "inverts": []}  # type: dict[str, list[str]]
    for item in basket.items:
        if item.gain != 1:
            verbs[_verb(item.gain)].append(_named(item))
    parts = [f"{verb} {_some(names)}" for verb, names in verbs.items() if names]
    return sanitize(", ".join(parts) or "changes nothing", 300)


def recipe_text(explorer: Explorer, basket: Basket, *, shared: bool = False) -> str:
    """Return the recipe that repeats the edit of a basket with ``sith-hf run``.

    It starts from the same decomposition, so that the same vectors are chosen.

    Args:
        explorer: the decomposition, and perhaps the model.
        basket: the edit.
        shared: name no folder of this machine; so it is on a page that others reach.

    Raises:
        InputError: nothing is changed, or an item cannot be used.
    """
    view = preview(explorer, basket)
    _check(basket, [item.problem or view.problem for item in view.items])
    tower, shared = explorer.decomposition.tower, shared or not explorer.local
    data: dict[str, Any] = {
        "title": title_of(basket),
        "base": {"model": _place(explorer.model or explorer.decomposition.base.name, shared)},
        decompose_key(tower): {"from": _place(explorer.source, shared)},
        "edits": [_step(item, tower, words=view.with_model) for item in basket.items if item.gain != 1],
    }
    if view.excess:
        data["large_edit"] = True
    text = write_yaml(data, "made by sith-hf explore; run it with: sith-hf run recipe.yaml -o FOLDER")
    Recipe.from_text(text, RECIPE)
    return text


def write_files(explorer: Explorer, basket: Basket, folder: Path) -> list[Path]:
    """Write the recipe, and with a model the edit spec, into a folder; return their paths.

    Raises:
        InputError: nothing is changed, or an item cannot be used.
    """
    recipe = recipe_text(explorer, basket)
    write_whole(folder / RECIPE, recipe.encode("utf-8"))
    spec = [] if explorer.model is None else [finished(explorer, basket).spec.save_pretrained(folder)]
    return [*spec, folder / RECIPE]


def finished(explorer: Explorer, basket: Basket) -> Edit:
    """Return the edit of a basket, complete.

    Raises:
        InputError: no model, nothing is changed, or an item cannot be used.
    """
    if explorer.model is None:
        raise InputError("this needs the model: start again with --model, the decomposed model")
    explorer.decomposition.require_side("write")
    found = draft(explorer, basket)
    _check(basket, found.problems)
    if found.edit is None or not found.edit.spec:
        raise InputError("the edit changes nothing: give a vector or concept a gain other than 1")
    return found.edit


def save(explorer: Explorer, basket: Basket, folder: str, *, overwrite: bool = False, large: bool = False) -> SavedView:
    """Write the edited checkpoint into a folder of this machine.

    Args:
        explorer: with a model.
        basket: the edit.
        folder: a folder that does not exist or is empty.
        overwrite: replace another checkpoint in it.
        large: accept an edit above the limits.

    Raises:
        InputError: a page that others reach, no folder, as for :func:`finished`, or as for
            :func:`sith_hf.checkpoint.save_edited`.
        LargeEdit: the edit exceeds a limit, without ``large``.
        OutputError: it could not be written.
    """
    if not explorer.local:
        raise InputError("this page may be reached by others, so it saves nothing on its machine: download the files")
    if not folder.strip():
        raise InputError("name a folder for the edited checkpoint, such as edited/")
    # A name such as ~nobody, of no user, stays as it is.
    path = Path(os.path.expanduser(folder.strip()))
    saved, effect = _save(explorer, basket, path, overwrite=overwrite, large=large)
    return SavedView(str(saved.folder), effect, len(saved.changed), tuple(left_out_lines(saved.reasons)))


def push(
    explorer: Explorer,
    basket: Basket,
    repo_id: str,
    token: str,
    *,
    private: bool = False,
    large: bool = False,
    dry_run: bool = False,
) -> PushView:
    """Publish the edited checkpoint with the reader's own token, or show what would be sent.

    The token is passed on to the Hub and to nothing else: no file, log, message or state has it.

    Args:
        explorer: with a model.
        basket: the edit.
        repo_id: ``namespace/name``.
        token: a token with write access. Empty on the user's own machine: the one of ``HF_TOKEN`` or ``hf auth login``.
            A page that others reach never uses that, and makes a dry run without a token.
        private: make a new repository private.
        large: accept an edit above the limits.
        dry_run: send nothing.

    Raises:
        InputError, LargeEdit: as for :func:`save`, no repository, or as for :func:`sith_hf.publish.push_edited`.
        HubError: no token, or the Hub refused, failed or could not be reached.
    """
    token, repo_id = token.strip(), repo_id.strip()
    if not is_repo_id(repo_id) or "/" not in repo_id:
        raise InputError("name the repository as namespace/name, such as me/clip-no-beach")
    if not (token or explorer.local or dry_run):
        raise HubError("pushing needs your own token with write access: paste it, or look at the files with a dry run")
    given: str | Literal[False] | None = token or (None if explorer.local else False)
    try:
        with scratch_folder() as scratch:
            saved, effect = _save(explorer, basket, scratch / "edited", large=large)
            pushed = push_edited(saved.folder, repo_id, private=private or None, token=given, dry_run=dry_run)
            return _pushed(pushed, saved, effect)
    except SithError as error:
        masked = mask(str(error), token)
        if masked == str(error):
            raise
        raise HubError(masked) from None


def _save(
    explorer: Explorer, basket: Basket, folder: Path, *, overwrite: bool = False, large: bool = False
) -> tuple[SavedCheckpoint, str]:
    """Write the edited checkpoint; return it, and what the edit does to the concepts that it names."""
    edit = finished(explorer, basket)
    if not large:
        edit.impact.check("tick “Accept a large edit”")
    reason = unmeasurable(explorer.editor)
    effect = None if reason is not None else _effect(explorer, basket)
    saved = save_edited(str(explorer.model), edit.spec, folder, overwrite=overwrite, measure=measured(effect))
    recipe = saved.folder / SITH / RECIPE
    if not recipe.exists():
        write_whole(recipe, recipe_text(explorer, basket, shared=True).encode("utf-8"))
        write_card(saved.folder)  # again, with the recipe
    return saved, str(effect) if reason is None else f"the effect of the edit was not measured: {reason}"


@lru_cache(maxsize=16)
def _effect(explorer: Explorer, basket: Basket) -> EditEffect:
    """Measure the effect of an edit on drawn pictures; a dry run and the push after it measure once."""
    spec = finished(explorer, basket).spec
    with explorer.running():
        return measure_effect(explorer.editor, spec)


def _pushed(pushed: PushResult, saved: SavedCheckpoint, effect: str) -> PushView:
    where = f"{pushed.url}, branch {pushed.revision}"
    if pushed.dry_run:
        title = f"Nothing was sent. {'A new repository would be' if pushed.creates else 'A push would go to'} {where}"
    elif pushed.nothing_to_do:
        title = f"Nothing to do: {where} already has everything"
    else:
        title = f"Published at {where}"
    notes = [effect]
    if not pushed.compared:
        notes.append("not compared with the repository: the Hub was not reached")
    if pushed.card_kept is not None:
        notes.append(f"README.md on the Hub is kept: {pushed.card_kept}")
    metadata, card = _split(pushed.card)
    return PushView(
        title,
        pushed.pull_request or pushed.url,
        tuple(pushed.sent.items()),
        pushed.deleted,
        pushed.unchanged,
        pushed.others,
        tuple(left_out_lines({**saved.reasons, **pushed.reasons})),
        tuple(notes),
        metadata,
        _with_pictures(card, saved.folder),
    )


def _split(card: str) -> tuple[str, str]:
    """Return the metadata of a card, and its text."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return (found[1], card[found.end() :].lstrip()) if found else ("", card)


def _with_pictures(card: str, folder: Path) -> str:
    """Return a card with the pictures of its repository inside, so that the page asks nobody for them."""

    def inside(found: re.Match[str]) -> str:
        path = folder / found[1]
        if path.suffix != ".png" or not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            return found[0]
        return f"](data:image/png;base64,{base64.b64encode(read_bytes(path)).decode('ascii')})"

    return re.sub(r"\]\(([\w./-]+)\)", inside, card)


def _check(basket: Basket, problems: Sequence[str]) -> None:
    """Raise InputError for a basket that changes nothing, or an item that cannot be used."""
    if not any(item.gain != 1 for item in basket.items):
        raise InputError("the edit changes nothing: put a vector or concept with a gain other than 1 into the basket")
    for item, problem in zip(basket.items, problems, strict=True):
        if problem:
            raise InputError(f"{item.name} cannot be edited, so remove it from the basket first: {problem}")


def _step(item: Item, tower: str, *, words: bool) -> dict[str, Any]:
    """Return the edit of a recipe for one item."""
    if item.vector is None:
        step: dict[str, Any] = {"rule": "words" if words else "share", "concepts": [item.concept]}
    else:
        layer, head, vector = item.vector
        step = {"rule": "vectors", "layers": [layer], "heads": [head], "vectors": [vector]}
    return {**step, "gain": float(item.gain), **({} if tower == "vision" else {"tower": tower})}


def _place(name: str, shared: bool) -> str:
    """Return how a recipe names a model or a decomposition."""
    if not os.path.exists(name):
        return name
    if os.path.realpath(name) == os.path.realpath(embedded_checkpoint()):
        return EMBEDDED
    return shown_name(name) if shared else os.path.abspath(name)


def _verb(gain: float) -> str:
    if gain == 0:
        return "suppresses"
    return "inverts" if gain < 0 else "weakens" if gain < 1 else "amplifies"


def _named(item: Item) -> str:
    return item.name if item.gain in (0, -1) else f"{item.name} x{item.gain:g}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
