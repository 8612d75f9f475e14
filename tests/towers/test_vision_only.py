"""Towers without texts: DINOv2, DINOv3, MLCD. Read, factored, edited by number; the library is the judge."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sith_hf.checkpoint import export_adapter, revert, save_edited, verify
from sith_hf.concepts import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec, applied
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from tests.support import vision_models as make
from tests.support.explicit import CLIP_PARTS, DINO_PARTS, explicit, matrices
from tests.support.raw import read_raw, weight_files
from tests.support.tiny import clip_model, image_processor

# Name to a maker, the path of the layers in the model, their parts, and the name of an output projection on disk.
MODELS = {
    "dinov2": (make.dinov2, "encoder.layer", DINO_PARTS, "encoder.layer.{}.attention.output.dense"),
    "dinov2, swiglu": (
        lambda seed=0: make.dinov2(seed, use_swiglu_ffn=True),
        "encoder.layer", DINO_PARTS, "encoder.layer.{}.attention.output.dense",
    ),
    "dinov2, no qkv bias": (
        lambda seed=0: make.dinov2(seed, qkv_bias=False),
        "encoder.layer", DINO_PARTS, "encoder.layer.{}.attention.output.dense",
    ),
    "dinov2 classifier": (
        make.dinov2_classifier, "dinov2.encoder.layer", DINO_PARTS,
        "dinov2.encoder.layer.{}.attention.output.dense",
    ),
    "registers": (make.dinov2_registers, "encoder.layer", DINO_PARTS, "encoder.layer.{}.attention.output.dense"),
    "registers classifier": (
        make.dinov2_registers_classifier, "dinov2_with_registers.encoder.layer", DINO_PARTS,
        "dinov2_with_registers.encoder.layer.{}.attention.output.dense",
    ),
    "dinov3": (make.dinov3, "model.layer", DINO_PARTS, "layer.{}.attention.o_proj"),
    "mlcd": (make.mlcd, "encoder.layers", CLIP_PARTS, "encoder.layers.{}.self_attn.out_proj"),
}  # fmt: skip
EVERY = pytest.mark.parametrize("name", MODELS)
FORMS = pytest.mark.parametrize("fold", [True, False], ids=["folded", "plain"])
GAINS = {(0, 1, 0): 0.0, (1, 0, 2): -1.0, (1, 3, 1): 3.0, (2, 2, 7): 0.0}


def output(model, pixels):
    """What a model returns for pictures, in float64."""
    with torch.no_grad():
        found = model(pixel_values=pixels.to(model.dtype))
    return (found.logits if hasattr(found, "logits") else found.last_hidden_state).double()


def edit_of(editor, gains=GAINS, **options):
    """The spec of an edit by number."""
    editor.decompose(None, **options)
    draft = editor.edit()
    for (layer, head, vector), gain in gains.items():
        draft = draft.vectors(gain, layers=[layer], heads=[head], vectors=[vector])
    return draft.spec


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each model, saved with its processor."""
    made = {}
    for name, (maker, *_) in MODELS.items():
        made[name] = tmp_path_factory.mktemp("vision") / "base"
        maker(3).save_pretrained(made[name])
        image_processor().save_pretrained(made[name])
    return made


@EVERY
@FORMS
def test_a_decomposition_is_the_literal_svd(name, fold):
    maker, layers, parts, _ = MODELS[name]
    model = maker(1)
    found = SithEditor.from_model(model).decompose(None, fold=fold, rank=6)
    for number, layer in enumerate(model.get_submodule(layers)):
        literal = matrices(layer, parts, 4, fold=fold, write_centred=True)
        assert torch.allclose(found.singular_values[number].double(), literal.values[:, :6], atol=1e-5)
        for side, directions in (("write", literal.left.mT), ("read", literal.right)):
            cosine = (getattr(found, side)[number].double() * directions[:, :6]).sum(dim=-1)
            assert torch.allclose(cosine.abs(), torch.ones(4, 6, dtype=torch.float64), atol=1e-4)
    other = matrices(model.get_submodule(layers)[1], parts, 4, fold=not fold, write_centred=True)
    assert not torch.allclose(found.singular_values[1].double(), other.values[:, :6], atol=1e-3)


@EVERY
@FORMS
def test_an_edited_checkpoint_has_the_explicit_matrices(name, fold, folders, tmp_path):
    _, layers, parts, _ = MODELS[name]
    editor = SithEditor.from_pretrained(folders[name])
    editor.save_pretrained(tmp_path / "edited", edit_of(editor, fold=fold))
    kind = type(editor.model)
    loaded, report = kind.from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not any(report.values())
    pixels = make.pictures()
    wanted = output(explicit(editor.model, layers, parts, GAINS, heads=4, fold=fold), pixels)
    assert torch.allclose(output(loaded.double(), pixels), wanted, atol=1e-4)
    without = output(explicit(editor.model, layers, parts, {}, heads=4, fold=fold), pixels)
    assert torch.allclose(output(kind.from_pretrained(folders[name]).double(), pixels), without, atol=1e-4)
    assert (without - wanted).abs().max() > 1e-2


