"""The table of families in docs/guide/models.md says what the registry says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from transformers import Aimv2Config, Aimv2Model

from sith_hf.towers import load_model, read_tower
from sith_hf.towers.registry import FAMILIES, supported
from tests.support.families import TOKENIZERS, make
from tests.support.open_clip_folders import open_clip_folder
from tests.support.owl import owl_model
from tests.support.siglip import siglip
from tests.support.tiny import clip_model, randomise
from tests.support.vision_models import dinov2, dinov3, llava_model, mlcd

PAGE = Path(__file__).resolve().parents[2] / "docs/guide/models.md"
WORDS = {True: "yes", False: "no"}


def rows(text: str) -> list[list[str]]:
    """The cells of the first table of a page, without its two first lines."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE).group().splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def named(cell: str) -> list[str]:
    """What a cell names as code."""
    return re.findall(r"`([^`]+)`", cell)


def aimv2():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    text = {**sizes, "vocab_size": 514, "max_position_embeddings": 77, "eos_token_id": 513}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    return randomise(Aimv2Model(Aimv2Config(text_config=text, vision_config=vision, projection_dim=24)), 0)


def models(family: str, folder: Path):
    """Tiny models of a family, one for each way that its classes have, with a companion or None."""
    if family in TOKENIZERS:
        return [(make(family, names[0], TOKENIZERS[family](folder)), None) for names in (architectures(family),)]
    if family in ("owlvit", "owlv2"):
        return [(owl_model(name), None) for name in architectures(family)]
    companion = clip_model(9, num_hidden_layers=4)
    made = {
        "clip": lambda: (clip_model(), None),
        "siglip": lambda: (siglip("SiglipModel"), None),
        "siglip2": lambda: (siglip("Siglip2Model"), None),
        "open_clip": lambda: (load_model(open_clip_folder(folder / "open_clip")).model, None),
        "llava": lambda: (llava_model(), companion),
        "dinov2": lambda: (dinov2(), None),
        "dinov3_vit": lambda: (dinov3(), None),
        "mlcd": lambda: (mlcd(), None),
        "aimv2": lambda: (aimv2(), None),
    }
    return [made[family]()]


def architectures(family: str) -> list[str]:
    (found,) = (each for each in FAMILIES if each.name == family)
    return [name for names in found.model_types.values() for name in names]


def ways(family, folder: Path) -> set[str]:
    """The approximations of the ways to the joint space of a family's towers; "exact" for none."""
    found = set()
    for model, companion in models(family.name, folder):
        for kind in family.towers(type(model).__name__):
            tower = read_tower(model, companion if kind == "vision" else None, kind)
            found |= {layer.readout.approximation or "exact" for layer in tower.layers if layer.readout is not None}
    return found or {"none"}


def test_there_is_one_row_for_each_family_in_the_order_of_the_registry():
    assert len(rows(PAGE.read_text("utf-8"))) == len(FAMILIES)


@pytest.mark.parametrize("number", range(len(FAMILIES)), ids=[family.name for family in FAMILIES])
def test_a_row_says_what_the_registry_says(number, tmp_path):
    family = FAMILIES[number]
    _, types, towers, words, way, classes = rows(PAGE.read_text("utf-8"))[number]
    known = architectures(family.name)
    kinds = {kind for name in known for kind in family.towers(name)}
    assert set(towers.split(", ")) == kinds
    if family.name == "open_clip":
        assert "open_clip_config.json" in types
    else:
        assert named(types) == list(family.model_types)
        assert named(classes) == known
    if family.name != "llava":  # a companion has the words
        assert words == WORDS[any(map(family.has_text, known))]
    found = ways(family, tmp_path)
    # The hidden state is that of the model; every other phrase is the one that artifacts record.
    assert [each for each in found if each not in way] == []
    assert ("exact" in way, "without" in way) == ("exact" in found, any("without" in each for each in found))


def test_a_stale_row_is_found(tmp_path):
    siglip_family = next(each for each in FAMILIES if each.name == "siglip")
    assert "without the residual MLP" in ways(siglip_family, tmp_path)
    assert ways(next(each for each in FAMILIES if each.name == "clip"), tmp_path) == {"exact"}
    assert named("| `clip`, `other` |") == ["clip", "other"]
    assert rows("| a | b |\n|---|---|\n| `x` | y |\n") == [["`x`", "y"]]


def test_the_message_about_another_family_names_every_family_of_the_table():
    listed = supported()
    for _, types, *_ in rows(PAGE.read_text("utf-8")):
        first = "open_clip" if "open_clip" in types else named(types)[0]
        assert f"{first} (" in listed
