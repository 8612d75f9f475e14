"""On an accelerator the results are those of the CPU. Skipped on a machine without one."""

from __future__ import annotations

import copy

import pytest
import torch

from sith_hf import Pursuit, SithEditor
from tests.support.made import tiny_concepts
from tests.support.tiny import byte_tokenizer, clip_model

DEVICE = torch.accelerator.current_accelerator(check_available=True)

pytestmark = pytest.mark.skipif(DEVICE is None, reason="no accelerator on this machine")


def unit_rows(rows: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=generator), dim=1)


@pytest.fixture(scope="module")
def editors(tmp_path_factory):
    """The same model twice: on the CPU and on the accelerator."""
    tokenizer = byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    model = clip_model()
    moved = copy.deepcopy(model).to(DEVICE)
    return SithEditor.from_model(model, tokenizer, name="tiny"), SithEditor.from_model(moved, tokenizer, name="tiny")


@pytest.mark.parametrize("method", ["comp", "omp", "mp", "top-k"])
def test_pursuit_chooses_the_atoms_of_the_cpu(method):
    vectors, atoms = unit_rows(300, 96, seed=1), unit_rows(40_000, 96, seed=2)
    pursuit = Pursuit(method=method)
    expected, found = pursuit(vectors, atoms), pursuit(vectors.to(DEVICE), atoms.to(DEVICE))
    assert torch.equal(found.index.cpu(), expected.index)
    assert torch.allclose(found.weight.cpu(), expected.weight, atol=1e-5)
    # Control: other vectors have other atoms.
    assert not torch.equal(pursuit(unit_rows(300, 96, seed=3), atoms).index, expected.index)


def test_decompositions_agree(editors):
    here, there = editors
    expected = here.decompose(tiny_concepts())
    for found in (there.decompose(tiny_concepts()), there.decompose(tiny_concepts(), device=DEVICE)):
        assert found.texts == expected.texts
        assert torch.equal(found.concept, expected.concept)
        assert found.base.sha256 == expected.base.sha256
        for name in ("singular_values", "weight", "fidelity", "write", "read"):
            assert torch.allclose(getattr(found, name), getattr(expected, name), atol=1e-5), name


def test_an_edit_applied_on_the_accelerator_is_the_edit_of_the_cpu(editors):
    here, there = editors
    specs = []
    for editor in editors:
        editor.decompose(tiny_concepts())
        specs.append(editor.edit().vectors(0.0, layers=[1, 2], vectors=[0, 1]).spec)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        with here.applied(specs[0]) as model:
            expected = model.get_image_features(pixel_values=pixels).pooler_output
        with there.applied(specs[1]) as model:
            found = model.get_image_features(pixel_values=pixels.to(DEVICE)).pooler_output.cpu()
        plain = there.model.get_image_features(pixel_values=pixels.to(DEVICE)).pooler_output.cpu()
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(plain, expected, atol=1e-2)  # control: without the edit
