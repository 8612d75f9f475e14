"""``sith-hf import-scores``: convert decision files of the paper's authors to scores."""

from __future__ import annotations

from pathlib import Path

import click

from sith_hf.cli import options
from sith_hf.cli.answer import show_answer
from sith_hf.cli.output import save_results
from sith_hf.errors import InputError


@click.command(name="import-scores")
@click.argument("files", nargs=-1, required=True, type=options.PATH)
@click.argument("decomposition")
@options.output("scores.safetensors, or a .csv file to read and change; a recipe reads both (by: file)")
@click.option("--topic", default="the topic of the decision files", help="The topic of the scores, in words.")
@options.as_json
def import_scores(
    files: tuple[Path, ...], decomposition: str, output: Path, overwrite: bool, topic: str, as_json: bool
) -> None:
    """Convert FILES, the decision files of the paper's authors, to scores of DECOMPOSITION.

    DECOMPOSITION is the one that was scored: a folder from import-reference. A file holds one score a line for the
    vectors of one layer, which its name holds (layer-20_right_foldln_conceptnet_comp-0.3_sparsity-5.txt), or LAYER HEAD
    VECTOR SCORE in each line.
    """
    from sith_hf.decomposition import Decomposition
    from sith_hf.reference import read_decisions

    sheet = output.suffix == ".csv"
    if sheet and output.exists() and not overwrite:
        raise InputError(f"{output} exists, and may hold a person's scores; name a new file, or use --overwrite")
    loaded = Decomposition.from_pretrained(decomposition)
    scores = read_decisions(files, loaded, topic=topic)
    path = str(scores.to_csv(output, loaded)) if sheet else save_results(output, overwrite, scores)
    data = {"scores": path, "scored": scores.scored, "record": dict(scores.record)}
    counts = f"{scores.record['empty']} vectors without a score, {scores.record['absent']} without a line"
    show_answer(as_json, data, f"{scores.scored} vectors scored, {counts}", path)
