"""``sith-hf push-edited``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sith_hf.cli.options import echo_json, json_option
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.hub import PushResult


@click.command("push-edited")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--base", help="Instead of FOLDER: the base to edit and publish, a folder or Hub id.")
@click.option("--spec", "spec_path", help="The edit spec for --base: folder or Hub id.")
@click.option("--recipe", help="The recipe to run on --base: a YAML file, or the name of a recipe of sith-hf.")
@click.option("--text-model", help="With --recipe: the CLIPModel of a vision-only --base.")
@click.option("--repo-id", required=True, help="The repository: namespace/name.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--revision", help="The branch, created if missing.  [default: main]")
@click.option("--create-pr", is_flag=True, help="Open a pull request against main instead.")
@click.option("--commit-message", help="The title of the commit.")
@click.option("--token", help="A token with write access.  [default: HF_TOKEN, or the one of `hf auth login`]")
@click.option("--dry-run", is_flag=True, help="Send nothing; list the files, and show the card.")
@click.option("--overwrite-card", is_flag=True, help="Replace a README.md that was written or changed by hand.")
@json_option
def push_edited(
    folder: Path | None,
    base: str | None,
    spec_path: str | None,
    recipe: str | None,
    text_model: str | None,
    repo_id: str,
    private: bool,
    revision: str | None,
    create_pr: bool,
    commit_message: str | None,
    token: str | None,
    dry_run: bool,
    overwrite_card: bool,
    as_json: bool,
) -> None:
    """Publish FOLDER, an edited checkpoint, with its card on the Hub; or edit --base and publish the result.

    Everything goes into one commit, which is then verified. Pushing the same again does nothing.
    """
    if (folder is None) == (base is None):
        raise InputError("give either FOLDER, an edited checkpoint, or --base with --spec or --recipe")
    if (base is not None) != ((spec_path is None) != (recipe is None)):
        raise InputError("give one of --spec and --recipe with --base, and none of them with FOLDER")

    from sith_hf.hub import PushOptions, check_options

    options = PushOptions(
        private=private or None,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message,
        token=token,
        overwrite_card=overwrite_card,
        dry_run=dry_run,
    )
    check_options(options)

    from sith_hf.files import scratch_folder
    from sith_hf.publish import push_edited as push_edited_

    if folder is not None:
        pushed = push_edited_(folder, repo_id, **options)
    else:
        with scratch_folder() as scratch:
            made = _edit_base(str(base), spec_path, recipe, text_model, token, scratch / "made")
            pushed = push_edited_(made, repo_id, **options)
    report(pushed, as_json)


def _edit_base(
    base: str, spec_path: str | None, recipe: str | None, text_model: str | None, token: str | None, target: Path
) -> Path:
    """Write the edited checkpoint as ``save-edited`` or ``run`` does; return its folder."""
    if spec_path is not None:
        from sith_hf.checkpoint import save_edited
        from sith_hf.edits import EditSpec

        spec = EditSpec.from_pretrained(spec_path, token=token)
        return save_edited(base, spec, target, token=token, progress=True).folder

    from sith_hf.recipe import run_recipe

    # A recipe's own paths start at its folder, those of the command line here. In YAML, null is no revision.
    place = {"model": base, "text_model": text_model}
    found = {name: os.path.abspath(path) if path and os.path.isdir(path) else path for name, path in place.items()}
    overrides = [f"base.{name}={json.dumps(value)}" for name, value in {**found, "revision": None}.items()]
    return run_recipe(str(recipe), target, overrides=overrides, token=token, progress=True).folder / "edited"


def report(pushed: PushResult, as_json: bool) -> None:
    """Print what was sent, or would be sent."""
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table

    if as_json:
        echo_json(pushed.to_json())
        return
    if pushed.card_kept is not None:
        click.echo(f"README.md on the Hub was kept: {pushed.card_kept} (--overwrite-card replaces it)", err=True)
    if pushed.dry_run and not (pushed.sent or pushed.deleted):
        click.echo(f"nothing would be sent: {sanitize(pushed.url)} already has everything")
        return
    if pushed.dry_run:
        where = f"a new repository, {pushed.url}" if pushed.creates else pushed.url
        rows = [(size, name) for name, size in pushed.sent.items()]
        click.echo(table(["bytes", "file"], rows, f"would be sent to {where}, branch {pushed.revision}"))
        for name in pushed.deleted:
            click.echo(f"would be deleted: {sanitize(name)}")
        for name in pushed.unchanged:
            click.echo(f"unchanged: {sanitize(name)}")
        click.echo(f"\nREADME.md:\n\n{pushed.card}")
        return
    if pushed.nothing_to_do:
        click.echo(
            f"nothing to do: {sanitize(pushed.url)} already has everything (commit {sanitize(str(pushed.commit))})"
        )
        return
    for name, size in pushed.sent.items():
        click.echo(f"sent {sanitize(name)} ({size} bytes)")
    for name in pushed.deleted:
        click.echo(f"deleted {sanitize(name)}")
    click.echo(sanitize(pushed.pull_request or pushed.url, 400))
