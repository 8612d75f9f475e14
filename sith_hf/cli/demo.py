"""``sith-hf demo``: explain and edit the embedded checkpoint."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import detailed, details, show_answer

# Measured by time sith-hf demo -o $(mktemp -d), on two cores.
TIME = "This takes less than a minute on two cores."


@click.command()
@click.option(
    "-o",
    "--output",
    type=options.PATH,
    default=Path("sith-demo"),
    show_default=True,
    help="Folder for the decomposition, the spec, the edited checkpoint and a picture.",
)
@click.option(
    "--seed", type=int, default=2026, show_default=True, help="Seed of the pictures for the measurement; 1000 or above."
)
@details
@options.as_json
def demo(output: Path, seed: int, as_json: bool) -> None:
    """Explain the embedded checkpoint, suppress backgrounds in it, and measure before and after."""
    from sith_hf.demo import report, run_demo, save_picture

    messages.note(TIME)
    result = run_demo(output, seed, messages.note)
    picture = save_picture(result, seed)
    data = {
        "base": result.base.to_json(),
        "edited": result.edited.to_json(),
        "edited_vectors": len(result.spec),
        "folder": str(result.folder / "edited"),
        "picture": str(picture),
        "seed": seed,
    }
    # With make, sith-hf is not on the PATH; the printed commands must work anyway.
    command = "sith-hf" if shutil.which("sith-hf") else os.path.relpath(sys.argv[0])
    show_answer(as_json, data, report(result, seed, command, details=detailed()))