@EVERY
def test_only_the_edited_tensors_change_under_the_names_of_the_base(name, folders, tmp_path):
    editor = SithEditor.from_pretrained(folders[name])
    spec = edit_of(editor)
    saved = editor.save_pretrained(tmp_path / "edited", spec)
    stems = [MODELS[name][3].format(layer) for layer in (0, 1, 2)]
    names = {f"{stem}.{part}" for stem in stems for part in ("weight", "bias")}
    assert set(saved.changed) == names == spec.touched_keys
    before, after = ({k: v for f in weight_files(p) for k, v in read_raw(f)[0].items()} for p in (
        folders[name], tmp_path / "edited",
    ))  # fmt: skip
    assert before.keys() == after.keys()
    assert {key for key in before if before[key] != after[key]} == names
    found = verify(tmp_path / "edited", folders[name])
    assert (found.ok, found.edited) == (True, len(names))
    revert(tmp_path / "edited", tmp_path / "again")
    restored = type(editor.model).from_pretrained(tmp_path / "again")
    pixels = make.pictures()
    assert torch.allclose(output(restored, pixels), output(editor.model, pixels), atol=1e-4)


@EVERY
def test_an_edit_in_memory_is_the_saved_one_and_is_undone(name, folders, tmp_path):
    editor, pixels = SithEditor.from_pretrained(folders[name]), make.pictures()
    spec = edit_of(editor)
    EditSpec.from_pretrained(spec.save_pretrained(tmp_path).parent)
    editor.save_pretrained(tmp_path / "edited", spec)
    model = type(editor.model).from_pretrained(folders[name]).eval()
    before = output(model, pixels)
    with applied(model, EditSpec.from_pretrained(tmp_path)):
        inside = output(model, pixels)
    assert torch.equal(inside, output(type(model).from_pretrained(tmp_path / "edited").eval(), pixels))
    assert torch.equal(output(model, pixels), before)
    assert not torch.allclose(inside, before, atol=1e-2)


@pytest.mark.parametrize("name", ["dinov2", "registers classifier", "dinov3"])
def test_an_adapter_is_the_edit(name, folders, tmp_path):
    peft = pytest.importorskip("peft")
    editor, pixels = SithEditor.from_pretrained(folders[name]), make.pictures()
    spec = edit_of(editor)
    export_adapter(spec, tmp_path / "adapter", type(editor.model).__name__)
    wrapped = peft.PeftModel.from_pretrained(type(editor.model).from_pretrained(folders[name]), tmp_path / "adapter")
    with editor.applied(spec) as model:
        wanted = output(model, pixels)
    assert torch.allclose(output(wrapped.merge_and_unload().eval(), pixels), wanted, atol=1e-4)
    assert not torch.allclose(output(editor.model, pixels), wanted, atol=1e-2)
    # The title of the paper has it.
    assert "CLIP" not in (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8").split("@")[0]


# --- what has no text


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "mlcd"])
def test_words_are_refused_with_the_way_to_edit(name, folders):
    editor = SithEditor.from_pretrained(folders[name])
    words = ConceptDictionary.from_texts(["red", "sea", "dog", "car", "boat"])
    with pytest.raises(InputError, match=r"has no text.* by number"):
        editor.decompose(words)
    editor.decompose(None, layers=[-1])
    for ask in (lambda: editor.suppress("sea"), lambda: editor.edit().suppress("sea", threshold=0.5)):
        with pytest.raises(InputError, match=r"has no text.* by number"):
            ask()
    with pytest.raises(InputError, match="by number"):
        editor.find("sea")
    assert editor.edit().vectors(0.0, heads=[0]).impact.drift is None
    with pytest.raises(InputError, match="trained without texts"):
        SithEditor.from_model(editor.model, text_model=clip_model())


