"""The command ``sith-hf``: one subcommand per file, imported only when it is called."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from importlib.metadata import version

import click

from sith_hf.cli.messages import verbosity, with_verbosity
from sith_hf.core.distributed import launched_as_main, silence_other_ranks
from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import reason
from sith_hf.core.validation import nearest
from sith_hf.errors import SithError

# Subcommand -> (name of its module and function, line in --help). Kept here so that --help imports no subcommand.
COMMANDS = {
    "decompose": ("decompose", "Explain the attention heads of a vision or text tower."),
    "image-mean": ("image_mean", "Average image embeddings, for decompose --image-mean."),
    "show": ("show", "Show a decomposition or an edit spec."),
    "find": ("find", "Find the singular vectors that carry a concept."),
    "explore": ("explore", "Look at a decomposition in the browser, and edit it there."),
    "ground": ("ground", "Show the images that drive singular vectors, and where."),
    "judge": ("judge", "Score explanations on a topic, or read scores from CSV."),
    "edit": ("edit", "Choose gains for concepts; save them as an edit spec."),
    "compose": ("compose", "Combine edit specs into one."),
    "save-edited": ("save_edited", "Write an edit into a copy of a checkpoint."),
    "card": ("card", "Show or renew the card of a folder."),
    "push-edited": ("push_edited", "Publish an edited checkpoint on the Hub."),
    "verify": ("verify", "Check an edited checkpoint against its base."),
    "revert": ("revert", "Remove the edit from an edited checkpoint."),
    "export-adapter": ("export_adapter", "Write an edit as a LoRA adapter for peft."),
    "evaluate": ("evaluate", "Compare an edited model with its base."),
    "compare": ("compare", "Compare a fine-tuned model with its base, head by head."),
    "diff": ("diff", "Compare two edit specs, decompositions or checkpoints."),
    "fidelity": ("fidelity", "Measure explanations by method and against chance."),
    "import-reference": ("import_reference", "Import decompositions published with the paper."),
    "import-scores": ("import_scores", "Import scores published with the paper."),
    "run": ("run", "Run a recipe, from base to evaluated edit."),
    "tune": ("tune", "Search better edits of a recipe."),
    "recipes": ("recipes", "List the shipped recipes, or show one."),
    "cache": ("cache", "Show or clear the embeddings kept for later runs."),
    "demo": ("demo", "Explain and edit the embedded checkpoint."),
}

# The commands that share their work between the processes of a launcher. Of the others, rank 0 runs alone.
SHARING = frozenset({"decompose", "image-mean", "ground", "evaluate", "run", "tune"})


class LazyGroup(click.Group):
    """A group that imports a subcommand only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name, _ = COMMANDS[cmd_name]
        return with_verbosity(getattr(import_module(f"sith_hf.cli.{name}"), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = nearest(name, COMMANDS)
            hint = f"did you mean {close}?" if close else f"the commands are {', '.join(COMMANDS)}"
            ctx.fail(f"no command is called '{sanitize(name)}'; {hint}")
        if name in COMMANDS and name not in SHARING and not launched_as_main():
            ctx.exit()
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, params=verbosity(), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=version("sith-hf"), prog_name="sith-hf")
def sith_hf() -> None:
    """Explain the attention heads of CLIP-like models, and suppress or amplify named concepts.

    Start with sith-hf demo: it needs no model of your own. sith-hf COMMAND --help lists the options of a command.

    Results go to stdout, progress and messages to stderr. Exit codes: 0 success, 1 a failed verification, 2 unusable
    input, 130 interrupted.
    """


def main() -> None:
    """Run the command line. A :class:`SithError` becomes one message and exit code 2."""
    silence_other_ranks()
    # SIGTERM cleans up as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = sith_hf.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SithError as error:
        click.echo(f"Error: {sanitize(str(error), 2000)}", err=True)
        code = 2
    except OSError as error:  # a path that is too long, or a folder that may not be read
        place = "" if error.filename is None else f"{sanitize(str(error.filename), 400)}: "
        click.echo(f"Error: {place}{sanitize(str(reason(error)))}; check the path and its permissions", err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort) as stopped:
        # click raises Abort from the interrupt, which has the note of :func:`sith_hf.files.resumes_from`.
        notes = getattr(stopped.__cause__ or stopped, "__notes__", ["No incomplete file was left behind."])
        click.echo(f"Stopped. {sanitize(notes[0], 1000)}", err=True)
        code = 130
    sys.exit(code)
