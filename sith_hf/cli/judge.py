"""``sith-hf judge``: score explanations on a topic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import FEW, details, show_answer
from sith_hf.cli.output import save_results, show_result
from sith_hf.errors import InputError

if TYPE_CHECKING:
    from sith_hf.decomposition import Decomposition
    from sith_hf.gains import Scores


@click.command()
@click.argument("decomposition")
@click.option("--by", type=click.Choice(["embeddings", "language-model"]), help="The judge.  [default: embeddings]")
@click.option("--export", type=options.PATH, help="Write a score CSV for a person to fill in, and stop.")
@click.option("--import", "path", type=options.PATH, help="Read a score CSV that a person filled in.")
@options.output("scores.safetensors", required=False)
@click.option("--topic", help='What to rate, in words, such as "places and backgrounds".')
@options.group(
    "embeddings",
    click.option("--concepts", type=options.TEXTS, help="By embeddings: the topic's members, such as sea,road,forest."),
    click.option(
        "--near", type=float, help="By embeddings: minimum cosine for a concept to count as near.  [default: 0.6]"
    ),
    click.option("--model", help="By embeddings: the decomposed model. Needed for concepts that no explanation has."),
)
@options.group(
    "language_model",
    click.option(
        "--prompt", help="By a language model: topic, place, unsafe, theme, or a template file.  [default: topic]"
    ),
    click.option("--llm-model", help="By a language model: its Hub id, or its name at --base-url."),
    click.option("--provider", help="By a language model: one of the Hub's inference providers."),
    click.option("--base-url", help="By a language model: an OpenAI-compatible server, e.g. http://localhost:8000/v1."),
    click.option(
        "--max-tokens", type=int, help="By a language model: longest answer, reasoning included.  [default: 2048]"
    ),
    click.option("--reasoning-effort", help="By a language model: how long it thinks, such as low, medium or high."),
    click.option("--workers", type=int, help="By a language model: number of questions at once.  [default: 4]"),
)
@options.model
@details
@options.as_json
def judge(
    decomposition: str,
    by: str | None,
    export: Path | None,
    path: Path | None,
    output: Path | None,
    overwrite: bool,
    topic: str | None,
    embeddings: dict[str, Any],
    language_model: dict[str, Any],
    loading: dict[str, Any],
    as_json: bool,
) -> None:
    """Score how much each vector in DECOMPOSITION, a folder or Hub id, is about a topic: 1 to 5.

    Embeddings need --topic and --concepts; a language model needs --by language-model. For scores by a person,
    --export a score CSV, fill in its last column, and --import it. A language model's answers are kept in the output
    folder, and a second run reuses them. Put a token for --base-url into SITH_HF_JUDGE_TOKEN.
    """
    if export is not None:
        if by or path or output or topic is not None or embeddings or language_model:
            raise InputError("--export writes an empty score CSV; it takes no other option but --json")
        _export(decomposition, export, as_json)
        return
    if output is None:
        raise InputError("name a folder for the scores with -o, or a score CSV to write with --export")
    if path is not None and by is not None:
        raise InputError("--import reads a person's scores; leave out --by")
    kind = "file" if path is not None else (by or "embeddings")
    own = {"embeddings": embeddings, "language-model": language_model, "file": {}}
    stray = sorted(name for other, named in own.items() if other != kind for name in named)
    if stray:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in stray)
        raise InputError(f"leave out {names}: a judge by {kind.replace('-', ' ')} does not use it")
    if kind == "embeddings" and (topic is None or "concepts" not in embeddings):
        raise InputError("by embeddings: name the topic with --topic, and its members with --concepts")

    from sith_hf.core.settings import Settings
    from sith_hf.decomposition import Decomposition
    from sith_hf.editor import SithEditor
    from sith_hf.files import resumes_from
    from sith_hf.judges import EmbeddingJudgeSettings, LanguageModelJudgeSettings, SheetJudgeSettings, make_judge

    checkpoint = embeddings.pop("model", None)
    kinds: dict[str, type[Settings]] = {
        "embeddings": EmbeddingJudgeSettings,
        "language-model": LanguageModelJudgeSettings,
        "file": SheetJudgeSettings,
    }
    if "concepts" in embeddings:
        embeddings["concepts"] = [text for text in embeddings["concepts"] if text]
    if "llm_model" in language_model:
        language_model["model"] = language_model.pop("llm_model")
    asked = options.given(by=kind, topic=topic, path=path and str(path), **own[kind])
    settings: Any = kinds[kind].from_data(asked, "the options")
    loaded = Decomposition.from_pretrained(decomposition)
    embed = None
    if checkpoint is not None:
        embed = SithEditor.from_pretrained(checkpoint, **loading).with_decomposition(loaded).embed
    named = [url for url in (language_model.get("base_url"),) if url]
    made = make_judge(
        settings,
        embed,
        folder=Path(),
        cache=output / "answers",
        transcript=output / "transcript.jsonl",
        servers=named,
    )
    # A language model is asked again only what it has not answered.
    with resumes_from(output / "answers", "*.json"):
        scores = made.score(loaded, progress=messages.progress())
    _report(scores, loaded, save_results(output, overwrite, scores), as_json)


def _export(decomposition: str, sheet: Path, as_json: bool) -> None:
    from sith_hf.decomposition import Decomposition
    from sith_hf.files import write_whole
    from sith_hf.gains import score_csv_text

    if sheet.exists():
        raise InputError(f"{sheet} exists, and may hold a person's scores: move it, or name another file")
    loaded = Decomposition.from_pretrained(decomposition)
    write_whole(sheet, score_csv_text(loaded).encode("utf-8-sig"))
    rows = loaded.fidelity.numel()
    show_result(as_json, {"sheet": str(sheet), "rows": rows}, f"{rows} rows", sheet)


def _report(scores: Scores, decomposition: Decomposition, path: str, as_json: bool) -> None:
    import torch

    from sith_hf.core.escaping import sanitize
    from sith_hf.core.tables import table
    from sith_hf.decomposition import words_text

    counts = {str(n): int(((scores.value >= n) & (scores.value < n + 1)).sum()) for n in range(1, 6)}
    data = {
        "scores": path,
        "tower": decomposition.tower,
        "topic": scores.topic,
        "judge": scores.judge,
        "poles": scores.value.numel(),
        "scored": scores.scored,
        "missing": scores.missing,
        "from": counts,
        "record": dict(scores.record),
        "run": dict(scores.run),
    }
    flat = torch.nan_to_num(scores.value.flatten(), nan=0.0)
    explanations = decomposition.explanations()
    highest = torch.argsort(flat, descending=True, stable=True)[:10].tolist()
    best = [(explanations[i], float(flat[i])) for i in highest if flat[i] > 0]
    rows = [[e.layer, e.head, e.vector, e.pole, score, words_text(e)] for e, score in best]
    columns = ["layer", "head", "vector", "pole", "score", "concepts (weight)"]
    numbers = {**scores.record, **scores.run}.items()
    high = counts["4"] + counts["5"]
    by = f"{sanitize(scores.topic)}, by {sanitize(scores.judge)}"
    missing = f", {scores.missing} without a score" if scores.missing else ""
    show_answer(
        as_json,
        data,
        f"{by}: {high} of {scores.scored} poles score 4 or more{missing}",
        table(columns, rows[:FEW], "The highest scores"),
        path,
        rest=[
            table(columns, rows[FEW:], "The next scores") if rows[FEW:] else "",
            "; ".join(f"from {least}: {count}" for least, count in counts.items()),
            ", ".join(f"{k} {v}" for k, v in numbers if isinstance(v, int) and not isinstance(v, bool)),
        ],
    )
