"""The README.md of a Space that shows a decomposition: its settings on the Hub, and what it is."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from typing import Any, Literal

from huggingface_hub import RepoCard, SpaceCardData

from sith_hf.cards.card import TAGS
from sith_hf.cards.facts import base_name, hub_base, inherited, is_repo_name
from sith_hf.cards.markdown import render
from sith_hf.core.escaping import impersonal, sanitize
from sith_hf.decomposition import Decomposition
from sith_hf.files import library_versions

# The Hub's limit on the field short_description.
_SHORT = 60


def space_card(
    found: Decomposition,
    *,
    decomposition: str,
    kind: Literal["dataset", "model"] = "dataset",
    gradio: str,
    model: str | None = None,
    images: str | None = None,
    base_card: Mapping[str, Any] | None = None,
    private: bool = False,
) -> str:
    """Return the README.md of a Space whose ``app.py`` shows a decomposition.

    Args:
        found: the decomposition.
        decomposition: its repository.
        kind: the type of that repository.
        gradio: the release of Gradio that the Space runs.
        model, images: the Hub ids, or names of sith-hf, that the Space uses; None without.
        base_card: the metadata of the base's card, the source of the license.
        private: whether the Space is private.
    """
    name = base_name(found.base)
    given = {"--model": model, "--images": images}
    command = ["sith-hf", "explore", decomposition, *(x for pair in given.items() if pair[1] for x in pair)]
    shown = sanitize(impersonal(name), 60)
    title = f"Inside {shown}"
    body = render(
        "space_card.md.j2",
        title=title,
        base_name=name,
        tower=found.tower,
        heads=found.num_heads,
        layers=found.layers,
        explained=found.has_words,
        decomposition=decomposition,
        kind=kind,
        model=model,
        private=private,
        command=" ".join(map(shlex.quote, [str(word) for word in command])),
        versions=library_versions(),
    )
    linked = (hub_base(found.base), model, decomposition if kind == "model" else None)
    models = {name for name in linked if name and "/" in name and is_repo_name(name)}
    licensed = {name: value for name, value in inherited(base_card).items() if name.startswith("license")}
    metadata = SpaceCardData(
        title=title,
        emoji="🔎",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=gradio,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        short_description=f"Attention heads of {shown} in words"[:_SHORT],
        datasets=[decomposition] if kind == "dataset" and "/" in decomposition else None,
        models=sorted(models) or None,
        tags=[*TAGS[:1], "interpretability"],
        **licensed,
    )
    card = RepoCard.from_template(metadata, template_str="---\n{{ card_data }}\n---\n\n{{ body }}", body=body)
    return f"{str(card).rstrip()}\n"
