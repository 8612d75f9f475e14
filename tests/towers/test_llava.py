"""LLaVA: its vision tower edited inside its own checkpoint, and explained by the companion that the tower is from."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration, SiglipConfig, SiglipModel

from sith_hf.checkpoint import export_adapter, revert, save_edited, verify
from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec, applied
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.images import DatasetSettings, mean_of_images
from sith_hf.pursuit import Pursuit
from tests.support.explicit import CLIP_PARTS, explicit, matrices
from tests.support.raw import read_raw, weight_files
from tests.support.tiny import byte_tokenizer, clip_model, image_processor, randomise
from tests.support.vision_models import PATCH, PROMPT, SIZES, generated, llava_model, pictures

LAYERS = "model.vision_tower.encoder.layers"
WORDS = ["red", "blue", "sand", "boat", "night", "forest", "snow", "wheel", "dog"]
GAINS = {(0, 1, 0): 0.0, (1, 0, 2): -1.0, (2, 3, 1): 3.0, (2, 2, 7): 0.0}
FORMS = pytest.mark.parametrize("fold", [True, False], ids=["folded", "plain"])
TOWERS = pytest.mark.parametrize("tower", ["clip", "siglip"])


def edit_of(editor, gains=GAINS, concepts=None, **options):
    """The spec of an edit by number."""
    editor.decompose(concepts, **options)
    draft = editor.edit()
    for (layer, head, vector), gain in gains.items():
        draft = draft.vectors(gain, layers=[layer], heads=[head], vectors=[vector])
    return draft.spec


def logits(model):
    """What a LLaVA computes for a prompt with a picture, in float64."""
    inputs = {"input_ids": torch.tensor([PROMPT]), "pixel_values": pictures(1).to(model.dtype)}
    with torch.no_grad():
        return model(**inputs).logits.double()


def companion(**vision):
    """A CLIP model of the same widths."""
    return clip_model(9, **{"num_hidden_layers": 4, **vision})


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """An editor of ``llava_model(2)`` with a companion, and a decomposition of its last two layers."""
    tokenizer = byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))
    editor = SithEditor.from_model(llava_model(2), tokenizer, text_model=companion())
    editor.decompose(ConceptDictionary.from_texts(WORDS), pursuit=Pursuit(sparsity=2), layers=[-2, -1])
    return editor


# The names that releases of transformers give the tensors, from those that 5 writes.
NAMES = {
    "as 5 saves it": lambda key: key,
    "as 4.5x saves it": lambda key: key.replace("vision_tower.", "vision_tower.vision_model."),
    "as the modules of 4.52": lambda key: "model." + key.replace("vision_tower.", "vision_tower.vision_model.")
    if not key.startswith("language_model")
    else key.replace("language_model.lm_head", "lm_head").replace("language_model.model", "model.language_model"),
    "as the modules of 5": lambda key: f"model.{key}"
    if not key.startswith("language_model")
    else key.replace("language_model.lm_head", "lm_head").replace("language_model.model", "model.language_model"),
}  # fmt: skip


def renamed(folder, target, rename):
    """A copy of a checkpoint with other names of its tensors."""
    shutil.copytree(folder, target)
    tensors = {rename(key): tensor for key, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """LLaVA with each tower, saved in shards or not, and by each set of names."""
    place, made = tmp_path_factory.mktemp("llava"), {}
    for tower in ("clip", "siglip"):
        made[tower] = place / tower
        llava_model(3, tower).save_pretrained(made[tower])
        image_processor().save_pretrained(made[tower])
    made["sharded"] = place / "sharded"
    llava_model(3).save_pretrained(made["sharded"], max_shard_size="40KB")
    assert len(weight_files(made["sharded"])) > 2
    for name, rename in NAMES.items():
        made[name] = renamed(made["clip"], place / name.replace(" ", "-"), rename)
    older = NAMES["as 4.5x saves it"]
    made["siglip as 4.5x saves it"] = renamed(made["siglip"], place / "older-siglip", older)
    return made


# --- the algebra


@TOWERS
@FORMS
def test_a_decomposition_is_the_literal_svd(tower, fold):
    model = llava_model(1, tower)
    found = SithEditor.from_model(model).decompose(None, fold=fold)
    for number, layer in enumerate(model.get_submodule(LAYERS)):
        # The projector reads the hidden state without a norm: its mean counts.
        literal = matrices(layer, CLIP_PARTS, 4, fold=fold, write_centred=False)
        assert torch.allclose(found.singular_values[number].double(), literal.values[:, :8], atol=1e-5)
        cosine = (found.write[number].double() * literal.left.mT[:, :8]).sum(dim=-1)
        assert torch.allclose(cosine.abs(), torch.ones(4, 8, dtype=torch.float64), atol=1e-4)
    centred = matrices(model.get_submodule(LAYERS)[0], CLIP_PARTS, 4, fold=True, write_centred=True)
    assert not torch.allclose(found.singular_values[0].double(), centred.values[:, :8], atol=1e-4)


@TOWERS
@FORMS
def test_an_edited_checkpoint_has_the_explicit_matrices(tower, fold, folders, tmp_path):
    editor = SithEditor.from_pretrained(folders[tower])
    editor.save_pretrained(tmp_path / "edited", edit_of(editor, fold=fold))
    loaded, report = LlavaForConditionalGeneration.from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not any(report.values())
    options = {"heads": 4, "fold": fold, "write_centred": False}
    wanted = logits(explicit(editor.model, LAYERS, CLIP_PARTS, GAINS, **options))
    assert torch.allclose(logits(loaded.double()), wanted, atol=1e-4)
    without = logits(explicit(editor.model, LAYERS, CLIP_PARTS, {}, **options))
    assert (without - wanted).abs().max() > 1e-2


@TOWERS
def test_removing_every_vector_of_a_head_silences_it(tower):
    model, other = llava_model(1, tower), llava_model(1, tower)
    spec = edit_of(SithEditor.from_model(model), {(2, 1, v): 0.0 for v in range(8)})
    layer = other.get_submodule(LAYERS)[2]
    with torch.no_grad():  # only the constant part of the head stays
        constant = layer.self_attn.v_proj.weight[8:16] @ layer.layer_norm1.bias + layer.self_attn.v_proj.bias[8:16]
        layer.self_attn.out_proj.bias += layer.self_attn.out_proj.weight[:, 8:16] @ constant
        layer.self_attn.out_proj.weight[:, 8:16] = 0
    before = logits(model)
    with applied(model, spec):
        assert torch.allclose(logits(model), logits(other), atol=1e-4)
    assert not torch.allclose(before, logits(other), atol=1e-2)


# --- the checkpoint


@pytest.mark.parametrize("name", [*NAMES, "sharded", "siglip", "siglip as 4.5x saves it"])
def test_only_the_edited_tensors_change_under_the_names_of_the_base(name, folders, tmp_path):
    editor = SithEditor.from_pretrained(folders[name])
    spec = edit_of(editor)
    saved = editor.save_pretrained(tmp_path / "edited", spec)
    wanted = {f"{stem}.{layer}.self_attn.out_proj.{part}" for stem in ("vision_tower.vision_model.encoder.layers",)
              for layer in (0, 1, 2) for part in ("weight", "bias")}  # fmt: skip
    assert set(saved.changed) == wanted == spec.touched_keys
    before, after = ({k: v for f in weight_files(p) for k, v in read_raw(f)[0].items()} for p in (
        folders[name], tmp_path / "edited",
    ))  # fmt: skip
    assert before.keys() == after.keys()
    edited = {key for key in before if before[key] != after[key]}
    assert len(edited) == 6
    assert all(".encoder.layers." in key and ".self_attn.out_proj." in key for key in edited)
    assert [path.name for path in weight_files(folders[name])] == [
        path.name for path in weight_files(tmp_path / "edited")
    ]
    found = verify(tmp_path / "edited", folders[name])
    assert (found.ok, found.edited) == (True, 6)
    _, report = LlavaForConditionalGeneration.from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not any(report.values())


def test_one_spec_fits_every_set_of_names(folders, tmp_path):
    spec = edit_of(SithEditor.from_pretrained(folders["clip"]))
    for number, name in enumerate([*NAMES, "sharded"]):
        save_edited(folders[name], spec, tmp_path / str(number))
        assert verify(tmp_path / str(number), folders[name], spec).ok
    with pytest.raises(BaseMismatch):
        save_edited(folders["siglip"], spec, tmp_path / "other")


def test_a_llava_with_a_tied_head_is_read_and_edited(tmp_path):
    llava_model(4, text={"tie_word_embeddings": True}).save_pretrained(tmp_path / "base")
    assert not any("lm_head" in key for key in load_file(tmp_path / "base" / "model.safetensors"))
    editor = SithEditor.from_pretrained(tmp_path / "base")
    editor.save_pretrained(tmp_path / "edited", edit_of(editor))
    assert verify(tmp_path / "edited", tmp_path / "base").ok


def test_the_words_that_a_llava_writes(tmp_path):
    llava_model(4).save_pretrained(tmp_path / "base")
    editor = SithEditor.from_pretrained(tmp_path / "base")
    strong = edit_of(editor, {(n, h, v): -3.0 for n in (0, 1, 2) for h in range(4) for v in range(8)})
    editor.save_pretrained(tmp_path / "edited", strong)
    revert(tmp_path / "edited", tmp_path / "again")
    written = generated(LlavaForConditionalGeneration.from_pretrained(tmp_path / "base"))
    assert generated(LlavaForConditionalGeneration.from_pretrained(tmp_path / "again")) == written
    other = generated(LlavaForConditionalGeneration.from_pretrained(tmp_path / "edited"))
    assert other != written
    with editor.applied(strong) as model:
        assert generated(model) == other
    assert generated(editor.model) == written


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays(dtype, tmp_path):
    llava_model(4).to(dtype).save_pretrained(tmp_path / "base")
    editor = SithEditor.from_pretrained(tmp_path / "base")
    editor.save_pretrained(tmp_path / "edited", edit_of(editor))
    assert verify(tmp_path / "edited", tmp_path / "base").ok
    found = load_file(tmp_path / "edited" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {dtype}


def test_an_adapter_is_the_edit(folders, tmp_path):
    peft = pytest.importorskip("peft")
    editor = SithEditor.from_pretrained(folders["clip"])
    spec = edit_of(editor)
    export_adapter(spec, tmp_path / "adapter", "LlavaForConditionalGeneration")
    base = LlavaForConditionalGeneration.from_pretrained(folders["clip"])
    wrapped = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().eval()
    with editor.applied(spec) as model:
        wanted = logits(model)
    assert torch.allclose(logits(wrapped), wanted, atol=1e-4)
    assert not torch.allclose(logits(editor.model), wanted, atol=1e-2)


def test_the_card_names_its_pipeline(folders, tmp_path):
    editor = SithEditor.from_pretrained(folders["clip"])
    editor.save_pretrained(tmp_path / "edited", edit_of(editor))
    card = (tmp_path / "edited" / "README.md").read_text(encoding="utf-8")
    for line in ("library_name: transformers", "pipeline_tag: image-text-to-text", "- llava"):
        assert f"{line}\n" in card
    assert "LlavaForConditionalGeneration.from_pretrained(" in card
    assert "- clip\n" not in card


# --- the hidden state that LLaVA reads


@pytest.mark.parametrize(
    ("read", "tower"),
    [*((read, "clip") for read in (-2, -1, 1, [3, 1], [-3, 0], -5)), (-2, "siglip"), (-1, "siglip")],
)
def test_layers_after_the_last_hidden_state_are_inert(read, tower):
    model = llava_model(1, tower, vision_feature_layer=read)
    editor, before = SithEditor.from_model(model), logits(model)
    editor.decompose(None)
    moved = []
    for number, layer in enumerate(model.get_submodule(LAYERS)):
        kept = layer.self_attn.out_proj.weight.detach().clone()
        with torch.no_grad():
            layer.self_attn.out_proj.weight += 1
            moved.append(not torch.equal(logits(model), before))
            layer.self_attn.out_proj.weight.copy_(kept)
        draft = editor.edit().vectors(0.0, layers=[number])
        if moved[-1]:
            assert draft.spec.layers == [number]
        else:
            with pytest.raises(UnsupportedModel, match=f"layer {number} would do nothing.*vision_feature_layer"):
                draft.spec  # noqa: B018
    assert sorted(editor.tower.inert) == [number for number, seen in enumerate(moved) if not seen]


@pytest.mark.parametrize("read", [5, -6, [], [-2, 9]])
def test_a_hidden_state_that_is_not_there_is_refused(read, folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vision_feature_layer": read}))
    with pytest.raises(InputError, match="vision_feature_layer"):
        SithEditor.from_pretrained(folder)


def test_a_spec_made_elsewhere_for_an_inert_layer_is_refused(folders, tmp_path):
    editor = SithEditor.from_pretrained(folders["clip"])
    inert, editor.tower.__dict__["inert"] = editor.tower.inert, {}
    assert inert.keys() == {3}
    spec = edit_of(editor, {(3, 0, 0): 0.0})
    with pytest.raises(UnsupportedModel, match="layer 3 would do nothing"):
        save_edited(folders["clip"], spec, tmp_path / "edited")
    model = llava_model(3)
    with pytest.raises(UnsupportedModel, match="layer 3 would do nothing"), applied(model, spec):
        pass
    assert not (tmp_path / "edited").exists()
    shifted = shutil.copytree(folders["clip"], tmp_path / "base")
    config = json.loads((shifted / "config.json").read_text())
    (shifted / "config.json").write_text(json.dumps({**config, "vision_feature_layer": -1}))
    with pytest.raises(BaseMismatch, match=r"vision_feature_layer -2.*vision_feature_layer -1"):
        save_edited(shifted, spec, tmp_path / "edited")


def test_rules_by_words_leave_inert_layers_out(explained):
    assert explained.decomposition.layers == (2, 3)
    for draft in (explained.suppress("boat", top=20), explained.edit().vectors(0.0, heads=[1])):
        assert draft.spec.layers == [2]
    with pytest.raises(UnsupportedModel, match="layer 3 would do nothing"):
        explained.suppress("boat", top=5, layers=[3]).spec  # noqa: B018
    alone = SithEditor.from_model(explained.model)
    alone.decompose(None, layers=[-1])
    with pytest.raises(UnsupportedModel, match="layer 3 would do nothing"):
        alone.edit().vectors(0.0, heads=[1])


# --- the companion


def test_words_are_the_companions_reading_and_are_recorded_so(explained, tmp_path):
    editor = explained
    (way, _), *others = editor.tower.readouts
    assert not others
    assert not way.exact
    assert "companion" in editor.decomposition.settings["readout"]
    assert "hidden state -2" in editor.decomposition.settings["readout"]
    clip, directions = companion(), editor.decomposition.write.double()
    clip = clip.double()
    with torch.no_grad():
        wanted = clip.visual_projection(clip.vision_model.post_layernorm(directions))
    wanted = torch.nn.functional.normalize(wanted, dim=-1)
    assert torch.allclose(editor.tower.to_joint(directions), wanted, atol=1e-6)
    spec = editor.suppress("boat", top=4).spec
    assert all(key.startswith("vision_tower.") for key in spec.base.sha256)
    spec.save_pretrained(tmp_path / "spec")
    with applied(editor.model, EditSpec.from_pretrained(tmp_path / "spec")):
        assert not torch.allclose(logits(editor.model), logits(llava_model(2)), atol=1e-4)


def test_a_companion_of_another_tower_is_refused(tmp_path):
    tokenizer = byte_tokenizer(tmp_path / "tokenizer")
    with pytest.raises(InputError, match="width 64, this tower has width 32"):
        SithEditor.from_model(llava_model(1), tokenizer, text_model=companion(hidden_size=64))
    with pytest.raises(InputError, match=r"CLIPModel.*siglip_vision_model"):
        SithEditor.from_model(llava_model(1, "siglip"), tokenizer, text_model=companion())


def test_without_a_companion_it_says_what_to_name(explained):
    alone = SithEditor.from_model(llava_model(2))
    with pytest.raises(InputError, match=r"text_model=.*--text-model"):
        alone.decompose(ConceptDictionary.from_texts(WORDS))
    with pytest.raises(InputError, match=r"text_model=.*--text-model"):
        alone.with_decomposition(explained.decomposition)
    with pytest.raises(BaseMismatch, match="has other values"):
        SithEditor.from_model(llava_model(5)).with_decomposition(explained.decomposition)
    with pytest.raises(BaseMismatch):
        SithEditor.from_model(llava_model(5)).with_decomposition(alone.decompose(None))
    alone.decompose(None)
    with pytest.raises(InputError, match="text_model="):
        alone.suppress("boat")
    assert alone.edit().vectors(0.0, layers=[0], heads=[0]).impact.drift is None


def siglip(**vision):
    """A random SiglipModel whose vision tower has the widths of the LLaVA's."""
    text = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = SiglipConfig(
        text_config={**text, "vocab_size": 50, "max_position_embeddings": 16, "projection_size": 32},
        vision_config={**SIZES, "num_hidden_layers": 4, **vision},
    )
    return randomise(SiglipModel(config), 9)


