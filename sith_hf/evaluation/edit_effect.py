"""Measure what an edit does to the concepts that it names, against other concepts and against random vectors.

For every concept: the slope, over images, of its similarity by the edited model on that by the base, both without the
mean over all concepts. 1 is no effect, 0 a concept that the images no longer tell apart, below 0 an inverted one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sith_hf.concepts import ConceptDictionary
from sith_hf.core.escaping import shown_name
from sith_hf.decomposition import NEAR
from sith_hf.edits import AnySpec, EditEffect, EffectImages, NamedEffect, edit_sha256
from sith_hf.errors import InputError
from sith_hf.evaluation.effect_controls import STRONGEST, controls_of
from sith_hf.evaluation.texts import Embeddings, by_variant, caption_embeddings, check_sizes
from sith_hf.gains import Direction
from sith_hf.hub import is_repo_id
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
from sith_hf.towers import LoadedModel, family_of, fill_template

PICTURES = 128
"""The number of drawn leaves without images of the user."""

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

    Random vectors are drawn five times. Layers before the first edited one run once for all, so an edit of the
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
    data, text = images or leaves(), text_model_of(editor)
    names = _texts(spec, text, progress)
    queries = {} if names is None else {each: names.queries(each) for each in _parts(spec) if names.of(each)}
    controls, strongest = controls_of(editor, spec, queries)
    variants = model_variants(editor, {BASE: None, EDITED: spec, **controls, **strongest})
    source = open_dataset(data, progress=progress)
    column = data.columns.image
    rows = embed_rows(variants, source, (column,), (), batch_size=batch_size, progress=progress)
    check_count(len(rows), source.title, rows.skipped)
    embedded = rows.images[column]
    drift = 1 - (embedded[1:].astype(np.float64) * embedded[0]).sum(axis=-1).mean(axis=-1)
    named = () if names is None else _named(spec, names, variants, embedded, text, source.title, progress)
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
        compared=0 if names is None else len(names.others),
        draws=len(controls),
        drift=_rounded(drift[0]),
        random_drift=_rounded(drift[1 : 1 + len(controls)].mean()) if controls else None,
        text_model=None if companion is None else _public(companion.title),
    )


def _named(
    spec: AnySpec,
    names: Named,
    variants: Sequence[ModelVariant],
    embedded: NDArray[np.float32],
    text: LoadedModel | None,
    title: str,
    progress: bool,
) -> tuple[NamedEffect, ...]:
    """Return the effect on each group of named concepts; variants: the base, the edit, random ones, strongest ones."""
    filled = fill_template([*names.wanted, *names.others], _template(spec))
    texts = [text if variant.text is None else variant.text for variant in variants]
    known = {id(text): names.embeddings}
    found = by_variant(texts, lambda tower: caption_embeddings(tower, filled, progress=progress), known)
    check_sizes(embedded, found)
    kept = _kept(embedded, found, title)
    strongest = {variant.name: kept[number] for number, variant in enumerate(variants[1:])}
    random = kept[: sum(not variant.name.startswith(STRONGEST) for variant in variants) - 1]
    concepts = list(names.wanted)
    return tuple(
        _group(direction, names.of(direction), concepts, random, part, strongest.get(f"{STRONGEST} {direction}"))
        for direction, part in _parts(spec).items()
        if names.of(direction)
    )


@dataclass(frozen=True, eq=False)
class Named:
    """The named concepts of an edit, and the others that they are compared with.

    Attributes:
        wanted: concept to what the edit is to do to it.
        others: the other concepts.
        embeddings: ``[K, P]`` of the base's text tower, named ones first.
    """

    wanted: Mapping[str, Direction]
    others: Sequence[str]
    embeddings: Embeddings

    def of(self, direction: Direction) -> list[int]:
        """Return the numbers of the concepts of one direction."""
        return [i for i, own in enumerate(self.wanted.values()) if own == direction]

    def queries(self, direction: Direction) -> Embeddings:
        """Return the centred and normalised embeddings of the concepts of one direction."""
        found = (self.embeddings - self.embeddings.mean(axis=0))[self.of(direction)]
        return np.asarray(found / np.linalg.norm(found, axis=-1, keepdims=True).clip(min=1e-12))


def _texts(spec: AnySpec, text: LoadedModel | None, progress: bool) -> Named | None:
    """Encode the named concepts and others by the base; None for an edit that names none."""
    wanted = _directions(spec)
    if not wanted:
        return None
    for others in (_recorded_others(spec, list(wanted)), _builtin_others(list(wanted))):
        filled = fill_template([*wanted, *others], _template(spec))
        embeddings = caption_embeddings(text, filled, progress=progress)
        far = _far(embeddings, len(wanted))
        if len(far) >= LEAST_OTHERS:
            break
    rows = [*range(len(wanted)), *far]
    return Named(wanted, [others[i - len(wanted)] for i in far], embeddings[rows])


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


def _kept(images: NDArray[np.float32], texts: Sequence[Embeddings], title: str) -> NDArray[np.float64]:
    """Return the slope of each concept's similarity on that of the base, ``[C - 1, K]``, for all variants but the base.

    Raises:
        InputError: images that the base does not tell apart.
    """
    similarity = np.stack([own.astype(np.float64) @ text.T for own, text in zip(images, texts, strict=True)])
    similarity -= similarity.mean(axis=-1, keepdims=True)
    similarity -= similarity.mean(axis=1, keepdims=True)
    variance = (similarity[0] ** 2).sum(axis=0)
    if not (variance > 1e-9).all():
        raise InputError(f"{title}: the images do not differ in their similarity to the concepts; name other images")
    return np.asarray((similarity[1:] * similarity[0]).sum(axis=1) / variance)


def _group(
    direction: Direction,
    chosen: Sequence[int],
    concepts: Sequence[str],
    kept: NDArray[np.float64],
    part: float,
    strongest: NDArray[np.float64] | None,
) -> NamedEffect:
    """Compare some of the named concepts with the others, which follow all named ones.

    Args:
        direction: what the edit is to do to them.
        chosen: their numbers.
        concepts: all named concepts.
        kept: ``[1 + draws, K]`` slopes, of the edit first.
        part: the part of the edit's squared changes of gain that is for these concepts.
        strongest: ``[K]`` slopes of the vectors that carry these concepts most strongly; None if the edit has them.
    """
    mean, median = kept[:, chosen].mean(axis=1), np.median(kept[:, len(concepts) :], axis=1)
    control: dict[str, float] = {}
    if len(kept) > 1:
        sign = 1 if direction == "more" else -1
        # A few draws of one concept say little: pool all concepts. Independent changes of a part add up by squares.
        chance = sign * (kept[1:] - median[1:, None]) * part**0.5

        def p_value(own: float, others: float) -> float:
            gap = sign * ((own - others) - (mean[1:] - median[1:]).mean())
            return float((1 + (chance >= gap - LEAST_GAP).sum()) / (1 + chance.size))

        control = {
            "random": mean[1:].mean(),
            "random_others": median[1:].mean(),
            "p_value": p_value(mean[0], median[0]),
        }
        if strongest is not None:
            able, rest = strongest[chosen].mean(), np.median(strongest[len(concepts) :])
            control |= {"strongest": able, "strongest_others": rest, "strongest_p_value": p_value(able, rest)}
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


def _public(name: str) -> str:
    """Return the Hub id of a dataset or model, or the last part of a local path, so that a card reveals no folders."""
    return name if is_repo_id(name) and not os.path.exists(name) else shown_name(name)


def image_options(data: DatasetSettings | None) -> tuple[str, ...]:
    """Return the command-line options that name images again, without local folders; none for drawn leaves."""
    if data is None:
        return ()
    if data.world is not None:
        return ("--limit", str(data.limit or data.pictures))
    values: Mapping[str, object] = {
        "images": _public(str(data.dataset)),
        "config": data.name,
        "split": data.split,
        "data-revision": data.revision,
        "column": None if data.columns.image == "image" else data.columns.image,
        "limit": data.limit,
    }
    given = {name: str(value) for name, value in values.items() if value is not None}
    return tuple(part for name, value in given.items() for part in (f"--{name}", value))
