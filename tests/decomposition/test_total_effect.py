"""The total effect against finite differences in float64, in several families, and decompositions of it."""

import copy

import pytest
import torch
from torch.nn.functional import normalize

from sith_hf import ConceptDictionary, Decomposition, SithEditor
from sith_hf.decomposition import DecomposeSettings, TotalEffect, decompose, measure_total_effect
from sith_hf.errors import InputError
from sith_hf.files import ResumableJob
from sith_hf.pursuit import Pursuit
from sith_hf.towers import family_of
from tests.support.families import TOKENIZERS, make
from tests.support.siglip import siglip
from tests.support.tiny import byte_tokenizer, clip_model
from tests.towers.test_aimv2 import made as aimv2


def pixels(count=3, seed=1):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def models(tmp_path):
    return {
        "clip": clip_model(3),
        "siglip": siglip(seed=2),
        "aimv2": aimv2(1, qkv_bias=True),
        "chinese_clip": make("chinese_clip", "ChineseCLIPModel", TOKENIZERS["chinese_clip"](tmp_path / "t"), 3),
    }


def by_differences(model, images, layer, direction, step=1e-4):
    """The mean change of the normalised embedding, from a changed bias of the layer's output projection."""
    family = family_of(model)
    module, _ = family.locate(model, "vision")
    bias = module.get_submodule(family.outputs(module)[layer]).bias
    found = []
    for sign in (1, -1):
        with torch.no_grad():
            bias += sign * step * direction
            found.append(normalize(family.embed_images(model, images), dim=-1).mean(0))
            bias -= sign * step * direction
    return (found[0] - found[1]) / (2 * step)


@pytest.mark.parametrize("family", ["clip", "siglip", "aimv2", "chinese_clip"])
def test_jacobians_are_finite_differences(family, tmp_path):
    model = copy.deepcopy(models(tmp_path)[family]).double().eval()
    tower = SithEditor.from_model(model).tower
    images = pixels()
    before = family_of(model).embed_images(model, images)
    total = measure_total_effect(model, tower, [images[:2], images[2:]])
    assert total.jacobian.shape == (len(tower.layers), tower.joint_size, tower.hidden_size)
    generator = torch.Generator().manual_seed(5)
    # The RMS norms of AIMv2 compute in float32.
    step, precision = (3e-3, 1e-3) if family == "aimv2" else (1e-4, 1e-5)
    for layer in total.layers:
        direction = normalize(torch.randn(tower.hidden_size, generator=generator, dtype=torch.float64), dim=0)
        wanted = by_differences(model, images, layer, direction, step)
        change = total.change(direction, layer)
        assert wanted.norm() > 1e-3
        assert (change - wanted).norm() < precision * wanted.norm()
        other = total.change(direction, total.layers[layer - 1])
        assert (other - wanted).norm() > 1e-2 * wanted.norm(), "the check sees another layer"
    assert torch.equal(family_of(model).embed_images(model, images), before)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_some_layers_and_weights_of_16_bits():
    model = clip_model(4).bfloat16()
    tower = SithEditor.from_model(model).tower
    images = pixels(4).float()
    some = measure_total_effect(model, tower, [images], [-1, 1])
    every = measure_total_effect(copy.deepcopy(model).float(), tower, [images])
    assert some.layers == (1, 2)
    assert torch.allclose(some.jacobian, every.jacobian[1:], atol=1e-6)
    assert next(model.parameters()).dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"layer 0 was not measured"):
        some.change(torch.ones(32), 0)