def test_the_words_of_a_siglip_tower_go_through_the_companions_pool():
    model = llava_model(2, "siglip")
    editor = SithEditor.from_model(model, text_model=siglip())
    assert len(editor.tower.layers) == 4
    found = editor.decompose(None, layers=[0, 2])
    assert not any("head" in name for name in found.base.sha256 if name.startswith("vision_tower."))
    whole = SithEditor.from_model(siglip()).tower
    directions = found.write.double()
    assert torch.allclose(editor.tower.to_joint(directions), whole.to_joint(directions, layer=0), atol=1e-9)
    assert not torch.allclose(editor.tower.to_joint(directions), whole.to_joint(directions, layer=4), atol=1e-2)
    assert "companion" in editor.tower.readout().title
    with pytest.raises(InputError, match=r"SiglipModel.*clip_vision_model"):
        SithEditor.from_model(llava_model(2), text_model=siglip())


def test_it_has_no_embeddings_of_images(explained, tmp_path):
    for number in range(3):
        Image.new("RGB", (20, 20), (40 * number, 90, 10)).save(tmp_path / f"{number}.png")
    with pytest.raises(InputError, match="embeds no images in a joint space"):
        mean_of_images(explained, DatasetSettings(dataset=str(tmp_path)), processor=image_processor())


