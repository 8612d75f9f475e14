"""``sith-hf push-edited``: publish an edited checkpoint on the Hub."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details, show_answer
from sith_hf.cli.images import effect_images, images_of
from sith_hf.core.tables import left_out_lines
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.editor import Proof
    from sith_hf.hub import PushOptions, PushResult


@click.command("push-edited")
@click.argument("folder", required=False, type=options.PATH)
@options.group(
    "made",
    click.option("--base", help="Instead of FOLDER: the base to edit and publish, a folder or Hub id."),
    click.option("--recipe", help="The recipe to run on --base: a YAML file, or the name of a recipe of sith-hf."),
    click.option("--text-model", help="With --recipe, for a --base of one tower: the whole model it belongs to."),
)
@options.specs("The edit spec for --base: folder or Hub id.")
@click.option("--repo-id", required=True, help="The repository: namespace/name.")
@options.group(
    "pushing",
    click.option("--private", is_flag=True, default=None, help="Make a new repository private."),
    click.option("--revision", help="The branch, created if missing.  [default: main]"),
    click.option("--create-pr", is_flag=True, help="Open a pull request against main instead."),
    click.option("--commit-message", help="The title of the commit."),
    click.option("--token", help="A token with write access.  [default: HF_TOKEN, or the one of `hf auth login`]"),
    click.option("--dry-run", is_flag=True, help="Send nothing; list the files, and show the card. Works offline."),
    click.option("--overwrite-card", is_flag=True, help="Replace a README.md that was written or changed by hand."),
)
@effect_images
@options.servers
@options.placed
@options.include
@details
@options.as_json
def push_edited(
    folder: Path | None,
    made: dict[str, str],
    spec_paths: tuple[str, ...],
    repo_id: str,
    pushing: PushOptions,
    images: dict[str, Any],
    servers: tuple[str, ...],
    placed: dict[str, Any],
    include: tuple[str, ...],
    as_json: bool,
) -> None:
    """Publish FOLDER, an edited checkpoint, with its card on the Hub; or edit --base and publish the result.

    The weights, configuration, tokenizer, processor, licence, the edit and the card are sent in one commit, which is
    then verified; other files are left out and listed. Pushing the same again does nothing.

    An edit without effect on the concepts that it names is not published: the effect is that which save-edited
    recorded in FOLDER, or measured now as there.
    """
    if (folder is None) == ("base" not in made):
        raise InputError("give either FOLDER, an edited checkpoint, or --base with --spec or --recipe")
    if ("base" in made) != (bool(spec_paths) != ("recipe" in made)):
        raise InputError("give one of --spec and --recipe with --base, and neither with FOLDER")
    if servers and "recipe" not in made:
        raise InputError("--base-url names a server of a recipe's judges: use it with --recipe")

    from sith_hf.editor import Proof
    from sith_hf.files import scratch_folder
    from sith_hf.hub import check_options
    from sith_hf.publish import push_edited as push_edited_

    check_options(pushing)  # before the work of an edit
    token = pushing.get("token") or None
    text_model, say = made.get("text_model"), messages.warn
    proof = Proof(images_of(images), text_model, token, say=say, progress=messages.progress(), **placed)
    with scratch_folder() as scratch:
        reasons: dict[str, str] = {}
        if folder is None:
            folder, reasons = _edited(scratch / "made", token, servers, include, proof, spec_paths, **made)
        effect = proof.of_folder(folder)
        pushed = push_edited_(folder, repo_id, effect=effect, include=include, **pushing)
        reasons |= pushed.reasons
    _report(replace(pushed, left_out=tuple(reasons), reasons=reasons), as_json)


def _edited(
    target: Path,
    token: str | None,
    servers: tuple[str, ...],
    include: tuple[str, ...],
    proof: Proof,
    spec_paths: tuple[str, ...],
    *,
    base: str,
    recipe: str = "",
    text_model: str | None = None,
) -> tuple[Path, dict[str, str]]:
    """Write the edited checkpoint as ``save-edited`` or ``run`` does; return its folder, and what it leaves out."""
    if spec_paths:
        from sith_hf.checkpoint import save_edited

        edit = options.spec_of(spec_paths, token)
        saved = save_edited(
            base, edit, target, include=include, token=token, measure=proof, progress=messages.progress()
        )
        return saved.folder, dict(saved.reasons)

    from sith_hf.recipe import run_recipe

    # A recipe's paths start at its folder; make those of the command line absolute. In YAML, null is no revision.
    place = {"model": base, "text_model": text_model}
    found = {name: os.path.abspath(path) if path and os.path.isdir(path) else path for name, path in place.items()}
    overrides = [f"base.{name}={json.dumps(value)}" for name, value in {**found, "revision": None}.items()]
    named: dict[str, Any] = {"overrides": overrides, "include": include, "servers": servers}
    named |= {"device": proof.device, "dtype": proof.dtype}
    ran = run_recipe(recipe, target, **named, token=token, progress=messages.progress())
    return ran.folder / "edited", dict(ran.saved.reasons)


def _report(pushed: PushResult, as_json: bool) -> None:
    """Print the files that were sent, or would be sent."""
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.formatting import counted
    from sith_hf.core.tables import table

    url, deleted, unchanged = sanitize(pushed.url), map(sanitize, pushed.deleted), map(sanitize, pushed.unchanged)
    others = [f"not touched in the repository: {sanitize(name)}" for name in pushed.others]
    sizes = [(size, name) for name, size in pushed.sent.items()]
    rest: list[str] = []
    if pushed.dry_run and pushed.nothing_to_do:
        lines = [f"nothing would be sent: {url} already has everything"]
    elif pushed.dry_run:
        where = f"a new repository, {pushed.url}" if pushed.creates else pushed.url
        total = f"{counted(len(sizes), 'file')}, {sum(pushed.sent.values()) / 1e6:.1f} MB"
        lines = [
            f"{total} would be sent to {sanitize(where, 400)}, branch {sanitize(pushed.revision)}",
            table(["bytes", "file"], sizes),
            *([] if pushed.compared else ["not compared with the repository: the Hub was not reached"]),
            *(f"would be deleted: {name}" for name in deleted),
            f"\nREADME.md:\n\n{pushed.card}",
        ]
        rest = [*(f"unchanged: {name}" for name in unchanged), *others, *left_out_lines(pushed.reasons)]
    elif pushed.nothing_to_do:
        done = f"nothing to do: {url} already has everything (commit {sanitize(str(pushed.commit))})"
        lines, rest = [done], [*others, *left_out_lines(pushed.reasons)]
    else:
        place = sanitize(pushed.pull_request or pushed.url, 400)
        removed = f", {len(pushed.deleted)} deleted" if pushed.deleted else ""
        lines = [f"pushed {counted(len(sizes), 'file')}{removed}, commit {sanitize(str(pushed.commit))}", place]
        rest = [
            *(f"sent {sanitize(name)} ({size} bytes)" for size, name in sizes),
            *(f"deleted {name}" for name in deleted),
            *others,
            *left_out_lines(pushed.reasons),
        ]
    if pushed.card_kept is not None and not as_json:
        messages.warn(f"README.md on the Hub was kept: {pushed.card_kept} (--overwrite-card replaces it)")
    show_answer(as_json, pushed.to_json(), *lines, rest=rest)
