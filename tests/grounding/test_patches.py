"""The parts of tokens in a coefficient: attention times what each token holds, adding up to the coefficient exactly."""

import copy

import pytest
import torch
from transformers import OwlViTConfig, OwlViTModel

from sith_hf import SithEditor
from sith_hf.errors import UnsupportedModel
from sith_hf.grounding import reading_coefficients
from sith_hf.grounding.patches import patch_grid, token_parts
from sith_hf.towers import family_of
from tests.support.families import TOKENIZERS, make
from tests.support.literal_coefficients import standardised
from tests.support.open_clip_folders import open_clip_folder
from tests.support.siglip import siglip
from tests.support.tiny import VISION, clip_model, randomise
from tests.support.vision_models import dinov2, dinov2_registers, dinov3, llava_model, mlcd
from tests.towers.test_aimv2 import made as aimv2


def owl():
    text = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    return randomise(OwlViTModel(OwlViTConfig(text_config=text, vision_config=VISION, projection_dim=24)), 0)


MODELS = {
    "clip": lambda: clip_model(3),
    "chinese_clip": lambda: make("chinese_clip", "ChineseCLIPModel", TOKENIZERS["chinese_clip"](None), 3),
    "siglip": lambda: siglip(seed=2),
    "aimv2": lambda: aimv2(1),
    "dinov2": lambda: dinov2(4),
    "registers": lambda: dinov2_registers(4),
    "dinov3": lambda: dinov3(4),
    "mlcd": lambda: mlcd(4),
    "llava": lambda: llava_model(1),
    "owlvit": owl,
}


def prepared(model, dtype=torch.float64):
    """An editor, a decomposition, images, and what runs the tower."""
    editor = SithEditor.from_model(copy.deepcopy(model).to(dtype).eval(), tower="vision")
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    tower, _ = family_of(editor.model).locate(editor.model, "vision")
    return editor, editor.decompose(None), pixels, lambda pixels: tower(pixel_values=pixels)


def read(editor, decomposition, vectors, run, pixels):
    with torch.no_grad(), reading_coefficients(editor.model, editor.tower, decomposition, vectors) as reader:
        run(pixels)
        return reader.take()


def check(editor, decomposition, pixels, run, tolerance=1e-12):
    """The parts of every layer, in one vector each, add up to the coefficients; those of patches alone do not."""
    for layer in decomposition.layers:
        vector = (layer, layer % 2, 1)
        found = token_parts(editor.model, editor.tower, decomposition, vector, pixels, run)
        wanted = read(editor, decomposition, [vector], run, pixels)[:, 0]
        scale = wanted.abs().max()
        assert found.patches.shape[0] == 3
        assert (found.patches.flatten(1).sum(dim=1) + found.others - wanted).abs().max() <= tolerance * scale
        assert (found.tokens[:, 1:].sum(dim=1) - wanted).abs().max() > 1e-3 * scale, "the check sees a missing token"
        assert found.tokens.std(dim=1).min() > 0
        alone = read(editor, decomposition, [vector], run, pixels[1:2])
        assert (alone[0] - wanted[1]).abs().max() <= tolerance * scale, "images do not mix"


@pytest.mark.parametrize("kind", MODELS)
def test_they_add_up_to_the_coefficient_in_every_family(kind):
    editor, decomposition, pixels, run = prepared(MODELS[kind]())
    before = {name: tensor.clone() for name, tensor in editor.model.state_dict().items()}
    check(editor, decomposition, pixels, run)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in editor.model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in editor.model.state_dict().items())
    assert all(parameter.grad is None for parameter in editor.model.parameters())


def test_they_add_up_with_fused_projections(tmp_path):
    editor = SithEditor.from_pretrained(open_clip_folder(tmp_path / "m"))
    editor.model.double()
    size = editor.model.config.vision_config.image_size
    pixels = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    editor = SithEditor.from_model(editor.model, tower="vision")
    check(editor, editor.decompose(None), pixels, editor.model.visual)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_each_is_attention_times_what_the_token_holds(implementation):
    model = clip_model(3)
    model.set_attn_implementation("eager")
    editor, decomposition, pixels, run = prepared(model)
    layer, head, vector = 1, 2, 3
    module, seen = editor.model.vision_model.encoder.layers[layer], {}
    handles = [
        module.layer_norm1.register_forward_hook(lambda m, inputs, output: seen.update(states=inputs[0])),
        module.self_attn.register_forward_hook(lambda m, inputs, output: seen.update(weights=output[1])),
    ]
    with torch.no_grad():
        run(pixels)
    for handle in handles:
        handle.remove()
    place = decomposition.place(layer, head, vector)
    read_direction = decomposition.read[place].double() * decomposition.singular_values[place].double()
    held = standardised(seen["states"], module.layer_norm1) @ read_direction
    wanted = (seen["weights"][:, head, 0] * held).detach()
    editor.model.set_attn_implementation(implementation)
    found = token_parts(editor.model, editor.tower, decomposition, (layer, head, vector), pixels, run).tokens
    # Directions are stored as float32.
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (found.flip(1) - wanted).abs().max() > 0.1 * wanted.abs().max()
    assert editor.model.config._attn_implementation == implementation


def test_half_precision_adds_up_to_its_rounding():
    editor, decomposition, pixels, run = prepared(clip_model(3), torch.bfloat16)
    check(editor, decomposition, pixels, run, 0.03)


def test_rows_and_columns_are_those_of_the_image():
    """A patch that alone changes is where the part changes, in the first layer."""
    editor, decomposition, pixels, run = prepared(clip_model(3, image_size=32, patch_size=8))
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    other = pixels.clone()
    other[..., 8:16, 24:32] += 3
    both = token_parts(editor.model, editor.tower, decomposition, (0, 0, 0), torch.cat([pixels, other]), run)
    assert both.grid == (4, 4)
    held = (both.patches[1] - both.patches[0]).abs()
    assert divmod(int(held.argmax()), 4) == (1, 3)


def test_a_tower_with_patches_of_unknown_size_is_refused():
    with pytest.raises(UnsupportedModel, match="patches is not known"):
        patch_grid(torch.nn.Linear(2, 2), torch.zeros(1, 3, 8, 8))