def test_an_interrupted_measurement_continues_with_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr("sith_hf.decomposition.total_effect.DIMENSIONS", 10)
    model = clip_model(4)
    tower, images = SithEditor.from_model(model).tower, [pixels(2).float(), pixels(2, 9).float()]
    whole = measure_total_effect(model, tower, images)
    grad, calls = torch.autograd.grad, []

    def counted(*args, **options):
        calls.append(1)
        if len(calls) == 30:
            raise KeyboardInterrupt
        return grad(*args, **options)

    monkeypatch.setattr("torch.autograd.grad", counted)
    job = ResumableJob(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        measure_total_effect(model, tower, images, job=job)
    again = measure_total_effect(model, tower, images, job=job)
    assert torch.equal(again.jacobian, whole.jacobian)
    assert len(calls) == 30 + 2 * (24 - 10), "the first ten dimensions are not measured again"
    with pytest.raises(InputError, match="differs in images"):
        measure_total_effect(model, tower, images[:1], job=job)


@pytest.fixture
def setting(tmp_path):
    model = clip_model(6)
    editor = SithEditor.from_model(model, byte_tokenizer(tmp_path / "t"))
    concepts = editor.encode(ConceptDictionary.from_texts(["dog", "red boat", "ocean", "car", "night", "tree"]))
    total = measure_total_effect(model, editor.tower, [pixels(4).float()], images={"title": "noise"})
    return editor.tower, concepts, total


def test_a_decomposition_of_the_total_effect(setting, tmp_path):
    tower, concepts, total = setting
    settings = {"pursuit": Pursuit(sparsity=2)}
    direct = decompose(tower, concepts, DecomposeSettings(**settings))
    found = decompose(tower, concepts, DecomposeSettings(**settings, effect="total"), total=total)
    assert (direct.effect, found.effect, direct.total_cosine) == ("direct", "total", None)
    assert torch.equal(found.write, direct.write)
    assert not torch.equal(found.concept, direct.concept)
    assert found.settings["effect_images"] == {"title": "noise"}
    for place in [(0, 1, 2), (2, 3, 0)]:
        write = found.write[place].double()
        change = normalize(total.jacobian[place[0]].double() @ write, dim=0)
        point = normalize(tower.to_joint(write) + change, dim=-1)
        cosine = float(change @ tower.to_joint(write))
        assert abs(float(found.total_cosine[place]) - cosine) < 1e-6
        rebuilt = found.weight[place][0].double() @ found.atoms[found.concept[place][0]].double()
        assert abs(float(found.fidelity[place][0]) - float(normalize(rebuilt, dim=0) @ point)) < 1e-5
    assert bool((found.ceiling == 1).all())
    assert found.significance is not None
    assert len(found.significance.sample) == 3, "each layer has its own null"
    found.save_pretrained(tmp_path)
    again = Decomposition.from_pretrained(tmp_path)
    assert torch.equal(again.total_cosine, found.total_cosine)
    assert again.explain(0, 1, 2).total_cosine == pytest.approx(float(found.total_cosine[0, 1, 2]))


def test_p_values_put_the_null_through_the_same_map(setting):
    """A large Jacobian of rank one makes all directions alike, so none of them is beyond chance."""
    tower, concepts, total = setting
    one = torch.outer(concepts.embeddings[0], torch.ones(32))[None].repeat(3, 1, 1) * 1e4
    flat = TotalEffect(total.layers, one + 1e-3 * total.jacobian, {})
    found = decompose(
        tower, concepts, DecomposeSettings(pursuit=Pursuit(sparsity=2), effect="total", centre=False), total=flat
    )
    assert float(found.p_values.min()) > 0.001


def test_bad_settings_are_refused(setting):
    tower, concepts, total = setting
    with pytest.raises(InputError, match="effect must be"):
        DecomposeSettings(effect="both")
    with pytest.raises(InputError, match="what a vector writes"):
        DecomposeSettings(effect="total", side="read")
    for settings, given in [(DecomposeSettings(effect="total"), None), (DecomposeSettings(), total)]:
        with pytest.raises(InputError, match="measure_total_effect"):
            decompose(tower, concepts, settings, total=given)
    text = SithEditor.from_model(clip_model(0), tower="text")
    with pytest.raises(InputError, match="text tower"):
        measure_total_effect(text.model, text.tower, [pixels()])
    with pytest.raises(InputError, match="no images"):
        measure_total_effect(text.model, tower, [])