# --- what does not fit


def test_an_edit_of_the_companion_is_refused_by_its_family(folders, tmp_path):
    clip = companion()
    llava = llava_model(3)
    llava.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    llava.save_pretrained(tmp_path / "base")
    editor = SithEditor.from_model(clip)
    spec = edit_of(editor)
    with pytest.raises(BaseMismatch, match=r"family clip.*family llava"):
        save_edited(tmp_path / "base", spec, tmp_path / "edited")
    with pytest.raises((BaseMismatch, UnsupportedModel)), applied(llava, spec):
        pass
    own = edit_of(SithEditor.from_model(llava))
    with pytest.raises((BaseMismatch, UnsupportedModel)), applied(clip, own):
        pass
    with pytest.raises(BaseMismatch, match="do not combine"):
        own.compose(replace(spec, base=own.base))


@pytest.mark.parametrize(
    "key", ["encoder.layers.1.self_attn.v_proj.weight", "encoder.layers.0.self_attn.out_proj.bias"]
)
def test_a_tensor_of_another_shape_or_a_missing_one_is_named(key, folders, tmp_path):
    full = f"vision_tower.{key}"
    for change in (lambda t: t.update({full: t[full][:16].clone()}), lambda t: t.pop(full)):
        folder = shutil.copytree(folders["clip"], tmp_path / str(len(list(tmp_path.iterdir()))))
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(InputError, match=f"vision_tower.vision_model.{key}"):
            SithEditor.from_pretrained(folder)


@pytest.mark.parametrize("kind", ["pixtral", "siglip2_vision_model", "dinov2"])
def test_another_tower_is_refused_by_its_kind(kind, folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] = {"model_type": kind, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModel, match=f"'{kind}'.*clip_vision_model, siglip_vision_model"):
        SithEditor.from_pretrained(folder)


def test_other_models_that_describe_pictures_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["clip"], tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    for kind in ("llava_next", "vipllava", "paligemma"):
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))
        with pytest.raises(UnsupportedModel, match=f"'{kind}' is not supported.*upported.*llava"):
            SithEditor.from_pretrained(folder)
    assert PATCH in PROMPT


@pytest.mark.parametrize("part", ["vision_config", "text_config"])
def test_more_layers_than_any_model_has_are_refused_at_once(part, tmp_path):
    llava_model().save_pretrained(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    raw[part]["num_hidden_layers"] = 2_000_000_000
    (tmp_path / "config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match="but the weights have"):
        SithEditor.from_pretrained(tmp_path)
