"""Families with CLIP's vision keys: MetaCLIP 2, AltCLIP, Chinese-CLIP and CLIPSeg, each through the public surface."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file

from sith_hf import ConceptDictionary, Decomposition, EditSpec, SithEditor
from sith_hf.checkpoint import verify
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.pursuit import Pursuit
from sith_hf.towers import encode_texts, read_tower
from tests.support.families import (
    CLASSES,
    TOKENIZERS,
    TOWERS,
    WORDS,
    encoder_of,
    literal_edit,
    make,
    save,
    text_features,
    typed_bert,
    whole,
)
from tests.support.raw import weight_files

WHOLE = {family: names[0] for family, names in CLASSES.items()}
SEGMENTATION = "CLIPSegForImageSegmentation"
EVERY = [
    (family, name, kind)
    for family, names in CLASSES.items()
    for name in names
    for kind in TOWERS[family]
    if kind.title() in name or not ("Vision" in name or "Text" in name)
]
IDS = [f"{name}-{kind}" for _, name, kind in EVERY]


def opened(folder, family, name, kind, tmp_path):
    """An editor of one tower, with the whole model of a tower alone, and a dictionary."""
    editor = SithEditor.from_pretrained(folder, tower=kind)
    companion = None
    if "Vision" in name or "Text" in name:
        companion = tmp_path / "companion"
        if not companion.exists():
            save(family, WHOLE[family], companion, seed=9)
        editor = SithEditor.from_pretrained(folder, tower=kind, text_model=companion)
    return editor


def decomposed(editor, **fields):
    return editor.decompose(
        ConceptDictionary.from_texts(["dog", "red boat", "ocean", "a car"]), pursuit=Pursuit(sparsity=2), **fields
    )


def outputs(model, kind):
    """What a model computes for random pictures or texts: states and pooled output of a tower, in float64."""
    generator = torch.Generator().manual_seed(5)
    model = copy.deepcopy(model).double().eval()
    tower = getattr(whole(model), f"{kind}_model", model)
    if kind == "vision":
        inputs = {"pixel_values": torch.randn(3, 3, 16, 16, generator=generator, dtype=torch.float64)}
    else:
        ids = torch.randint(3, model.config.get_text_config().vocab_size, (3, 7), generator=generator)
        ids[:, -1] = tower.config.eos_token_id
        inputs = {"input_ids": ids}
    with torch.no_grad():
        found = tower(**inputs)
    return torch.cat([found.last_hidden_state.flatten(), found.pooler_output.flatten()])


# --- an edited checkpoint


@pytest.mark.parametrize("fold", [True, False], ids=["folded", "plain"])
@pytest.mark.parametrize(("family", "name", "kind"), EVERY, ids=IDS)
def test_an_edited_checkpoint_is_a_forward_with_edited_matrices(family, name, kind, fold, tmp_path):
    base = save(family, name, tmp_path / "base", max_shard_size="20KB" if fold else "1GB")
    assert (len(weight_files(base)) > 1) == fold
    editor = opened(base, family, name, kind, tmp_path)
    count = len(editor.tower.layers)
    decomposition = decomposed(editor, fold=fold)
    gains = {(count - 1, 0, 0): 0.0, (count - 1, 1, 1): -1.0, (0, 1, 2): 3.0}
    edit = editor.edit()
    for (layer, head, vector), gain in gains.items():
        edit = edit.vectors(gain, layers=[layer], heads=[head], vectors=[vector])
    spec = edit.spec
    assert (spec.tower, spec.place.family) == (kind, family)
    assert EditSpec.from_pretrained(spec.save_pretrained(tmp_path / "spec").parent) == spec
    editor.save_pretrained(tmp_path / "edited", spec)
    assert verify(tmp_path / "edited", base).ok

    plain, report = getattr(transformers, name).from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    unedited = editor.model
    wanted = outputs(literal_edit(unedited, kind, gains, fold=fold), kind)
    torch.testing.assert_close(outputs(plain, kind), wanted, atol=1e-4, rtol=0)
    assert (outputs(unedited, kind) - wanted).abs().max() > 0.02  # the control: the edit is not small
    with editor.applied(spec) as model:
        torch.testing.assert_close(outputs(model, kind), outputs(plain, kind), atol=0, rtol=0)

    # Everything else has its bits.
    before, after = unedited.state_dict(), plain.state_dict()
    differing = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(differing) == len(spec.touched_keys) == 4
    assert all(".self_attn.out_proj." in key for key in differing)

    editor.revert  # noqa: B018
    SithEditor.from_pretrained(tmp_path / "edited", tower=kind).revert(tmp_path / "reverted")
    again = getattr(transformers, name).from_pretrained(tmp_path / "reverted").state_dict()
    for key in before:
        torch.testing.assert_close(again[key], before[key], atol=1e-6, rtol=0)
    assert decomposition.tower == kind


@pytest.mark.parametrize(("family", "name", "kind"), EVERY, ids=IDS)
def test_a_decomposition_is_the_svd_of_the_matrices(family, name, kind, tmp_path):
    editor = opened(save(family, name, tmp_path / "base"), family, name, kind, tmp_path)
    found = decomposed(editor, fold=False, centre=False)
    path = found.save_pretrained(tmp_path / "decomposition")
    assert Decomposition.from_pretrained(path).tower == kind
    for layer, part in enumerate(encoder_of(editor.model, kind).layers):
        attention = part.self_attn
        width = attention.head_dim
        for head in range(attention.num_heads):
            rows = slice(head * width, (head + 1) * width)
            matrix = attention.out_proj.weight.detach().double()[:, rows] @ attention.v_proj.weight.double()[rows]
            values = torch.linalg.svdvals(matrix)[:width]
            torch.testing.assert_close(found.singular_values[layer, head].double(), values, atol=1e-5, rtol=1e-5)
            rebuilt = (found.write[layer, head].T * found.singular_values[layer, head]) @ found.read[layer, head]
            torch.testing.assert_close(rebuilt.double(), matrix, atol=1e-5, rtol=0)
    joint = editor.tower.to_joint(found.write[0, 0])
    attribute = "visual_projection" if kind == "vision" else "text_projection"
    holder = whole(editor.model)
    projection = getattr(holder if hasattr(holder, attribute) else whole(editor.companion.model), attribute).weight
    norm = getattr(whole(editor.model), f"{kind}_model", editor.model)
    norm = norm.post_layernorm if kind == "vision" else norm.final_layer_norm
    wanted = torch.nn.functional.normalize(norm(found.write[0, 0]) @ projection.T, dim=-1)
    torch.testing.assert_close(joint, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "kind"), [(family, kind) for family in CLASSES for kind in TOWERS[family]])
def test_edits_of_other_places_are_refused(family, kind, tmp_path):
    editor = SithEditor.from_pretrained(save(family, WHOLE[family], tmp_path / "base"), tower=kind)
    decomposed(editor)
    spec = editor.edit().vectors(0.0, layers=[0], heads=[0], vectors=[0]).spec
    for other in CLASSES:
        if other != family:
            folder = save(other, WHOLE[other], tmp_path / other)
            with pytest.raises((BaseMismatch, UnsupportedModel, InputError)):
                SithEditor.from_pretrained(folder).save_pretrained(tmp_path / "no", spec)
            assert not (tmp_path / "no").exists()
    with pytest.raises(BaseMismatch):
        SithEditor.from_pretrained(save(family, WHOLE[family], tmp_path / "seed", seed=3)).save_pretrained(
            tmp_path / "no", spec
        )


@pytest.mark.parametrize(("family", "name"), [(f, n) for f in CLASSES for n in CLASSES[f] if "Text" not in n])
def test_a_bad_shape_is_refused_by_the_name_of_the_tensor(family, name, tmp_path):
    model = make(family, name, TOKENIZERS[family](tmp_path / "t"))
    encoder_of(model, "vision").layers[1].self_attn.out_proj.bias = None
    with pytest.raises(UnsupportedModel, match=r"encoder\.layers\.1\.self_attn\.out_proj"):
        read_tower(model)


# --- files of other releases


@pytest.mark.parametrize("family", CLASSES)
def test_names_of_transformers_4_are_read_and_kept(family, tmp_path):
    """Its files of a vision tower alone have a prefix, which transformers 5 has not in memory and loads."""
    name = WHOLE[family].replace("Model", "VisionModel")
    base = save(family, name, tmp_path / "base")
    older = tmp_path / "older"
    older.mkdir()
    from safetensors.torch import save_file

    tensors = load_file(base / "model.safetensors")
    assert not any(key.startswith("vision_model.") for key in tensors)
    save_file({f"vision_model.{key}": value for key, value in tensors.items()}, older / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    (older / "config.json").write_bytes((base / "config.json").read_bytes())
    companion = save(family, WHOLE[family], tmp_path / "companion", seed=9)
    written = {}
    for folder in (base, older):
        editor = SithEditor.from_pretrained(folder, text_model=companion)
        decomposed(editor)
        spec = editor.edit().vectors(0.0, layers=[0], heads=[0], vectors=[0]).spec
        editor.save_pretrained(tmp_path / f"{folder.name}-edited", spec)
        written[folder.name] = load_file(tmp_path / f"{folder.name}-edited" / "model.safetensors")
        assert spec.touched_keys <= written[folder.name].keys()
    assert written["base"].keys() == written["older"].keys()
    assert all(torch.equal(written["base"][key], written["older"][key]) for key in written["base"])


def test_altclip_saved_by_either_release_gets_the_names_that_both_load(tmp_path):
    """Release 5 saves ``vision_model.encoder.layer.0``, which 4 does not find, nor an AltCLIPVisionModel of 5."""
    from safetensors.torch import save_file

    base = save("altclip", "AltCLIPModel", tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    assert any(key.startswith("vision_model.encoder.layer.0.") for key in tensors)
    older = tmp_path / "older"
    older.mkdir()
    for path in base.iterdir():
        (older / path.name).write_bytes(path.read_bytes()) if path.is_file() else None
    names = {key: key.replace("vision_model.encoder.layer.", "vision_model.encoder.layers.") for key in tensors}
    save_file({names[key]: value for key, value in tensors.items()}, older / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    for folder in (base, older):
        editor = SithEditor.from_pretrained(folder)
        decomposed(editor)
        spec = editor.edit().vectors(0.0, layers=[0], heads=[0], vectors=[0]).spec
        editor.save_pretrained(tmp_path / "edited", spec, overwrite=True)
        assert set(load_file(tmp_path / "edited" / "model.safetensors")) == set(names.values())
        assert verify(tmp_path / "edited", folder).ok
        for kind in ("AltCLIPModel", "AltCLIPVisionModel"):
            report = getattr(transformers, kind).from_pretrained(tmp_path / "edited", output_loading_info=True)[1]
            assert not report["missing_keys"]


# --- texts


@pytest.mark.parametrize("template", [None, "a {} car"])
@pytest.mark.parametrize("family", [*CLASSES, "typed"])
def test_texts_have_the_embeddings_of_the_library(family, template, tmp_path):
    typed, family = family == "typed", "chinese_clip" if family == "typed" else family
    folder = save(family, WHOLE[family], tmp_path / "base")
    tokenizer = typed_bert() if typed else transformers.AutoTokenizer.from_pretrained(folder)
    editor = SithEditor.from_pretrained(folder)
    ours = encode_texts(editor.model, tokenizer, WORDS, template)
    filled = [(template or "{}").replace("{}", word) for word in WORDS]
    torch.testing.assert_close(ours, text_features(editor.model, tokenizer, filled), atol=2e-6, rtol=0)
    assert (ours - ours[:: -1 if False else 1]).shape
