"""``sith-hf push-edited``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sith_hf.cli.options import echo_json, json_option
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.hub import PushResult


@click.command("push-edited")
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--base", help="The base to edit on the way, instead of FOLDER: folder or Hub id.")
@click.option("--spec", "spec_path", help="The edit spec for --base: folder or Hub id.")
@click.option("--recipe", help="A recipe for --base: a YAML file, or the name of one that comes with sith-hf.")
@click.option("--text-model", help="With --recipe: the CLIPModel that a vision-only --base belongs to.")
@click.option("--repo-id", required=True, help="Where to push to: namespace/name.")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--revision", help="The branch to push to, made where it is missing.  [default: main]")
@click.option("--create-pr", is_flag=True, help="Open a pull request against main instead.")
@click.option("--commit-message", help="The title of the commit.")
@click.option("--token", help="A token with write access.  [default: HF_TOKEN, or the one of `hf auth login`]")
@click.option("--dry-run", is_flag=True, help="Send nothing; list what would be sent, and show the card.")
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
    """Publish FOLDER, an edited checkpoint, on the Hub with its card; or make one on the way from --base.

    Everything goes in one commit, and is compared with what the Hub then has. Pushing the same again does nothing.
    """
    if (folder is None) == (base is None):
        raise InputError("give FOLDER, an edited checkpoint, or else --base with --spec or --recipe")
    if (base is not None) != ((spec_path is None) != (recipe is None)):
        raise InputError("--base goes with one of --spec and --recipe, and FOLDER with neither")

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
        report(push_edited_(folder, repo_id, **options), as_json)
        return
    with scratch_folder() as scratch:
        _make(scratch / "edited", str(base), spec_path, recipe, text_model, token)
        pushed = push_edited_(scratch / "edited", repo_id, **options)
    report(pushed, as_json)


def _make(
    target: Path, base: str, spec_path: str | None, recipe: str | None, text_model: str | None, token: str | None
) -> None:
    """Write the edited checkpoint, and the recipe where there is one."""
    from sith_hf.checkpoint import SITH, locate, save_edited
    from sith_hf.edits import EditSpec

    if spec_path is not None:
        spec = EditSpec.from_pretrained(spec_path, token=token)
        revision = spec.base.revision if base == spec.base.name else None
        save_edited(locate(base, revision, token), spec, target, progress=True)
        return

    from sith_hf.editor import SithEditor
    from sith_hf.files import write_whole
    from sith_hf.recipe import Recipe, RecipeSource, choose, decompose_with, resolve, shareable, write_yaml

    source = RecipeSource.load(str(recipe), [f"base.model={json.dumps(base)}"])
    plan = Recipe.from_data(source.data, source.name)
    editor = SithEditor.from_pretrained(base, text_model=text_model, token=token)
    concepts, decomposition = decompose_with(plan, editor, source.folder, progress=True)
    chosen = choose(plan, editor, decomposition, concepts, source.folder, token=token, progress=True)
    editor.save_pretrained(target, chosen.spec, progress=True)
    for name, scores in chosen.scores.items():
        scores.save_pretrained(target.parent / "scores" / name)
    whole = resolve(plan, editor, decomposition, concepts, chosen, source.folder, target.parent)
    text = write_yaml(shareable(whole).model_dump(mode="json"), plan.title)
    write_whole(target / SITH / "recipe.yaml", text.encode("utf-8"))


def report(pushed: PushResult, as_json: bool) -> None:
    """Print what was sent, or would be."""
    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table

    if as_json:
        echo_json(pushed.to_json())
        return
    if pushed.card_kept is not None:
        click.echo(f"README.md on the Hub was kept: {pushed.card_kept} (--overwrite-card replaces it)", err=True)
    if pushed.dry_run and not (pushed.sent or pushed.deleted):
        click.echo(f"nothing would be sent: {sanitize(pushed.url)} has everything already")
        return
    if pushed.dry_run:
        where = f"a new repository, {pushed.url}" if pushed.creates else pushed.url
        rows = [(size, name) for name, size in pushed.sent.items()]
        click.echo(table(["bytes", "file"], rows, f"would be sent to {where}, branch {pushed.revision}"))
        for name in pushed.deleted:
            click.echo(f"would be deleted: {sanitize(name)}")
        for name in pushed.unchanged:
            click.echo(f"there already: {sanitize(name)}")
        click.echo(f"\nREADME.md:\n\n{pushed.card}")
        return
    if pushed.nothing_to_do:
        click.echo(
            f"nothing to do: {sanitize(pushed.url)} has everything already (commit {sanitize(str(pushed.commit))})"
        )
        return
    for name, size in pushed.sent.items():
        click.echo(f"sent {sanitize(name)} ({size} bytes)")
    for name in pushed.deleted:
        click.echo(f"deleted {sanitize(name)}")
    click.echo(sanitize(pushed.pull_request or pushed.url, 400))
