"""The golden cards that tests compare byte for byte, and the objects behind them.

``python -m tests.cards.golden`` writes them anew.

Every number in here is a short sum of powers of two, so that no machine rounds it differently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from sith_hf.cards import card as cards
from sith_hf.checkpoint.lora import adapter_card, adapter_config
from sith_hf.checkpoint.write import save_edited
from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.decomposition.explanation import Explanation
from sith_hf.edits.effect import EditEffect
from sith_hf.edits.provenance import Provenance
from sith_hf.edits.spec import EditSpec
from sith_hf.gains.gains import direction_of
from tests.support.raw import out_proj, torch_tensors
from tests.support.tiny import clip_model, vision_model

HERE = Path(__file__).parent
VERSIONS = {"sith-hf": "0.0", "torch": "0.0", "transformers": "0.0"}
REVISION = "0123456789abcdef0123456789abcdef01234567"
WORDS = ("sea", "road", "a red door", "運動", "café", "night sky")
SETTINGS = {
    "fold": True,
    "centre": True,
    "image_mean": False,
    "method": "comp",
    "sparsity": 5,
    "coherence_weight": 0.25,
    "dictionary_size": 6,
    "dictionary_sha256": "d" * 64,
    "encoder": "me/clip",
    "encoder_sha256": "e" * 64,
    "template": None,
}
RECIPE = "title: Less sea\nedits:\n  - concepts: [sea]  # and what is near it\n    gain: 0.0\n"
EVALUATION: dict[str, Any] = {
    "results": [
        {
            "dataset": "me/boats", "metric": "worst group accuracy", "base": 0.5, "edited": 0.75, "split": "test",
            "interval": [0.125, 0.375], "baselines": {"random vectors": 0.375, "whole heads": 0.625},
        },
        {"dataset": "me/boats", "metric": "accuracy", "base": 0.875, "edited": 0.9375, "samples": 1000},
    ],
    "collateral": [{"dataset": "Pets, zero-shot", "metric": "accuracy", "base": 0.75, "edited": 0.734375}],
    "sweep": {
        "over": "strength",
        "base": {"worst": 0.5, "average": 0.875},
        "points": [
            {"contender": name, "setting": setting, "vectors": 24, "worst": worst, "average": 0.875}
            for name, setting, worst in (
                ("edited", 0.5, 0.625), ("edited", 1.0, 0.75), ("random 0", 1.0, 0.25), ("random 1", 1.0, 0.5),
            )
        ],
    },
}  # fmt: skip
BASE_CARD = {"license": "mit", "language": "en", "tags": ["vision"]}
FEW = ((0, 1, 2, 0.0), (2, 0, 1, -1.0), (2, 3, 0, 3.0), (2, 3, 5, 0.5))
NAMED: Mapping[str, Sequence[str]] = {"less": ("sea", "road"), "more": ("a red door",)}
EFFECT: dict[str, Any] = {
    "edit": "f" * 64,
    "images": {"title": "drawn world: leaves, seed 0", "count": 1024, "sha256": "e" * 64},
    "named": [
        {
            "direction": "less", "kept": {"sea": 0.25, "road": -0.125}, "mean": 0.0625, "others": 0.96875,
            "random": 0.875, "random_others": 0.9375, "p_value": 0.03125,
        }
    ],
    "compared": 64,
    "draws": 5,
    "drift": 0.0625,
    "random_drift": 0.0625,
}  # fmt: skip
MANY = tuple((layer, head, vector, 0.5) for layer in (1, 2) for head in range(4) for vector in range(3))


def save_base(folder: Path, *, vision_only: bool = False) -> Path:
    """A tiny checkpoint whose weights are the same on every machine."""
    model = vision_model() if vision_only else clip_model()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            steps = torch.arange(parameter.numel()) * (2 * number + 3) * 79 % 257 - 128
            parameter.copy_((steps / 512).reshape(parameter.shape))
    model.save_pretrained(folder)
    return folder


def make_spec(
    folder: Path,
    terms: Sequence[tuple[int, int, int, float]] = FEW,
    *,
    words: Sequence[str] = WORDS,
    provenance: bool = True,
    base: BaseRef | None = None,
    reason: str = "sea: share 0.75",
    settings: Mapping[str, Any] = SETTINGS,
    named: Mapping[str, Sequence[str]] = NAMED,
) -> EditSpec:
    """An edit of a checkpoint, by simple directions, explained by ``words`` in turn.

    ``named``: the concepts that gains below 1 are to weaken, and those that gains above 1 are to strengthen.
    """
    tensors, count = torch_tensors(folder), len(terms)
    keys = [key for layer in sorted({term[0] for term in terms}) for key in out_proj(layer)]
    columns = torch.tensor([term[:3] for term in terms], dtype=torch.int64).T.contiguous()
    sha256 = {key: tensor_sha256(tensors[key]) for key in keys}
    given = base or BaseRef(str(folder), None, {})
    return EditSpec.from_terms(
        layer=columns[0],
        head=columns[1],
        vector=columns[2],
        gain=torch.tensor([term[3] for term in terms], dtype=torch.float64),
        write=torch.eye(32)[:count],
        row=(torch.arange(count * 8) % 5 - 2).reshape(count, 8) / 4,
        constant=(torch.arange(count) + 1) / 8,
        labels=[f"+ {words[i % len(words)]} | - {words[(i + 1) % len(words)]}" for i in range(count)],
        base=BaseRef(given.name, given.revision, sha256, {"num_hidden_layers": 3}),
        settings={"fold": True, "centre": True},
        provenance=Provenance(
            tuple(tuple(explained(*term[:3], pole, words, i) for pole in "+-") for i, term in enumerate(terms)),
            tuple([reason] * count),
            settings,
            tuple(dict.fromkeys(named[d], d) for d in (direction_of(term[3]) for term in terms)) if named else (),
        )
        if provenance
        else None,
    )


def explained(layer: int, head: int, vector: int, pole: str, words: Sequence[str], start: int) -> Explanation:
    """An explanation of two concepts."""
    first = start + (pole == "-") * 2
    concepts = ((words[first % len(words)], 0.75), (words[(first + 1) % len(words)], 0.25))
    return Explanation(layer, head, vector, pole, concepts, 2.0, 0.25, 0.5, 0.75, 0.5)


def make_decomposition(words: Sequence[str] = WORDS, name: str = "me/clip") -> Decomposition:
    """One layer of two heads with two vectors each, over ``words``."""
    directions = torch.eye(4).reshape(1, 2, 2, 4)
    poles = torch.ones(1, 2, 2, 2)
    return Decomposition(
        layers=(11,),
        singular_values=torch.tensor([[[2.0, 1.0], [4.0, 2.0]]]),
        energy=torch.tensor([[8.0, 32.0]]),
        write=directions,
        read=directions,
        concept=torch.arange(16).reshape(1, 2, 2, 2, 2) % len(words),
        weight=torch.tensor([0.75, 0.25]).expand(1, 2, 2, 2, 2).contiguous(),
        fidelity=poles / 2,
        coherence=poles / 4,
        ceiling=torch.full((1, 2, 2), 0.75),
        texts=tuple(words),
        embeddings=torch.eye(len(words)),
        dictionary_mean=torch.full((len(words),), 0.125),
        image_mean=torch.zeros(len(words)),
        poles=("+", "-"),
        base=BaseRef(name, REVISION, {"visual_projection.weight": "a" * 64}),
        settings=SETTINGS,
    )


def make_dictionary(words: Sequence[str] = WORDS, encoder: str = "me/clip") -> ConceptDictionary:
    """``words`` as a dictionary that claims to be encoded."""
    return ConceptDictionary(
        tuple(words), tuple(f"kind {i % 2}" for i in range(len(words))), None, torch.eye(len(words)), encoder, "e" * 64
    )


def write_golden(folder: Path, work: Path) -> None:
    """Write every golden file into ``folder``.

    Args:
        folder: where to.
        work: an empty folder for checkpoints.
    """
    with (
        patch("sith_hf.cards.card.library_versions", return_value=VERSIONS),
        patch("sith_hf.edits.spec.library_versions", return_value=VERSIONS),
        patch("sith_hf.checkpoint.lora.library_versions", return_value=VERSIONS),
    ):
        base = save_base(work / "tiny-clip")
        spec = make_spec(base)
        save_edited(base, spec, work / "edited")
        write(folder / "local_base.md", cards.model_card(work / "edited", spec, repo_id="me/less-sea"))
        (folder / "edit_map.png").write_bytes(cards.pictures(work / "edited", spec)[cards.MAP_FILE])

        tower = save_base(work / "tower", vision_only=True)
        pinned = make_spec(tower, MANY, base=BaseRef("nobody/clip-on-the-hub", REVISION, {}))
        save_edited(tower, pinned, work / "edited-tower")
        full = cards.model_card(
            work / "edited-tower",
            pinned,
            repo_id="me/less-sea-tower",
            base_card=BASE_CARD,
            evaluation=EVALUATION,
            effect=EditEffect.from_data(EFFECT, "the effect"),
            recipe=RECIPE,
        )
        write(folder / "hub_base.md", full)
        drawn = cards.pictures(work / "edited-tower", pinned, EVALUATION, EditEffect.from_data(EFFECT, "the effect"))
        (folder / "before_after.png").write_bytes(drawn[cards.BEFORE_AFTER_FILE])
        write(folder / "edit_spec.md", cards.spec_card(pinned, repo_id="me/less-sea-spec"))
        bare = make_spec(base, provenance=False).inverse()
        write(folder / "no_provenance.md", cards.spec_card(bare, repo_id="me/more-sea"))
        write(folder / "adapter.md", adapter_card(pinned, adapter_config(pinned, "CLIPVisionModel")))
        write(folder / "decomposition.md", cards.decomposition_card(make_decomposition(), repo_id="me/heads"))
        write(folder / "dictionary.md", cards.dictionary_card(make_dictionary(), repo_id="me/words"))


def write(path: Path, text: str) -> None:
    """Write a text with the same bytes on every system."""
    path.write_bytes(text.encode("utf-8"))