def test_the_card_names_the_family_and_no_words(folders, tmp_path):
    editor = SithEditor.from_pretrained(folders["dinov2 classifier"])
    editor.save_pretrained(tmp_path / "edited", edit_of(editor))
    card = (tmp_path / "edited" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-classification" in card
    assert "- dinov2\n" in card
    assert "- clip\n" not in card
    assert "chosen by number" in card
    assert "explained by concepts" not in card
    assert "fidelity" not in card
    editor = SithEditor.from_pretrained(folders["dinov2"])
    editor.save_pretrained(tmp_path / "other", edit_of(editor))
    assert "pipeline_tag: image-feature-extraction" in (tmp_path / "other" / "README.md").read_text(encoding="utf-8")


# --- what does not fit


def test_an_edit_of_one_family_is_refused_for_another(folders, tmp_path):
    spec = edit_of(SithEditor.from_pretrained(folders["dinov2"]))
    with pytest.raises(BaseMismatch, match=r"family dinov2.*family dinov3_vit"):
        save_edited(folders["dinov3"], spec, tmp_path / "edited")
    assert not (tmp_path / "edited").exists()
    for other in ("dinov3", "mlcd"):
        with (
            pytest.raises((BaseMismatch, UnsupportedModel)),
            applied(SithEditor.from_pretrained(folders[other]).model, spec),
        ):
            pass
    with pytest.raises(BaseMismatch, match="has other values"):
        save_edited(folders["dinov2, swiglu"], spec, tmp_path / "edited")


def changed_copy(folder, target, change):
    """A copy of a checkpoint with other tensors."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    return target


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("dinov2", "encoder.layer.1.attention.attention.value.weight"),
        ("dinov2", "encoder.layer.1.attention.output.dense.weight"),
        ("dinov2", "encoder.layer.1.layer_scale1.lambda1"),
        ("dinov3", "layer.1.attention.v_proj.weight"),
        ("mlcd", "encoder.layers.1.self_attn.out_proj.weight"),
    ],
)
def test_a_tensor_of_another_shape_or_a_missing_one_is_named(name, key, folders, tmp_path):
    narrow = changed_copy(folders[name], tmp_path / "narrow", lambda t: t.update({key: t[key][:16].clone()}))
    with pytest.raises(InputError, match=key):
        SithEditor.from_pretrained(narrow)
    less = changed_copy(folders[name], tmp_path / "less", lambda t: t.pop(key))
    with pytest.raises(InputError, match=key):
        SithEditor.from_pretrained(less)


def test_a_part_that_transformers_splits_must_be_there(folders, tmp_path):
    key = "encoder.layer.1.mlp.weights_in.weight"
    assert key in load_file(folders["dinov2, swiglu"] / "model.safetensors")
    less = changed_copy(folders["dinov2, swiglu"], tmp_path / "less", lambda t: t.pop(key))
    with pytest.raises(InputError, match=key):
        SithEditor.from_pretrained(less)


def test_a_layer_scale_of_zero_cannot_be_written():
    model = make.dinov2(2)
    with torch.no_grad():
        model.encoder.layer[1].layer_scale1.lambda1[3] = 0
    editor = SithEditor.from_model(model)
    editor.decompose(None)
    with pytest.raises(UnsupportedModel, match=r"layer\.1\.layer_scale1\.lambda1 has zeros"):
        edit_of(editor, {(1, 0, 0): 0.0})
    assert edit_of(editor, {(0, 0, 0): 0.0})


def test_a_weight_that_is_not_finite_is_named_as_on_disk():
    model = make.dinov2(2)
    with torch.no_grad():
        model.encoder.layer[1].attention.v_proj.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"^encoder\.layer\.1\.attention\.attention\.value\.weight holds NaN"):
        SithEditor.from_model(model)


def test_a_missing_output_bias_that_an_edit_needs_is_named():
    model = make.dinov3(2, proj_bias=False)
    with pytest.raises(UnsupportedModel, match=r"layer\.0\.attention\.o_proj\.weight has no bias.* cannot be written$"):
        edit_of(SithEditor.from_model(model))
    bare = make.dinov3(2, proj_bias=False, value_bias=False)
    with pytest.raises(UnsupportedModel, match=r"cannot be written; decompose with fold=False \(--no-fold\)$"):
        edit_of(SithEditor.from_model(bare))
    spec = edit_of(SithEditor.from_model(bare), fold=False)
    pixels = make.pictures()
    with applied(bare, spec):
        wanted = explicit(
            make.dinov3(2, proj_bias=False, value_bias=False), "model.layer", DINO_PARTS, GAINS, heads=4, fold=False
        )
        assert torch.allclose(output(bare, pixels), output(wanted, pixels), atol=1e-4)


def test_sizes_for_each_side_are_read(tmp_path):
    make.dinov2(1, image_size=[16, 16], patch_size=[8, 8]).save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    assert config["image_size"] == [16, 16]
    assert SithEditor.from_pretrained(tmp_path / "base").decompose(None, layers=[0]).rank == 8
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "image_size": [16, "x"]}))
    with pytest.raises(InputError, match="image_size"):
        SithEditor.from_pretrained(tmp_path / "base")


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "llava"])
def test_a_model_must_compute_what_its_parameters_say(name):
    model = {"dinov2": lambda: make.dinov2(1, image_size=[16, 16]), "dinov3": make.dinov3, "llava": make.llava_model}[
        name
    ]()
    paths = {"dinov2": "encoder.layer", "dinov3": "model.layer", "llava": "model.vision_tower.encoder.layers"}
    layer = model.get_submodule(paths[name])[1]
    watched = layer.register_forward_hook(lambda module, args, output: None)
    SithEditor.from_model(model)
    watched.remove()
    layer.register_forward_hook(lambda module, args, output: output * 1.1)
    with pytest.raises(UnsupportedModel, match=r"layers?\.1 has a forward hook"):
        SithEditor.from_model(model)
