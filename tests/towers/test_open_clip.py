"""Folders of open_clip: embeddings, decomposition and edits against an independent forward of the file's tensors."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from sith_hf import ConceptDictionary, SithEditor
from sith_hf.checkpoint import export_adapter, verify
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.images import estimated_mean, model_variants
from sith_hf.towers import check_function, encode_texts, load_model
from sith_hf.towers.open_clip import clean
from tests.support.literal import Parts, edited_output, singular_values
from tests.support.open_clip_folders import CONFIG, WEIGHTS, Forward, open_clip_folder, state_of
from tests.support.raw import read_raw
from tests.support.tiny import save_clip

TEXTS = ["red", "a blue sky", "Dog", "night forest", "snow", "a small boat on the sea"]
OLD = "open_clip_pytorch_model.safetensors"
VARIANTS = {
    "plain": {},
    "quick_gelu": {"quick_gelu": True},
    "layer scale": {"vision": {"ls_init_value": 0.1}, "text": {"ls_init_value": 0.1}},
    "averaged patches": {"vision": {"pool_type": "avg"}},
    "no first norm, last norm after the pool": {
        "vision": {"no_ln_pre": True, "final_ln_after_pool": True, "pool_type": "avg"}
    },
    "custom text": {"custom_text": True},
    "custom text, file of a CLIP": {"custom_text": True, "prefix": ""},
    "text not causal": {"custom_text": True, "text": {"no_causal_mask": True, "pool_type": "last"}},
    "projection with bias": {"custom_text": True, "text": {"proj_bias": True}},
    "end token": {"text": {"pool_type": "eos", "eos_id": 513}},
    "earlier name": {"weights": OLD},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Every variant's folder, made once."""
    home = tmp_path_factory.mktemp("open_clip")
    return {name: open_clip_folder(home / f"m{n}", seed=n, **kind) for n, (name, kind) in enumerate(VARIANTS.items())}


@pytest.fixture(scope="module")
def plain(folders):
    return folders["plain"]


def weights(name):
    return VARIANTS[name].get("weights", WEIGHTS)


def pixels(count=3):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def images_by(model):
    with torch.no_grad():
        found = model.get_image_features(pixels().to(next(model.parameters()).dtype)).pooler_output
    return torch.nn.functional.normalize(found.double(), dim=-1)


def ids_of(loaded):
    return loaded.tokenizer(TEXTS)["input_ids"]


def edit(folder, tower="vision", gains=(0.0, -1.0, 3.0), **settings):
    editor = SithEditor.from_pretrained(folder, tower=tower)
    editor.decompose(ConceptDictionary.from_texts(TEXTS), **settings)
    made = editor.edit()
    for number, gain in enumerate(gains):
        made = made.vectors(gain, layers=[number % 2], heads=[1], vectors=[number])
    return editor, made.spec


def parts_of(state, at):
    size = state[f"{at}ln_1.weight"].shape[0]
    value, bias = state[f"{at}attn.in_proj_weight"][-size:], state[f"{at}attn.in_proj_bias"][-size:]
    out = (state[f"{at}attn.out_proj.weight"], state[f"{at}attn.out_proj.bias"], state.get(f"{at}ls_1.gamma"))
    return Parts(state[f"{at}ln_1.weight"], state[f"{at}ln_1.bias"], value, bias, *out)


def stem_of(state, tower):
    below = "text." if "text.ln_final.weight" in state else ""
    return f"{'visual.' if tower == 'vision' else below}transformer.resblocks."


def edited_state(folder, tower, editor, spec, name=WEIGHTS):
    """The tensors of a folder with explicit edited matrices."""
    state = state_of(folder, name)
    for layer in spec.layers:
        at = f"{stem_of(state, tower)}{layer}."
        out, bias = edited_output(parts_of(state, at), editor.tower.num_heads, spec, layer)
        state[f"{at}attn.out_proj.weight"], state[f"{at}attn.out_proj.bias"] = out, bias
    return state


