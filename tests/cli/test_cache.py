"""``sith-hf cache``: show and clear the embeddings that are kept."""

from __future__ import annotations

import pytest
import torch

from sith_hf.files import EmbeddingCache
from sith_hf.towers.causal_text import CausalText
from tests.support.cli import HOSTILE, sith, succeeded


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A cache of its own."""
    monkeypatch.setenv("SITH_HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_an_empty_cache(home):
    assert succeeded(sith("cache")).out.startswith("0 lists of concepts, 0.0 MB, in ")
    assert sith("cache", "--json").data == {
        "folder": str(home / "embeddings"),
        "cleared": False,
        "bytes": 0,
        "lists": [],
    }
    assert succeeded(sith("cache", "--clear")).out.startswith("Removed 0 lists")
    assert not home.exists()


def test_a_list_is_encoded_once_shown_and_cleared(work, home, tmp_path, monkeypatch):
    command = ("decompose", work / "clip", "--concepts", work / "concepts.txt", "--template", "a {}", "--json")
    succeeded(sith(*command, "-o", tmp_path / "one"))
    (found,) = sith("cache", "--json").data["lists"]
    monkeypatch.setattr(CausalText, "embed", None)
    succeeded(sith(*command, "-o", tmp_path / "two"))
    names = ("dictionary.safetensors", "decomposition.safetensors")
    assert all((tmp_path / "one" / n).read_bytes() == (tmp_path / "two" / n).read_bytes() for n in names)
    data = sith("cache", "--json").data
    assert data["lists"] == [found]
    assert data["bytes"] == found["bytes"] == (home / "embeddings" / found["file"]).stat().st_size
    assert found["template"] == "a {}"
    assert found["encoder"] == "clip"
    assert str(found["concepts"]) in succeeded(sith("cache")).out
    removed = sith("cache", "--clear", "--json").data
    assert removed["cleared"]
    assert removed["lists"] == [found]
    assert sith("cache", "--json").data["lists"] == []


def test_another_template_or_model_is_another_list(work, home, tmp_path):
    command = ("decompose", "--concepts", work / "concepts.txt")
    for number, words in enumerate([(work / "clip",), (work / "clip", "--template", "a {}"), (work / "other",)]):
        succeeded(sith(*command, *words, "-o", tmp_path / str(number)))
        assert len(sith("cache", "--json").data["lists"]) == number + 1


def test_what_is_in_a_file_is_harmless(home):
    for text in HOSTILE:
        EmbeddingCache(about={"encoder": text, "template": f"{text} {{}}"}).put({"text": text}, torch.eye(2))
    (home / "embeddings" / f"{'a' * 64}.safetensors").write_bytes(b"\x1b[31m")
    assert "damaged" in succeeded(sith("cache")).out
    assert len(sith("cache", "--json").data["lists"]) == len(HOSTILE) + 1
    assert len(sith("cache", "--clear", "--json").data["lists"]) == len(HOSTILE) + 1
