"""Measure what an edit does to the concepts that it names, against other concepts and against random vectors.

For every concept: the slope, over images, of its similarity by the edited model on that by the base, both without the
mean over all concepts. 1 is no effect, 0 a concept that the images no longer tell apart, below 0 an inverted one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.escaping import shown_name
from sith_hf.decomposition import NEAR, DecomposeSettings, decompose
from sith_hf.edits import AnySpec, EditEffect, EditSpec, EffectImages, NamedEffect, combined, edit_sha256, make_spec
from sith_hf.errors import InputError
from sith_hf.evaluation.texts import Embeddings, by_variant, caption_embeddings, check_sizes
from sith_hf.gains import Direction, Gains, random_vectors
from sith_hf.images import (
    BASE,
    EDITED,
    DatasetSettings,
    ModelVariant,
    OpenModel,
    check_count,
    embed_rows,
    image_processor,
    model_variants,
    open_dataset,
    text_model_of,
)
from sith_hf.towers import LoadedModel, family_of, fill_template, read_tower

PICTURES = 128
"""The number of drawn leaves without images of the user."""

DRAWS = 5
"""The number of sets of random vectors."""

# Fewer other concepts say nothing; then they come from the built-in list.
LEAST_OTHERS, SAMPLE = 8, 100
# The most concepts of an edit that are measured.
MOST_NAMED = 100
# Smaller differences are rounding.
LEAST_GAP = 1e-4


def leaves(pictures: int | None = None) -> DatasetSettings:
    """Return the images that an effect is measured on if the user names none."""
    return DatasetSettings(world="leaves", seed=0, pictures=pictures or PICTURES)


def names_concepts(spec: AnySpec) -> bool:
    """Return whether an edit records concepts by which its vectors were chosen."""
    return any(part.provenance is not None and any(part.provenance.named) for part in spec.parts)


def unmeasurable(editor: OpenModel) -> str | None:
    """Return why similarities of images and texts cannot be measured with a model; None if they can."""
    if "vision" not in family_of(editor.model).towers(type(editor.model).__name__):
        return "the model has no vision tower"
    if text_model_of(editor) is None:
        return f"the model has no texts: {family_of(editor.model).advice}"
    try:
        image_processor(editor.loaded, editor.companion)
    except InputError as error:
        return str(error)
    return None


def measure_effect(
    editor: OpenModel,
    spec: AnySpec,
    images: DatasetSettings | None = None,
    *,
    batch_size: int = 32,
    progress: bool = False,
) -> EditEffect:
    """Measure the effect of an edit on the concepts that it names, on every tower that it changes.

    Random vectors are drawn ``DRAWS`` times. Layers before the first edited one run once for all, so an edit of the
    last quarter costs about two and a half passes of the model over the images.

    Args:
        editor: of the base.
        spec: the edit.
        images: a dataset of at least 32 images; ``PICTURES`` drawn leaves when None.
        batch_size: images at a time.
        progress: show bars on stderr.

    Raises:
        InputError: unusable images, or a model that :func:`unmeasurable` refuses.
        BaseMismatch: an edit of another model.
    """
    reason = unmeasurable(editor)
    if reason is not None:
        raise InputError(f"the effect of the edit cannot be measured: {reason}")
    data = images or leaves()
    controls = _controls(editor, spec)
    variants = model_variants(editor, {BASE: None, EDITED: spec, **controls})
    source = open_dataset(data, progress=progress)
    column = data.columns.image
    rows = embed_rows(variants, source, (column,), (), batch_size=batch_size, progress=progress)
    check_count(len(rows), source.title, rows.skipped)
    embedded = rows.images[column]
    drift = 1 - (embedded[1:].astype(np.float64) * embedded[0]).sum(axis=-1).mean(axis=-1)
    named, compared = _named(spec, variants, embedded, text_model_of(editor), source.title, progress)
    companion = editor.companion
    return EditEffect(
        edit=edit_sha256(spec),
        images=EffectImages(
            title=source.title if not source.split else f"{source.title}, {source.split}",
            count=len(rows),
            sha256=rows.sha256(()),
            skipped=dict(rows.skipped),
            options=image_options(images),
        ),
        named=named,
        compared=compared,
        draws=len(controls),
        drift=_rounded(drift[0]),
        random_drift=_rounded(drift[1:].mean()) if controls else None,
        text_model=None if companion is None else shown_name(companion.title),
    )


def _controls(editor: OpenModel, spec: AnySpec) -> dict[str, AnySpec]:
    """Return edits of as many random vectors, by name; none if an edit leaves no other vectors to draw."""
    drawn: list[list[EditSpec]] = [[] for _ in range(DRAWS)]
    companion = None if editor.companion is None else editor.companion.model
    for part in spec.parts:
        tower = read_tower(editor.model, companion, part.tower)
        recorded = {} if part.provenance is None else part.provenance.decomposition
        rank = recorded.get("rank")
        settings = DecomposeSettings(layers=part.layers, rank=rank if isinstance(rank, int) else None, **part.settings)
        vectors = decompose(tower, None, settings, name=editor.loaded.title, revision=editor.loaded.revision)
        gains = Gains(dict(zip(part.keys, part.gain.tolist(), strict=True)))
        for seed, parts in enumerate(drawn):
            try:
                parts.append(make_spec(tower, vectors, random_vectors(vectors, gains, seed)))
            except InputError:
                return {}
    return {f"random {seed}": combined(*parts) for seed, parts in enumerate(drawn)}


def _named(
    spec: AnySpec,
    variants: Sequence[ModelVariant],
    embedded: NDArray[np.float32],
    text: LoadedModel | None,
    title: str,
    progress: bool,
) -> tuple[tuple[NamedEffect, ...], int]:
    """Return the effect on each group of named concepts, and the number of concepts that they are compared with."""
    wanted = _directions(spec)
    if not wanted:
        return (), 0
    concepts, template = list(wanted), _template(spec)

    def encode(others: Sequence[str]) -> list[Embeddings]:
        filled = fill_template([*concepts, *others], template)
        texts = [text if variant.text is None else variant.text for variant in variants]
        return by_variant(texts, lambda tower: caption_embeddings(tower, filled, progress=progress))

    found = encode(_recorded_others(spec, concepts))
    far = _far(found[0], len(concepts))
    if len(far) < LEAST_OTHERS:
        found = encode(_builtin_others(concepts))
        far = _far(found[0], len(concepts))
    check_sizes(embedded, found)
    kept = _kept(embedded, found, [*range(len(concepts)), *far], title)
    groups = [
        _group(direction, [i for i, each in enumerate(concepts) if wanted[each] == direction], concepts, kept, part)
        for direction, part in _parts(spec).items()
        if direction in wanted.values()
    ]
    return tuple(groups), len(far)


def _directions(spec: AnySpec) -> dict[str, Direction]:
    """Return the named concepts with what the edit is to do to them, those of the largest changes first."""
    votes: dict[str, Counter[Direction]] = {}
    for part in spec.parts:
        named = () if part.provenance is None else part.provenance.named
        for gain, concepts in zip(part.gain.tolist(), named, strict=bool(named)):
            for concept, direction in concepts.items():
                votes.setdefault(concept, Counter())[direction] += abs(gain - 1)
    order = sorted(votes, key=lambda concept: -votes[concept].total())[:MOST_NAMED]
    return {concept: votes[concept].most_common(1)[0][0] for concept in order}


def _parts(spec: AnySpec) -> dict[Direction, float]:
    """Return the part of the squared changes of gain that is for weakened, and for strengthened concepts."""
    sums: Counter[Direction] = Counter()
    for part in spec.parts:
        named = () if part.provenance is None else part.provenance.named
        for gain, concepts in zip(part.gain.tolist(), named, strict=bool(named)):
            for direction in set(concepts.values()):
                sums[direction] += (gain - 1) ** 2
    total = sum(float((part.gain - 1).square().sum()) for part in spec.parts)
    return {direction: min(1.0, value / total) for direction, value in sums.items()}


def _template(spec: AnySpec) -> str | None:
    recorded = [part.provenance.decomposition.get("template") for part in spec.parts if part.provenance is not None]
    return next((template for template in recorded if isinstance(template, str)), None)


def _recorded_others(spec: AnySpec, named: Sequence[str]) -> list[str]:
    recorded = [text for part in spec.parts if part.provenance is not None for text in part.provenance.others]
    hidden = {concept.casefold() for concept in named}
    return [text for text in dict.fromkeys(recorded) if text.casefold() not in hidden]


def _builtin_others(named: Sequence[str]) -> list[str]:
    texts, hidden = ConceptDictionary.builtin().texts, {concept.casefold() for concept in named}
    return [text for text in texts[:: max(1, len(texts) // SAMPLE)] if text.casefold() not in hidden]


def _far(texts: Embeddings, named: int) -> list[int]:
    """Return the numbers of the texts, after the named ones, that are similar to none of these."""
    centred = texts - texts.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=-1, keepdims=True).clip(min=1e-12)
    cosine = (centred[named:] @ centred[:named].T).max(axis=-1)
    return [named + int(i) for i in np.flatnonzero(cosine < NEAR)]


def _kept(
    images: NDArray[np.float32], texts: Sequence[Embeddings], concepts: Sequence[int], title: str
) -> NDArray[np.float64]:
    """Return the slope of each concept's similarity on that of the base, ``[C - 1, K]``, for all variants but the base.

    Raises:
        InputError: images that the base does not tell apart.
    """
    similarity = np.stack([own.astype(np.float64) @ text[concepts].T for own, text in zip(images, texts, strict=True)])
    similarity -= similarity.mean(axis=-1, keepdims=True)
    similarity -= similarity.mean(axis=1, keepdims=True)
    variance = (similarity[0] ** 2).sum(axis=0)
    if not (variance > 1e-9).all():
        raise InputError(f"{title}: the images do not differ in their similarity to the concepts; name other images")
    return np.asarray((similarity[1:] * similarity[0]).sum(axis=1) / variance)


def _group(
    direction: Direction, chosen: Sequence[int], concepts: Sequence[str], kept: NDArray[np.float64], part: float
) -> NamedEffect:
    """Compare some of the named concepts with the others, which follow all named ones.

    Args:
        direction: what the edit is to do to them.
        chosen: their numbers.
        concepts: all named concepts.
        kept: ``[1 + draws, K]`` slopes, of the edit first.
        part: the part of the edit's squared changes of gain that is for these concepts.
    """
    mean, median = kept[:, chosen].mean(axis=1), np.median(kept[:, len(concepts) :], axis=1)
    control: dict[str, float] = {}
    if len(kept) > 1:
        sign = 1 if direction == "more" else -1
        gap = sign * ((mean[0] - median[0]) - (mean[1:] - median[1:]).mean())
        # A few draws of one concept say little: pool all concepts. Independent changes of a part add up by squares.
        chance = sign * (kept[1:] - median[1:, None]) * part**0.5
        p_value = (1 + (chance >= gap - LEAST_GAP).sum()) / (1 + chance.size)
        control = {"random": mean[1:].mean(), "random_others": median[1:].mean(), "p_value": p_value}
    return NamedEffect(
        direction=direction,
        kept={concepts[i]: _rounded(kept[0, i]) for i in chosen},
        mean=_rounded(mean[0]),
        others=_rounded(median[0]),
        **{name: _rounded(value) for name, value in control.items()},
    )


def _rounded(value: float) -> float:
    """Round to four decimals: the rest depends on the machine."""
    return round(float(value), 4) + 0.0


def image_options(data: DatasetSettings | None) -> tuple[str, ...]:
    """Return the command-line options that name images again, without local folders; none for drawn leaves."""
    if data is None:
        return ()
    if data.world is not None:
        return ("--limit", str(data.limit or data.pictures))
    values: Mapping[str, object] = {
        "images": shown_name(str(data.dataset)),
        "config": data.name,
        "split": data.split,
        "data-revision": data.revision,
        "column": None if data.columns.image == "image" else data.columns.image,
        "limit": data.limit,
    }
    given = {name: str(value) for name, value in values.items() if value is not None}
    return tuple(part for name, value in given.items() for part in (f"--{name}", value))
