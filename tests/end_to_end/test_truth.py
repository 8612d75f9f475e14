"""What ``benchmarks/truth.py`` calls true is true: on models where it is known by construction, and against edits."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sith_hf import SithEditor, world
from sith_hf.edits import applied
from sith_hf.grounding import reading_coefficients
from tests.support.tiny import clip_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True, scope="module")
def _benchmarks() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield
        for name in ("truth_world", "truth_scores", "truth_peers"):
            sys.modules.pop(name, None)


def pixels(count: int, seed: int = 0, side: int = 16) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_coefficients_and_removal_are_those_of_the_package() -> None:
    from truth_world import Pictures

    model = clip_model(3)
    editor = SithEditor.from_model(model)
    made = editor.decompose(None)
    images = pixels(4)
    pictures = Pictures(model, images)
    with torch.no_grad(), reading_coefficients(model, editor.tower, made) as reader:
        before = normalize(model.get_image_features(pixel_values=images).pooler_output, dim=-1)
        read = reader.take().unflatten(1, (len(made.layers), -1))
    torch.testing.assert_close(pictures.embeddings, before)
    for layer in made.layers:
        coefficients = pictures.coefficients(layer, made.write[layer])
        torch.testing.assert_close(coefficients[:, 0], read[:, layer], rtol=1e-3, atol=1e-4)
        head, vector = 1, 2
        spec = editor.edit().vectors(0.0, layers=[layer], heads=[head], vectors=[vector]).spec
        with torch.no_grad(), applied(model, spec):
            after = normalize(model.get_image_features(pixel_values=images).pooler_output, dim=-1)
        number = head * made.rank + vector
        without = pictures.without(layer, coefficients[:, :, number], made.write[layer].flatten(0, 1)[number])
        torch.testing.assert_close(without, after, rtol=1e-3, atol=1e-4)
        # The control: another vector's removal is another edit.
        other = pictures.without(layer, coefficients[:, :, 0], made.write[layer].flatten(0, 1)[0])
        assert (other - after).abs().max() > 1e-3


def constructed(size: int = 16) -> tuple[Any, Tensor, Tensor]:
    """A CLIP whose only vector is driven by bright pictures and writes what value 2 is, and (write, values)."""
    model = clip_model(
        0, hidden_size=size, num_attention_heads=2, num_hidden_layers=2, projection_dim=size, intermediate_size=8
    )
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(7, size, generator=generator)
    basis = torch.linalg.qr((noise - noise.mean(1, keepdim=True)).T)[0].T
    bright, write, values = basis[0], basis[1], basis[[2, 3, 1, 4]]
    tower = model.vision_model
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            parameter.fill_(float("norm" in name and name.endswith("weight")))
        tower.embeddings.class_embedding.copy_(basis[5])
        # A patch token is the mean pixel along ``bright``.
        tower.embeddings.patch_embedding.weight.copy_(bright[:, None, None, None].expand(-1, 3, 8, 8) / 192)
        tower.encoder.layers[0].self_attn.v_proj.weight[0] = bright
        tower.encoder.layers[0].self_attn.out_proj.weight[:, 0] = write
        model.visual_projection.weight.copy_(torch.eye(size))
    return model, write, values


def test_what_is_written_and_what_drives_are_found_by_construction() -> None:
    from truth_world import Pictures, driven, true_values, written

    model, write, values = constructed()
    level = torch.tensor([1.0, -1.0] * 20)
    level = level * torch.linspace(0.5, 1.5, 40)
    pictures = Pictures(model, level[:, None, None, None].expand(-1, 3, 16, 16).contiguous())
    vectors = torch.stack([write, values[0]]).reshape(2, 1, -1)
    even = torch.arange(40) % 4 < 2
    shown = torch.stack([level > 0, level < 0, even, ~even], dim=1)
    wrote = true_values(written(pictures, 0, vectors, values))[0]
    drove = true_values(driven(pictures, 0, vectors, shown))[0]
    # The plus pole writes value 2 and is driven by value 0, which are two things.
    assert wrote[0].tolist() == [False, False, True, False]
    assert drove[0].tolist() == [True, False, False, False]
    assert drove[1].tolist() == [False, True, False, False]
    # The controls: a vector that is never written has no effect, so nothing is true of it; nor of the second layer.
    assert not true_values(written(pictures, 0, vectors, values))[1].any()
    assert not true_values(written(pictures, 1, vectors, values)).any()


def test_drawn_pictures_show_what_they_are_said_to_show() -> None:
    from truth_world import AXES, VALUES, draw, value_of

    images, shown = draw(200, 7)
    again, _ = draw(200, 7)
    other, _ = draw(200, 8)
    assert (images == again).all()
    assert (images != other).any()
    assert shown.shape == (200, len(VALUES))
    assert (shown.sum(dim=1) == len(AXES)).all()
    # A white object is brighter than a black one; all objects and backgrounds occur.
    white, black = (images[shown[:, VALUES.index(name)].numpy()].mean() for name in ("white", "black"))
    assert white > black
    assert shown.any(dim=0).all()
    words = world.concepts()
    assert [VALUES[i] for i in value_of(["boat", "ship", "crimson"])] == ["boat", "boat", "red"]
    assert len(value_of(words)) == len(words)


def test_scores_count_words_of_speaking_poles_only() -> None:
    from truth_scores import Reading, bootstrap, counted, interval, together

    # One layer, two heads of one vector; word m names value m.
    words = torch.tensor([[[[0, 1], [2, -1]], [[1, 0], [-1, -1]]]])
    true = torch.zeros(1, 2, 2, 3, dtype=torch.bool)
    true[0, 0, 0, 0] = true[0, 0, 1, 2] = true[0, 1, 0, 0] = True
    energy = torch.tensor([[3.0, 1.0]])
    part = counted(Reading(words), true, torch.arange(3), energy, heads=2)
    sums = together([part])
    shares = {name: sum_.share([0]) for name, sum_ in sums.items()}
    assert shares["top"] == pytest.approx(2 / 3)  # right, right, wrong, silent
    assert shares["precision"] == pytest.approx(3 / 5)
    assert shares["speaking"] == pytest.approx(3 / 4)
    assert shares["energy top"] == pytest.approx(6 / 7)
    silent = counted(Reading(words).silenced(torch.zeros(1, 2, 2, dtype=torch.bool)), true, torch.arange(3), energy, 2)
    assert together([silent])["speaking"].share([0]) == 0
    low, high = interval(sums["top"].drawn([0], bootstrap(1, 2)))
    # Both heads are drawn: the share lies between those of a head alone, 0 of 1 and 2 of 2.
    assert (low, high) == (0, 1)


def test_peers_find_what_was_put_there() -> None:
    from truth_peers import cosine_cubed, soft_wpmi, text_span

    generator = torch.Generator().manual_seed(1)
    texts = torch.linalg.qr(torch.randn(12, 6, generator=generator).double())[0].T
    activity = torch.randn(400, 2, generator=generator).double()
    # A head that writes text 4 twice as much as text 1, and nothing else.
    written = activity @ (torch.tensor([[2.0], [1.0]]).double() * texts[[4, 1]])
    assert text_span(written, texts, 2).tolist() == [4, 1]
    assert text_span(written * 0.5 + 3 * texts[2], texts, 2).tolist() == [4, 1]
    # Units that follow concepts 3 and 0, and one that follows none.
    similarities = torch.randn(400, 5, generator=generator).double()
    noise = torch.randn(400, 1, generator=generator).double()
    units = torch.cat([similarities[:, [3, 0]] + 0.3 * noise, -similarities[:, [3]]], dim=1)
    for score in (soft_wpmi, cosine_cubed):
        found = score(units, similarities)
        assert found.shape == (3, 5)
        assert found[:2].argmax(dim=1).tolist() == [3, 0], score.__name__
        assert found[2].argmax() != 3
