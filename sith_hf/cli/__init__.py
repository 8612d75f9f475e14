"""The command ``sith-hf``: one subcommand a file, imported only when it is called."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from importlib.metadata import version

import click

from sith_hf.core.distributed import quiet_others
from sith_hf.errors import SithError

# Subcommand -> (module and function, one line for --help). The line stands here so that help imports nothing.
COMMANDS = {
    "decompose": ("decompose", "Explain the attention heads of a CLIP vision tower."),
    "image-mean": ("image_mean", "Average image embeddings, for decompose --image-mean."),
    "show": ("show", "Show what heads speak of, or what an edit spec holds."),
    "find": ("find", "Find the singular vectors that speak of a concept."),
    "judge": ("judge", "Score explanations on a topic; read a score CSV back."),
    "edit": ("edit", "Choose gains for concepts; save them as an edit spec."),
    "save-edited": ("save_edited", "Write an edit into a copy of a checkpoint."),
    "push-edited": ("push_edited", "Publish an edited checkpoint on the Hub."),
    "verify": ("verify", "Check an edited checkpoint against its base."),
    "revert": ("revert", "Take the edit out of an edited checkpoint."),
    "export-adapter": ("export_adapter", "Write an edit as a LoRA adapter for peft."),
    "evaluate": ("evaluate", "Measure an edited model beside its base."),
    "fidelity": ("fidelity", "Measure explanations by method, and against chance."),
    "import-reference": ("import_reference", "Read decompositions of the paper's authors."),
    "run": ("run", "Run a recipe, from base to evaluated edit."),
    "recipes": ("recipes", "List the recipes that come with sith-hf, or show one."),
    "demo": ("demo", "Run the whole job on the embedded checkpoint."),
}


class LazyGroup(click.Group):
    """A group that imports a subcommand when it is called, so that help costs nothing."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"sith_hf.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version=version("sith-hf"), prog_name="sith-hf")
def sith_hf() -> None:
    """Look inside the attention heads of a CLIP vision tower, and turn named concepts down or up.

    Results go to stdout, progress and messages to stderr. Exit code 2 means that something given cannot be used.
    """


def main() -> None:
    """Run the command line; what sith-hf raises on purpose becomes one message and exit code 2."""
    quiet_others()
    # Told to end, it cleans up as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = sith_hf.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except SithError as error:
        from sith_hf.core.escaping import sanitize

        click.echo(f"Error: {sanitize(str(error), 2000)}", err=True)
        code = 2
    except (KeyboardInterrupt, click.Abort):
        click.echo("Stopped. Nothing was left half-written.", err=True)
        code = 130
    except BrokenPipeError:
        # The reader of our output went away (such as `head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)
