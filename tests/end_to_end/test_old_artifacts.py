"""Artifacts of an earlier commit: the present code reads the same values from them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from sith_hf.checkpoint import revert, verify
from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec
from sith_hf.errors import ArtifactError, BaseMismatch
from sith_hf.gains import Scores
from sith_hf.towers import ImageMean
from tests.support.old_artifacts.make import JUDGE, TOPIC, TOWER
from tests.support.raw import torch_tensors
from tests.support.tiny import clip_model, vision_model

OLD = Path(__file__).resolve().parents[1] / "support" / "old_artifacts"
KINDS = {
    "dictionary.safetensors": ConceptDictionary,
    "image_mean.safetensors": ImageMean,
    "decomposition.safetensors": Decomposition,
    "scores.safetensors": Scores,
    "edit_spec.safetensors": EditSpec,
}


@pytest.fixture(scope="module")
def recorded():
    """The values that the old code read from them."""
    return json.loads((OLD / "recorded.json").read_text(encoding="utf-8"))


@pytest.fixture
def base(tmp_path):
    """The base of the edited checkpoint."""
    vision_model(1, **TOWER).save_pretrained(tmp_path / "base")
    # A config names the release of transformers that wrote it.
    shutil.copyfile(OLD / "edited" / "config.json", tmp_path / "base" / "config.json")
    return tmp_path / "base"


def test_dictionary(recorded):
    found = ConceptDictionary.from_pretrained(OLD)
    assert list(found.texts) == recorded["dictionary"]["texts"]
    assert found.embeddings.tolist() == recorded["dictionary"]["embeddings"]


def test_image_mean(recorded, editor):
    found = ImageMean.from_pretrained(OLD)
    found.check(editor.tower)
    assert (found.count, found.image_mean.tolist()) == (
        recorded["image mean"]["count"],
        recorded["image mean"]["values"],
    )


def test_decomposition(recorded, editor):
    found = Decomposition.from_pretrained(OLD)
    explained = [
        {"where": [e.layer, e.head, e.vector, e.pole], "concepts": list(map(list, e.concepts)), "fidelity": e.fidelity}
        for e in found.explanations()
    ]
    assert explained == recorded["decomposition"]
    assert (found.p_values, found.beyond_chance(), found.explanations()[0].p_value) == (None, None, None)
    assert editor.with_decomposition(found).decomposition == found


def test_scores(recorded):
    found = Scores.from_pretrained(OLD)
    assert (found.topic, found.judge, found.record) == (TOPIC, JUDGE, {"by": "file"})
    assert torch.nan_to_num(found.value).tolist() == recorded["scores"]["values"]
    found.check(Decomposition.from_pretrained(OLD))


def test_edit_spec(recorded, editor):
    found = EditSpec.from_pretrained(OLD)
    # Later releases name the tower too.
    assert found.rows() == [{"tower": "vision", **row} for row in recorded["spec"]["rows"]]
    with editor.applied(found) as model:
        weights = {name: tensor.detach().numpy().tobytes() for name, tensor in model.state_dict().items()}
    applied = {name: hashlib.sha256(weights[name]).hexdigest() for name in recorded["spec"]["applied"]}
    assert applied == recorded["spec"]["applied"]


def test_edited_checkpoint(base, tmp_path):
    assert verify(OLD / "edited", base=base).ok
    revert(OLD / "edited", tmp_path / "reverted")
    before, after = torch_tensors(base), torch_tensors(tmp_path / "reverted")
    assert before.keys() == after.keys()
    assert all(torch.allclose(after[name], tensor, atol=1e-6) for name, tensor in before.items())


def test_controls(editor, base, tmp_path):
    """Files of another base and damaged files are refused, old or new."""
    spec = EditSpec.from_pretrained(OLD)
    with pytest.raises(BaseMismatch), SithEditor.from_model(clip_model(9), name="tiny").applied(spec):
        pass
    vision_model(2, **TOWER).save_pretrained(tmp_path / "other")
    with pytest.raises(BaseMismatch):
        verify(OLD / "edited", base=tmp_path / "other")
    for name, kind in KINDS.items():
        (tmp_path / name).write_bytes((OLD / name).read_bytes()[:-8])
        with pytest.raises(ArtifactError):
            kind.from_pretrained(tmp_path)
