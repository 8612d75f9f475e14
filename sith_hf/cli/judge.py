"""``sith-hf judge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli.options import echo_json, given, json_option, model_options
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.decomposition import Decomposition
    from sith_hf.editor import SithEditor
    from sith_hf.gains import Scores

# The options of each kind of judge, by the names in its settings.
_OWN = {
    "embeddings": ("topic", "concepts", "near"),
    "language-model": ("topic", "prompt", "model", "provider", "base_url", "workers"),
    "file": ("topic", "path"),
}
_CALLED = {"model": "--llm-model", "path": "--import"}


class Texts(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Texts separated by commas."""

    name = "A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        return tuple(item.strip() for item in str(value).split(",") if item.strip())


@click.command()
@click.argument("decomposition")
@click.option("--by", type=click.Choice(["embeddings", "language-model"]), help="The judge.  [default: embeddings]")
@click.option("--export", type=click.Path(path_type=Path), help="Write a score CSV for a person to fill in, and stop.")
@click.option("--import", "path", type=click.Path(path_type=Path), help="Read a score CSV that a person filled in.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder for scores.safetensors; made if missing.")
@click.option("--topic", help='What to rate, in words, such as "places and backgrounds".')
@click.option("--concepts", type=Texts(), help="By embeddings: the members of the topic, such as sea,road,forest.")
@click.option("--near", type=float, help="By embeddings: least cosine at which a concept counts.  [default: 0.6]")
@click.option(
    "--model", "checkpoint", help="By embeddings: the decomposed model. Needed for concepts that no explanation has."
)
@click.option(
    "--prompt", help="By a language model: topic, place, unsafe, theme, or a template file.  [default: topic]"
)
@click.option("--llm-model", help="By a language model: its Hub id, or its name at --base-url.")
@click.option("--provider", help="By a language model: one of the Hub's inference providers.")
@click.option("--base-url", help="By a language model: an OpenAI-compatible server, such as http://localhost:8000/v1.")
@click.option("--workers", type=int, help="By a language model: number of questions at once.  [default: 4]")
@model_options
@json_option
def judge(
    decomposition: str,
    by: str | None,
    export: Path | None,
    path: Path | None,
    output: Path | None,
    checkpoint: str | None,
    llm_model: str | None,
    revision: str | None,
    text_model: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Score how much each vector in DECOMPOSITION, a folder or Hub id, is about a topic: 1 to 5.

    Embeddings need --topic and --concepts; a language model needs --by language-model. For scores of a person,
    --export a score CSV, fill in its last column, and --import it. A language model's answers are kept in the output
    folder, where a second run finds them. Put a token for --base-url into SITH_HF_JUDGE_TOKEN.
    """
    asked = given(**options, model=llm_model, path=None if path is None else str(path))
    if export is not None:
        if asked or by or output or checkpoint:
            raise InputError("--export writes an empty score CSV; it takes no other option but --json")
        _export(decomposition, export, as_json)
        return
    if output is None:
        raise InputError("name a folder for the scores with -o, or a score CSV to write with --export")
    if path is not None and by is not None:
        raise InputError("--import reads a person's scores; leave out --by")
    kind = "file" if path is not None else (by or "embeddings")
    stray = sorted(_CALLED.get(name, f"--{name.replace('_', '-')}") for name in asked if name not in _OWN[kind])
    if checkpoint is not None and kind != "embeddings":
        stray.append("--model")
    if stray:
        raise InputError(f"{', '.join(stray)}: not an option of a judge by {kind.replace('-', ' ')}")
    if kind == "embeddings" and not {"topic", "concepts"} <= set(asked):
        raise InputError("by embeddings: name the topic with --topic, and its members with --concepts")

    from sith_hf.core.settings import Settings
    from sith_hf.decomposition import Decomposition
    from sith_hf.judges import EmbeddingJudgeSettings, LanguageModelJudgeSettings, SheetJudgeSettings, make_judge

    kinds: dict[str, type[Settings]] = {
        "embeddings": EmbeddingJudgeSettings,
        "language-model": LanguageModelJudgeSettings,
        "file": SheetJudgeSettings,
    }
    settings: Any = kinds[kind].from_data({"by": kind, **asked}, "the options")
    loaded = Decomposition.from_pretrained(decomposition)
    editor = None if checkpoint is None else _editor(checkpoint, revision, text_model, loaded)
    made = make_judge(
        settings,
        None if editor is None else editor.embed,
        folder=Path(),
        cache=output / "answers",
        transcript=output / "transcript.jsonl",
    )
    scores = made.score(loaded, progress=True)
    _report(scores, loaded, scores.save_pretrained(output), as_json)


def _export(decomposition: str, sheet: Path, as_json: bool) -> None:
    from sith_hf.decomposition import Decomposition
    from sith_hf.files import write_whole
    from sith_hf.gains import score_csv_text

    if sheet.exists():
        raise InputError(f"{sheet} exists, and may hold a person's scores: move it, or name another file")
    loaded = Decomposition.from_pretrained(decomposition)
    write_whole(sheet, score_csv_text(loaded).encode("utf-8-sig"))
    rows = loaded.fidelity.numel()
    echo_json({"sheet": str(sheet), "rows": rows}) if as_json else click.echo(f"{rows} rows\n{sheet}")


def _editor(checkpoint: str, revision: str | None, text_model: str | None, loaded: Decomposition) -> SithEditor:
    from sith_hf.editor import SithEditor

    return SithEditor.from_pretrained(checkpoint, revision, text_model=text_model).with_decomposition(loaded)


def _report(scores: Scores, decomposition: Decomposition, path: Path, as_json: bool) -> None:
    import torch

    borders = [int((scores.value >= least).sum()) for least in (1, 2, 3, 4, 5)]
    counts = {str(n): a - b for n, a, b in zip((1, 2, 3, 4, 5), borders, [*borders[1:], 0], strict=True)}
    if as_json:
        echo_json({
            "scores": str(path),
            "topic": scores.topic,
            "judge": scores.judge,
            "poles": scores.value.numel(),
            "scored": scores.scored,
            "missing": scores.missing,
            "from": counts,
            "record": dict(scores.record),
            "run": dict(scores.run),
        })  # fmt: skip
        return

    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table
    from sith_hf.decomposition import concepts_text

    flat = torch.nan_to_num(scores.value.flatten(), nan=0.0)
    explanations = decomposition.explanations()
    highest = torch.argsort(flat, descending=True, stable=True)[:10].tolist()
    rows: list[list[object]] = [
        [e.layer, e.head, e.vector, e.pole, float(flat[i]), concepts_text(e)]
        for i in highest
        if flat[i] > 0
        for e in [explanations[i]]
    ]
    click.echo(table(["layer", "head", "vector", "pole", "score", "concepts (weight)"], rows, "The highest scores"))
    click.echo(
        f"{sanitize(scores.topic)}, by {sanitize(scores.judge)}: {scores.scored} poles scored, {scores.missing} not"
    )
    click.echo("; ".join(f"from {least}: {count}" for least, count in counts.items()))
    numbers = {**scores.record, **scores.run}.items()
    click.echo(", ".join(f"{k} {v}" for k, v in numbers if isinstance(v, int) and not isinstance(v, bool)))
    click.echo(str(path))