class TestEmbeddings:
    @pytest.mark.parametrize("name", VARIANTS)
    def test_embeddings_are_those_of_the_file(self, folders, name):
        loaded = load_model(str(folders[name]))
        expected = Forward(folders[name], weights=weights(name))
        assert torch.allclose(images_by(loaded.model), expected.images(pixels()), atol=1e-6)
        found = encode_texts(loaded.model, loaded.tokenizer, TEXTS)
        assert torch.allclose(found.double(), expected.texts(ids_of(loaded)), atol=1e-6)

    def test_control_another_activation_gives_other_embeddings(self, folders, plain, tmp_path):
        other = shutil.copytree(plain, tmp_path / "other")
        config = json.loads((other / CONFIG).read_text())
        config["model_cfg"]["quick_gelu"] = True
        (other / CONFIG).write_text(json.dumps(config))
        difference = images_by(load_model(str(other)).model) - images_by(load_model(str(plain)).model)
        assert difference.abs().max() > 1e-3

    def test_the_weights_keep_their_dtype_and_half_precision_is_read(self, tmp_path):
        folder = open_clip_folder(tmp_path / "half", dtype=torch.float16)
        loaded = load_model(str(folder))
        assert next(loaded.model.parameters()).dtype == torch.float16
        assert torch.allclose(images_by(loaded.model), Forward(folder).images(pixels()), atol=5e-3)

    def test_a_dataset_is_embedded_with_the_pixels_of_preprocess_cfg(self, plain):
        editor = SithEditor.from_pretrained(plain)
        (variant,) = model_variants(editor, {"base": None})
        picture = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
        found = variant.processor(images=[picture])["pixel_values"]
        array = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None] / 255
        by_hand = (array - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
        assert torch.allclose(found, by_hand, atol=1e-6)
        with torch.no_grad():
            assert torch.allclose(variant.embed(found).double(), Forward(plain).images(by_hand), atol=1e-6)

    def test_a_mean_can_be_estimated(self, plain):
        state = state_of(plain)
        token = state["visual.class_embedding"] + state["visual.positional_embedding"][0]
        token = torch.nn.functional.layer_norm(
            token, (32,), state["visual.ln_post.weight"], state["visual.ln_post.bias"]
        )
        expected = torch.nn.functional.normalize(token @ state["visual.proj"], dim=-1)
        mean = estimated_mean(SithEditor.from_pretrained(plain))
        assert torch.allclose(mean.image_mean, 0.3 * expected, atol=1e-6)
        assert "visual.proj" in mean.base.sha256

    @pytest.mark.parametrize(
        ("text", "how", "expected"),
        [
            ("  A\tDog\n&amp;lt;b ", "lower", "a dog <b"),
            ("A  Dog", "whitespace", "A Dog"),
            ("A_Dog, isn't it?", "canonicalize", "a dog isnt it"),
            ("don\u2019t \ufb02y \uff21", "lower", "don't fly a"),
        ],
    )
    def test_texts_are_cleaned_as_open_clip_cleans_them(self, text, how, expected):
        assert clean(text, how) == expected


class TestTokenizer:
    @pytest.mark.parametrize("kept", [("vocab.json", "merges.txt"), ("tokenizer.json",)])
    def test_either_form_of_the_tokenizer_is_read(self, plain, tmp_path, kept):
        folder = open_clip_folder(tmp_path / "m", tokenizer=False)
        made = load_model(str(plain)).tokenizer
        made.save_pretrained(tmp_path / "tokenizer")
        for name in kept:
            source = tmp_path / "tokenizer" / name
            shutil.copy(source if source.is_file() else plain / name, folder / name)
        found = load_model(str(folder))
        expected = Forward(folder).texts(ids_of(load_model(str(plain))))
        assert torch.allclose(encode_texts(found.model, found.tokenizer, TEXTS).double(), expected, atol=1e-6)

    def test_without_a_tokenizer_one_line_says_what_to_do(self, tmp_path):
        editor = SithEditor.from_pretrained(open_clip_folder(tmp_path / "m", tokenizer=False))
        with pytest.raises(InputError, match=r"no tokenizer, since open_clip brings its own: put tokenizer\.json"):
            editor.encode(ConceptDictionary.from_texts(TEXTS))

    def test_a_companion_encodes_in_its_place(self, tmp_path):
        folder = open_clip_folder(tmp_path / "m", tokenizer=False)
        editor = SithEditor.from_pretrained(folder, text_model=save_clip(tmp_path / "clip"))
        assert len(editor.decompose(ConceptDictionary.from_texts(TEXTS), layers=[-1]).layers) == 1


class TestDecomposition:
    @pytest.mark.parametrize("name", ["plain", "layer scale", "custom text"])
    @pytest.mark.parametrize("tower", ["vision", "text"])
    def test_a_decomposition_is_the_svd_of_the_value_output_matrices(self, folders, name, tower):
        editor, _ = edit(folders[name], tower)
        state, found = state_of(folders[name]), editor.decomposition
        for number, layer in enumerate(found.layers):
            parts = parts_of(state, f"{stem_of(state, tower)}{layer}.")
            expected = singular_values(parts, editor.tower.num_heads)
            assert torch.allclose(found.singular_values[number].double(), expected, atol=1e-5)
        assert (
            found.settings["readout"]
            == f"{'ln_post, proj' if tower == 'vision' else 'ln_final, text_projection'} (exact)"
        )

    def test_control_the_query_third_has_another_svd(self, plain):
        editor, _ = edit(plain)
        state = state_of(plain)
        at = "visual.transformer.resblocks.0."
        matrix = state[f"{at}attn.out_proj.weight"][:, :8] @ state[f"{at}attn.in_proj_weight"][:8]
        first = editor.decomposition.singular_values[0, 0].double()
        assert not torch.allclose(first, torch.linalg.svdvals(matrix)[:8], atol=0.05)


class TestEdit:
    @pytest.mark.parametrize(
        ("name", "fold"),
        [
            ("plain", True),
            ("plain", False),
            ("layer scale", True),
            ("layer scale", False),
            ("custom text, file of a CLIP", True),
            ("earlier name", True),
        ],
    )
    @pytest.mark.parametrize("tower", ["vision", "text"])
    def test_an_edited_folder_computes_with_the_edited_matrices(self, folders, tmp_path, name, tower, fold):
        folder = folders[name]
        editor, spec = edit(folder, tower, fold=fold)
        editor.save_pretrained(tmp_path / "edited", spec)
        state = edited_state(folder, tower, editor, spec, weights(name))
        expected, found = Forward(folder, state), Forward(tmp_path / "edited", weights=weights(name))
        if tower == "vision":
            one, two, base = (f.images(pixels()) for f in (expected, found, Forward(folder, weights=weights(name))))
        else:
            ids = ids_of(editor.loaded)
            one, two, base = (f.texts(ids) for f in (expected, found, Forward(folder, weights=weights(name))))
        assert torch.allclose(one, two, atol=1e-4)
        assert not torch.allclose(base, two, atol=1e-2)  # the control: an edit changes something

    @pytest.mark.parametrize("name", ["plain", "custom text", "earlier name"])
    def test_every_other_tensor_and_file_keeps_its_bytes(self, folders, tmp_path, name):
        folder, file = folders[name], weights(name)
        editor, spec = edit(folder)
        saved = editor.save_pretrained(tmp_path / "edited", spec)
        before, metadata = read_raw(folder / file)
        after, same = read_raw(tmp_path / "edited" / file)
        changed = {key for key in before if before[key] != after[key]}
        assert list(before) == list(after)
        assert metadata == same
        assert changed == {
            f"visual.transformer.resblocks.{n}.attn.out_proj.{p}" for n in (0, 1) for p in ("weight", "bias")
        }
        assert set(saved.changed) == changed
        assert (tmp_path / "edited" / CONFIG).read_bytes() == (folder / CONFIG).read_bytes()
        assert not saved.left_out

    @pytest.mark.parametrize("tower", ["vision", "text"])
    def test_verify_revert_and_applied(self, folders, tmp_path, tower):
        folder = folders["layer scale"]
        editor, spec = edit(folder, tower)
        editor.save_pretrained(tmp_path / "edited", spec)
        assert verify(tmp_path / "edited", folder).ok
        edited = load_model(str(tmp_path / "edited")).model.state_dict()
        before = {name: tensor.clone() for name, tensor in editor.model.state_dict().items()}
        with editor.applied(spec) as model:
            assert all(torch.equal(tensor, edited[name]) for name, tensor in model.state_dict().items())
        assert all(torch.equal(tensor, before[name]) for name, tensor in editor.model.state_dict().items())
        again = SithEditor.from_pretrained(tmp_path / "edited", tower=tower)
        assert again.history == (spec,)
        again.revert(tmp_path / "base")
        one, two = load_file(folder / WEIGHTS), load_file(tmp_path / "base" / WEIGHTS)
        assert all(torch.allclose(one[name], two[name], atol=1e-6) for name in one)

    def test_verify_finds_a_changed_tensor(self, plain, tmp_path):
        editor, spec = edit(plain)
        editor.save_pretrained(tmp_path / "edited", spec)
        state = load_file(tmp_path / "edited" / WEIGHTS)
        state["visual.proj"][0, 0] += 1
        save_file(state, tmp_path / "edited" / WEIGHTS, metadata={"format": "pt"})
        assert any("visual.proj" in problem for problem in verify(tmp_path / "edited", plain).problems)

    def test_the_card_names_open_clip_and_how_to_load_it(self, plain, tmp_path):
        editor, spec = edit(plain)
        editor.save_pretrained(tmp_path / "edited", spec)
        card = (tmp_path / "edited" / "README.md").read_text(encoding="utf-8")
        assert "library_name: open_clip\npipeline_tag: zero-shot-image-classification\n" in card
        assert 'open_clip.create_model_from_pretrained("local-dir:path/to/this/folder")' in card
        assert "from transformers import" not in card

    def test_edits_of_both_towers_are_written_into_one_folder(self, plain, tmp_path):
        editor, spec = edit(plain)
        combined = spec.compose(edit(plain, "text")[1])
        editor.save_pretrained(tmp_path / "edited", combined)
        assert verify(tmp_path / "edited", plain).ok
        before, _ = read_raw(plain / WEIGHTS)
        after, _ = read_raw(tmp_path / "edited" / WEIGHTS)
        changed = {key.partition("resblocks")[0] for key in before if before[key] != after[key]}
        assert changed == {"visual.transformer.", "transformer."}

    def test_specs_of_another_tower_or_family_are_refused(self, plain, tmp_path):
        _, spec = edit(plain)
        _, of_text = edit(plain, "text")
        clip = SithEditor.from_pretrained(save_clip(tmp_path / "clip"))
        for model, other in ((clip.model, spec), (clip.model, of_text)):
            with pytest.raises((BaseMismatch, UnsupportedModel)), SithEditor.from_model(model).applied(other):
                pass
        clip.decompose(ConceptDictionary.from_texts(TEXTS), layers=[0])
        with pytest.raises(BaseMismatch, match="famil"):
            spec.compose(clip.edit().vectors(0.0, layers=[0], heads=[0]).spec)
        with pytest.raises((BaseMismatch, InputError)):
            clip.save_pretrained(tmp_path / "wrong", spec)
        assert not (tmp_path / "wrong").exists()
        with pytest.raises(UnsupportedModel, match="save-edited writes the edited folder"):
            export_adapter(spec, tmp_path / "adapter", "OpenClipModel")


class TestBothFormats:
    @pytest.fixture
    def both(self, tmp_path):
        """A folder as LAION's repositories have it: weights of transformers and of open_clip."""
        folder = save_clip(tmp_path / "both")
        open_clip_folder(folder, tokenizer=False)
        return folder

    def test_the_weights_of_transformers_are_edited_and_the_others_left_out(self, both, tmp_path):
        editor, spec = edit(both)
        assert type(editor.model).__name__ == "CLIPModel"
        saved = editor.save_pretrained(tmp_path / "edited", spec)
        assert saved.reasons[WEIGHTS] == "it holds weights without the edit"
        assert CONFIG in saved.left_out
        assert not (tmp_path / "edited" / WEIGHTS).exists()

    def test_a_folder_without_weights_of_transformers_is_of_open_clip(self, both, tmp_path):
        (both / "model.safetensors").unlink()
        editor, spec = edit(both)
        assert editor.tower.family == "open_clip"
        saved = editor.save_pretrained(tmp_path / "edited", spec)
        assert "config.json" in saved.left_out
        assert verify(tmp_path / "edited", both).ok

    def test_weights_of_timm_beside_it_are_left_out(self, plain, tmp_path):
        folder = shutil.copytree(plain, tmp_path / "timm")
        (folder / "config.json").write_text('{"architecture": "vit_base_patch32_clip_224"}')
        save_file({"cls_token": torch.ones(3)}, folder / "model.safetensors")
        editor, spec = edit(folder)
        assert editor.tower.family == "open_clip"
        saved = editor.save_pretrained(tmp_path / "edited", spec)
        assert saved.reasons["model.safetensors"] == "it holds weights without the edit"


class TestBadInput:
    def refused(self, folder, match, kind=InputError):
        with pytest.raises(kind, match=match) as caught:
            SithEditor.from_pretrained(folder)
        assert "\n" not in str(caught.value)

    def change(self, folder, **tensors):
        state = load_file(folder / WEIGHTS)
        state.update({name: tensor for name, tensor in tensors.items() if tensor is not None})
        for name in (name for name, tensor in tensors.items() if tensor is None):
            del state[name]
        save_file(state, folder / WEIGHTS)
        return folder

    @pytest.fixture
    def folder(self, plain, tmp_path):
        return shutil.copytree(plain, tmp_path / "m")

    def test_a_missing_bias_is_named(self, folder):
        name = "visual.transformer.resblocks.1.attn.out_proj.bias"
        self.refused(self.change(folder, **{name: None}), name)

    def test_separate_projections_are_refused_by_the_fused_name(self, folder):
        at = "visual.transformer.resblocks.0.attn."
        parts = {f"{at}{part}_proj_weight": torch.ones(32, 32) for part in "qkv"}
        self.refused(self.change(folder, **{f"{at}in_proj_weight": None}, **parts), f"{at}in_proj_weight")

    def test_grouped_heads_are_refused_by_the_tensor(self, folder):
        name = "visual.transformer.resblocks.0.attn.in_proj_weight"
        self.refused(self.change(folder, **{name: torch.ones(48, 32)}), rf"{name} has shape \[48, 32\]")

    def test_a_tensor_that_is_not_finite_is_named(self, folder):
        name = "visual.transformer.resblocks.0.attn.out_proj.weight"
        self.refused(self.change(folder, **{name: torch.full((32, 32), torch.nan)}), f"{name} holds NaN")

    def test_a_damaged_file_is_refused(self, folder):
        (folder / WEIGHTS).write_bytes(b"\x10\0\0\0\0\0\0\0{")
        self.refused(folder, "not a whole safetensors file")

    def test_only_a_pickle_is_refused_with_advice(self, folder):
        (folder / WEIGHTS).rename(folder / "open_clip_pytorch_model.bin")
        self.refused(folder, r"open_clip_model\.safetensors.*unpickles nothing", UnsupportedModel)

    def test_more_layers_than_the_file_has_are_refused_quickly(self, tmp_path):
        folder = open_clip_folder(tmp_path / "m")
        config = json.loads((folder / CONFIG).read_text())
        config["model_cfg"]["vision_cfg"]["layers"] = 10**9
        (folder / CONFIG).write_text(json.dumps(config))
        self.refused(
            folder, "open_clip_config.json has vision_config.num_hidden_layers 1000000000, but the weights have 3"
        )

    def test_a_replaced_layer_is_refused(self, plain):
        model = load_model(str(plain)).model
        check_function(model)
        model.visual.transformer.resblocks[1].attn.out_proj = torch.nn.Sequential(torch.nn.Linear(32, 32))
        with pytest.raises(UnsupportedModel, match=r"visual\.transformer\.resblocks\.1\.attn\.out_proj"):
            check_function(model)
