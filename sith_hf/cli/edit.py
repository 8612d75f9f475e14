"""``sith-hf edit``: choose gains and save them as an edit spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from sith_hf.cli import messages, options
from sith_hf.cli.answer import details, show_answer
from sith_hf.cli.output import save_results
from sith_hf.core.escaping import sanitize
from sith_hf.errors import InputError


@click.command()
@click.argument("model")
@click.option("--decomposition", required=True, help="The decomposition of MODEL: folder or Hub id.")
@click.option("--suppress", multiple=True, metavar="CONCEPT[=GAIN],...", help="Suppress concepts (gain 0).")
@click.option("--amplify", multiple=True, metavar="CONCEPT[=GAIN],...", help="Amplify concepts (gain 1.5).")
@click.option("--invert", multiple=True, metavar="CONCEPT,...", help="Invert concepts (gain -1).")
@options.group(
    "where",
    click.option(
        "--layers",
        type=options.LAYERS,
        help="Edit only these layers, such as -4:, 8-11 or last4; with --gain, all their vectors.",
    ),
    click.option("--heads", type=options.HEADS, help="Edit only these heads; with --gain, all their vectors."),
)
@click.option("--vectors", type=options.VECTORS, help="With --gain: edit only these vectors.")
@click.option("--gain", type=float, help="Gain of the given layers, heads and vectors, in place of concepts.")
@click.option("--strength", type=float, help="Scale the edit: 0.5 moves every gain halfway to 1.")
@options.rule
@options.model
@options.output("edit_spec.safetensors", required=False)
@click.option("--dry-run", is_flag=True, help="Show the edit and its impact, and write nothing.")
@click.option("--yes", is_flag=True, help="Save an edit above the limits on energy or drift too.")
@details
@options.as_json
def edit(
    model: str,
    decomposition: str,
    suppress: tuple[str, ...],
    amplify: tuple[str, ...],
    invert: tuple[str, ...],
    where: dict[str, Any],
    vectors: tuple[int | str, ...] | None,
    gain: float | None,
    strength: float | None,
    rule: dict[str, Any],
    loading: dict[str, Any],
    output: Path | None,
    overwrite: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Choose gains for singular vectors of MODEL, a folder or Hub id, and save them as an edit spec.

    A vector is chosen if it carries one of the concepts beyond chance, or, with --top N, among the N strongest for one.
    With --threshold, --near or --both-poles, concepts with the same gain are one topic: a vector is chosen by the share
    of all of them in its explanation.
    """
    if output is None and not dry_run:
        raise InputError("name a folder for the edit with -o, or look at it with --dry-run")
    by_concept = bool(suppress or amplify or invert)
    if by_concept == (gain is not None):
        raise InputError(
            f"{'two ways to choose vectors' if by_concept else 'nothing to edit'}: give either concepts "
            "(--suppress, --amplify, --invert), or --gain with --layers, --heads or --vectors"
        )
    if by_concept and vectors is not None:
        raise InputError("--vectors does not combine with concepts, which choose the vectors; use it with --gain")

    from sith_hf.cards import headline
    from sith_hf.decomposition import Decomposition
    from sith_hf.editor import SithEditor

    explained = Decomposition.from_pretrained(decomposition)
    topics: dict[float, list[str]] = {}
    named: dict[str, float] = {}
    for texts, default in ((suppress, 0.0), (amplify, 1.5), (invert, -1.0)):
        for concept, amount in options.concept_gains(texts, default, explained.has):
            if texts is invert and amount != default:
                raise InputError(f"--invert takes no gain; write --suppress {sanitize(concept)}={amount:g}")
            before = named.get(concept.casefold())
            if before not in (None, amount):
                raise InputError(f"{sanitize(concept)} has two gains, {before:g} and {amount:g}: name it once")
            named[concept.casefold()] = amount
            topics.setdefault(amount, []).append(concept)
    draft = SithEditor.from_pretrained(model, **loading).with_decomposition(explained).edit()
    for amount, concepts in topics.items():
        draft = draft.set_gain(*concepts, gain=amount, **rule, **where)
    if gain is not None:
        draft = draft.vectors(gain, vectors=vectors, **where)
    draft = draft if strength is None else draft * strength
    spec, impact = draft.spec, draft.impact
    if not spec:
        raise InputError("the edit changes nothing: every gain is 1; give another gain or strength")
    if not (yes or dry_run):
        impact.check("add --yes")
    path = None if output is None or dry_run else save_results(output, overwrite, spec)
    for line in draft.warnings:
        messages.warn(f"warning: {sanitize(line, 1000)}")
    data = {
        "spec": path,
        "vectors": [{"tower": spec.tower, **row} for row in draft.rows()],
        "impact": impact.to_json(),
        "needs_yes": bool(impact.excess),
        "taken": draft.taken,
        "words": [choice.to_json() for choice in draft.choices],
        "warnings": list(draft.warnings),
    }
    last = path if path is not None else f"nothing was written{'; saving it needs --yes' if impact.excess else ''}"
    drift = "not known" if impact.drift is None else f"{impact.drift:.3f}"
    answer = f"{headline(spec, sanitize)}: {impact.energy:.1%} of the energy, estimated drift {drift}"
    taken = (
        sanitize(f"{word}: {share:.0%} of what the model writes of it is changed, estimated", 1000)
        for word, share in draft.taken.items()
    )
    show_answer(as_json, data, answer, *taken, last, rest=[draft])
