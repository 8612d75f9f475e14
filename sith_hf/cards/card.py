"""The README.md of a repository on the Hub that holds an edit, a decomposition or a dictionary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData

from sith_hf.cards import facts as card_facts
from sith_hf.cards.before_after import alt_text, before_after, parts_of
from sith_hf.cards.edit_map import edit_map, map_text, number_of_heads
from sith_hf.cards.headline import headline, measured_line, named_concepts
from sith_hf.cards.markdown import render
from sith_hf.cards.measured import by_data, measured_rows
from sith_hf.cards.snippets import (
    CITATION,
    FOLDER,
    decompose_command,
    needs_dictionary,
    pipeline_code,
    save_command,
)
from sith_hf.concepts import ConceptDictionary
from sith_hf.core.escaping import impersonal, sanitize
from sith_hf.decomposition import Decomposition
from sith_hf.edits import EDIT_SPEC_LAYOUT, AnySpec, EditEffect, EditSpec, read_spec_file
from sith_hf.errors import InputError
from sith_hf.files import library_versions
from sith_hf.towers import folder_format

TAGS = ["sith-hf", "clip", "model-editing"]

# Where repositories keep the pictures of an edit, and the rows of a dataset.
MAP_FILE = "sith/edit_map.png"
BEFORE_AFTER_FILE = "sith/before_after.png"
DATA_FILE = "data/train.parquet"


def model_card(
    folder: Path,
    spec: AnySpec,
    *,
    repo_id: str | None,
    base_card: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    effect: EditEffect | None = None,
    recipe: str | None = None,
    base_ids: Sequence[str] = (),
) -> str:
    """Return the README.md of an edited checkpoint, which shows :func:`pictures`.

    The same arguments give the same bytes.

    Args:
        folder: an edited checkpoint that :func:`sith_hf.checkpoint.save_edited` wrote.
        spec: the edit in it.
        repo_id: the repository of the card; None for a folder, whose card does not depend on its place.
        base_card: the metadata of the base's card, the source of license and languages.
        evaluation: measured results (see :class:`sith_hf.cards.measured.Results`).
        effect: what the edit does to the concepts that it names.
        recipe: the text of the recipe of the edit.
        base_ids: for a base read from a folder, the Hub ids that its files record; the card states that they were not
            compared.

    Raises:
        InputError: ``folder`` is not an edited checkpoint or has another edit, or an id or the evaluation is invalid.
    """
    folder = Path(folder)
    pinned = card_facts.hub_base(spec.base)
    recorded_bases = [] if pinned else [_checked(name) for name in base_ids]
    architecture, _ = card_facts.config_of(folder, spec)
    pipeline, library = card_facts.pipeline_of(architecture), folder_format(folder).library
    path = folder / "sith" / EDIT_SPEC_LAYOUT.filename
    recorded, (_, data, _) = EditSpec.from_pretrained(path), read_spec_file(path)
    if recorded != spec:
        raise InputError(f"{folder} does not contain the edit of this card: save the checkpoint again")
    measured, title = measured_rows(evaluation), f"{card_facts.base_name(spec.base)}, edited"
    about, after = _about(spec, repo_id, title), recorded.edited_sha256 or {}
    concepts = [*named_concepts(spec), *about["topics"]]
    code = pipeline_code(pipeline, folder, about["place"], concepts) if library == "transformers" else None
    body = render(
        "model_card.md.j2",
        **about,
        measured_line=measured_line(effect, measured["results"]),
        recorded_bases=recorded_bases,
        architecture=architecture,
        library=library,
        scheme="local-dir:" if repo_id is None else "hf-hub:",
        pipeline_code=code,
        map_file=MAP_FILE,
        map_text=f"Edited by layer and head, coloured by gain: {map_text(spec)}",
        before_after_file=BEFORE_AFTER_FILE,
        picture_text=alt_text(parts_of(effect, measured["results"])),
        measured={name: by_data(measured[name]) for name in ("results", "collateral")} | {"sweep": measured["sweep"]},
        intervals=any(row["interval"] for row in (*measured["results"], *measured["collateral"])),
        evaluated=bool(measured["results"] or measured["collateral"]),
        effect=effect,
        save_command=save_command(about["code_base"], about["place"], effect),
        recipe=recipe,
        texts=card_facts.card_texts(recipe),
        fingerprints=[(*item, after.get(item[0], "as in the base")) for item in sorted(spec.base.sha256.items())],
        versions=data["libraries"],
        edited_before=(folder / "sith" / "base" / EDIT_SPEC_LAYOUT.filename).is_file(),
    )
    bases = [pinned] if pinned else recorded_bases
    metadata = ModelCardData(
        **card_facts.inherited(base_card),
        library_name=library,
        pipeline_tag=pipeline,
        tags=edit_tags(spec),
        base_model=bases[0] if len(bases) == 1 else bases or None,
        base_model_relation="finetune" if bases else None,
        **_model_index(_title(repo_id, title), pipeline, [*measured["results"], *measured["collateral"]]),
    )
    return _assembled(ModelCard, metadata, body)


def picture(folder: Path, spec: AnySpec) -> bytes:
    """Return the PNG of the edited heads, ``MAP_FILE``. Raises InputError unless ``folder`` has the edited towers."""
    return edit_map(spec, card_facts.config_of(Path(folder), spec)[1])


def pictures(
    folder: Path, spec: AnySpec, evaluation: Mapping[str, Any] | None = None, effect: EditEffect | None = None
) -> dict[str, bytes]:
    """Return the PNGs that :func:`model_card` shows, by name: ``MAP_FILE``, and ``BEFORE_AFTER_FILE`` of measurements.

    Raises:
        InputError: ``folder`` does not have the edited towers, or the evaluation is invalid.
    """
    found = {MAP_FILE: picture(folder, spec)}
    parts = parts_of(effect, measured_rows(evaluation)["results"])
    return found | ({BEFORE_AFTER_FILE: before_after(parts)} if parts else {})


def spec_card(spec: AnySpec, *, repo_id: str | None) -> str:
    """Return the README.md of an edit without the model, for a repository or a folder. Raises InputError for an id."""
    about = _about(spec, repo_id, f"An edit of {card_facts.base_name(spec.base)}")
    body = render(
        "edit_spec.md.j2",
        **about,
        save_command=save_command(about["code_base"], about["place"]),
        fingerprints=sorted(spec.base.sha256.items()),
        versions=library_versions(),
    )
    base_id = card_facts.hub_base(spec.base)
    metadata = ModelCardData(library_name="sith-hf", tags=[*edit_tags(spec), "edit-spec"], base_model=base_id)
    return _assembled(ModelCard, metadata, body)


def edit_tags(spec: AnySpec) -> list[str]:
    """Return the tags of a card of an edit, with the family of its model."""
    family = card_facts.family_tag(spec.parts[0].place.family)
    return [family if tag == "clip" else tag for tag in TAGS]


def decomposition_card(decomposition: Decomposition, *, repo_id: str | None) -> str:
    """Return the README.md of a decomposition, for a dataset repository or a folder. Raises InputError for an id."""
    _, heads, rank = decomposition.singular_values.shape
    found = decomposition.beyond_chance()
    return _dataset_card(
        "decomposition.md.j2",
        repo_id,
        "Singular vectors of",
        f"Singular vectors of {card_facts.base_name(decomposition.base)}",
        "explanations",
        base=decomposition.base,
        base_name=card_facts.base_name(decomposition.base),
        pinned=card_facts.hub_base(decomposition.base) is not None,
        tower=decomposition.tower,
        layers=list(decomposition.layers),
        heads=heads,
        rank=rank,
        poles=decomposition.poles,
        side=decomposition.side,
        decompose_command=decompose_command(decomposition, card_facts.base_in_code(decomposition.base)),
        needs_dictionary=needs_dictionary(decomposition),
        fingerprints=sorted(decomposition.base.sha256.items()),
        rows=len(decomposition.layers) * heads * rank * max(1, len(decomposition.poles)),
        concepts=len(decomposition.texts),
        fidelity=float(decomposition.fidelity.mean()) if decomposition.has_words else None,
        chance=decomposition.chance,
        beyond=None if found is None else int(found.sum()),
        drivers=None if decomposition.drivers is None else card_facts.drivers_title(decomposition.drivers),
        total_cosine=decomposition.total_cosine,
        settings=card_facts.setting_rows(decomposition.settings),
        best=card_facts.best_explained(decomposition),
        family=str(decomposition.settings.get("family", "clip")),
    )


def dictionary_card(dictionary: ConceptDictionary, *, repo_id: str | None) -> str:
    """Return the README.md of a dictionary, for a dataset repository or a folder. Raises InputError for an id."""
    encoder = dictionary.encoder
    return _dataset_card(
        "dictionary.md.j2",
        repo_id,
        "Concepts of",
        f"A dictionary of {len(dictionary)} concepts",
        "concepts",
        dictionary=dictionary,
        encoder=None if encoder is None else card_facts.encoder_name(encoder),
        size=None if dictionary.embeddings is None else dictionary.embeddings.shape[1],
        sample=dictionary.texts[:: max(1, len(dictionary) // 20)][:20],
        categories=sorted(set(dictionary.categories or ())),
    )


def _about(spec: AnySpec, repo_id: str | None, title: str) -> dict[str, Any]:
    """Return the data that both cards of an edit use; ``title`` is that of a folder."""
    rows, pinned = card_facts.vector_rows(spec), card_facts.hub_base(spec.base)
    return {
        "title": _title(repo_id, title),
        "place": repo_id or FOLDER,
        "code_base": card_facts.base_in_code(spec.base),
        "spec": spec,
        "base_name": card_facts.base_name(spec.base),
        "pinned": pinned is not None,
        "headline": headline(spec),
        "summary": card_facts.summary(spec),
        "topics": card_facts.topics(spec),
        "silent": card_facts.silent_poles(spec),
        "rows": rows[: card_facts.CUT],
        "cut": len(rows) - len(rows[: card_facts.CUT]),
        "fold": len(rows) > card_facts.FOLD,
        "towers": card_facts.towers_of(spec),
        "heads": [(part.tower, number_of_heads(part)) for part in spec.parts],
        "explained": card_facts.explained(spec),
        "settings": card_facts.edit_setting_rows(spec),
        "wordless": card_facts.is_wordless(spec),
        "citation": CITATION,
    }


def _model_index(title: str, task: str, measured: list[dict[str, Any]]) -> dict[str, Any]:
    if not measured:
        return {}
    found = [
        EvalResult(
            task_type=task,
            dataset_type=_slug(item["dataset"]),
            dataset_name=item["dataset"],
            dataset_split=item["split"] or None,
            metric_type=_slug(item["metric"]),
            metric_name=item["metric"],
            metric_value=item["edited"],
        )
        for item in measured
    ]
    return {"model_name": title, "eval_results": found}


def _slug(text: str) -> str:
    """Return ``text`` as an identifier; a Hub id is unchanged."""
    return text if card_facts.is_repo_name(text) else re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "other"


def _dataset_card(
    template: str, repo_id: str | None, pretty: str, title: str, config: str, family: str = "clip", **data: Any
) -> str:
    """Return the card of a dataset repository with its rows in ``DATA_FILE``, or of a folder without them."""
    about = {"title": _title(repo_id, title), "place": repo_id or FOLDER, "data_file": repo_id and DATA_FILE}
    body = render(template, **about, citation=CITATION, versions=library_versions(), **data)
    metadata = DatasetCardData(
        pretty_name=sanitize(impersonal(title)) if repo_id is None else f"{pretty} {repo_id}",
        tags=["sith-hf", card_facts.family_tag(family), "interpretability"],
    )
    if repo_id is not None:
        rows = {"config_name": config, "data_files": [{"split": "train", "path": DATA_FILE}]}
        metadata.configs = [rows]  # type: ignore[attr-defined]
    return _assembled(DatasetCard, metadata, body)


def _title(repo_id: str | None, title: str) -> str:
    """Return the name of a repository, or the title of a folder's card. Raises InputError for an invalid id."""
    return sanitize(impersonal(title)) if repo_id is None else _checked(repo_id).rpartition("/")[2]


def _checked(repo_id: str) -> str:
    if not isinstance(repo_id, str) or not card_facts.is_repo_name(repo_id):
        raise InputError(f"{repo_id!r} cannot be the id of a repository on the Hub: use namespace/name")
    return repo_id


def _assembled(kind: type[ModelCard] | type[DatasetCard], metadata: Any, body: str) -> str:
    # The body is a value, so that Jinja does not read it as a template.
    card = kind.from_template(metadata, template_str="---\n{{ card_data }}\n---\n\n{{ body }}", body=body)
    return f"{str(card).rstrip()}\n"
