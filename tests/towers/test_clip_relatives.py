"""Families with CLIP's vision keys: MetaCLIP 2, AltCLIP, Chinese-CLIP and CLIPSeg, each through the public surface."""

import copy

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from sith_hf import ConceptDictionary, Decomposition, EditSpec, SithEditor
from sith_hf.checkpoint import verify
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.pursuit import Pursuit
from sith_hf.towers import encode_texts, read_tower, text_tower_sha256
from tests.support.cli import sith, succeeded
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
from tests.support.tiny import byte_tokenizer, clip_model, randomise

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
# Every class with folding, and the whole models without.
BOTH = [(*case, True) for case in EVERY] + [(*case, False) for case in EVERY if case[1] in WHOLE.values()]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A function to the folder of a class, saved once."""
    work, made = tmp_path_factory.mktemp("bases"), {}

    def folder(family, name, sharded=False):
        key = f"{name}-sharded" if sharded else name
        if key not in made:
            options = {"max_shard_size": "20KB"} if sharded else {}
            made[key] = save(family, name, work / key, **options)
            assert (len(weight_files(made[key])) > 1) == sharded
        return made[key]

    return folder


def opened(bases, family, name, kind, sharded=False):
    """An editor of one tower, with the whole model of a tower alone."""
    companion = bases(family, WHOLE[family]) if "Vision" in name or "TextModel" in name else None
    return SithEditor.from_pretrained(bases(family, name, sharded), tower=kind, text_model=companion)


def decomposed(editor, **fields):
    concepts = ConceptDictionary.from_texts(["dog", "red boat", "ocean", "a car"])
    return editor.decompose(concepts, pursuit=Pursuit(sparsity=2), **fields)


def number_edit(editor):
    """An edit of one vector."""
    decomposed(editor, layers=[0])
    return editor.edit().vectors(0.0, layers=[0], heads=[0], vectors=[0]).spec


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


@pytest.mark.parametrize(("family", "name", "kind", "fold"), BOTH)
def test_an_edited_checkpoint_is_a_forward_with_edited_matrices(family, name, kind, fold, bases, tmp_path):
    base = bases(family, name, sharded=not fold)
    editor = opened(bases, family, name, kind, sharded=not fold)
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

    SithEditor.from_pretrained(tmp_path / "edited", tower=kind).revert(tmp_path / "reverted")
    again = getattr(transformers, name).from_pretrained(tmp_path / "reverted").state_dict()
    for key in before:
        torch.testing.assert_close(again[key], before[key], atol=1e-6, rtol=0)
    assert decomposition.tower == kind


@pytest.mark.parametrize(("family", "name", "kind"), EVERY, ids=IDS)
def test_a_decomposition_is_the_svd_of_the_matrices(family, name, kind, bases, tmp_path):
    editor = opened(bases, family, name, kind)
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
def test_edits_of_other_places_are_refused(family, kind, bases, tmp_path):
    spec = number_edit(opened(bases, family, WHOLE[family], kind))
    other = "clipseg" if family != "clipseg" else "metaclip_2"
    stranger = opened(bases, other, WHOLE[other], "vision")
    with pytest.raises((BaseMismatch, UnsupportedModel, InputError)):
        stranger.save_pretrained(tmp_path / "no", spec)
    assert not (tmp_path / "no").exists()
    with pytest.raises((BaseMismatch, UnsupportedModel, InputError)), stranger.applied(spec):
        pass
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
def test_files_of_both_releases_become_the_same(family, bases, tmp_path):
    """Those of 4 of a vision tower alone have a prefix, which transformers 5 has not in memory, and loads."""
    name = WHOLE[family].replace("Model", "VisionModel")
    base = bases(family, name)
    older = tmp_path / "older"
    older.mkdir()
    tensors = load_file(base / "model.safetensors")
    assert not any(key.startswith("vision_model.") for key in tensors)
    save_file({f"vision_model.{key}": value for key, value in tensors.items()}, older / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    (older / "config.json").write_bytes((base / "config.json").read_bytes())
    written = []
    for folder in (base, older):
        editor = SithEditor.from_pretrained(folder, text_model=bases(family, WHOLE[family]))
        spec = number_edit(editor)
        editor.save_pretrained(tmp_path / f"{folder.name}-edited", spec)
        written.append(load_file(tmp_path / f"{folder.name}-edited" / "model.safetensors"))
        assert spec.touched_keys <= written[-1].keys()
    assert written[0].keys() == written[1].keys()
    assert all(torch.equal(written[0][key], written[1][key]) for key in written[0])


def test_altclip_saved_by_either_release_gets_the_names_that_both_load(bases, tmp_path):
    """Release 5 saves ``vision_model.encoder.layer.0``, which 4 does not find, nor an AltCLIPVisionModel of 5."""
    base = bases("altclip", "AltCLIPModel")
    tensors = load_file(base / "model.safetensors")
    assert any(key.startswith("vision_model.encoder.layer.0.") for key in tensors)
    older = tmp_path / "older"
    older.mkdir()
    for path in base.glob("*.json"):
        (older / path.name).write_bytes(path.read_bytes())
    names = {key: key.replace("vision_model.encoder.layer.", "vision_model.encoder.layers.") for key in tensors}
    save_file({names[key]: value for key, value in tensors.items()}, older / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    for folder in (base, older):
        editor = SithEditor.from_pretrained(folder)
        spec = number_edit(editor)
        editor.save_pretrained(tmp_path / "edited", spec, overwrite=True)
        assert set(load_file(tmp_path / "edited" / "model.safetensors")) == set(names.values())
        assert verify(tmp_path / "edited", folder).ok
        for kind in ("AltCLIPModel", "AltCLIPVisionModel"):
            report = getattr(transformers, kind).from_pretrained(tmp_path / "edited", output_loading_info=True)[1]
            assert not report["missing_keys"]


# --- CLIPSeg's decoder


@pytest.mark.parametrize("extract", [[0, 1], [1, 0], [0], [2], [-1, 0]], ids=str)
def test_a_layer_is_partial_exactly_if_it_does_not_reach_the_segmentation(extract, tmp_path):
    model = make("clipseg", SEGMENTATION, TOKENIZERS["clipseg"](tmp_path), extract_layers=extract)
    pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    inputs = {"pixel_values": pixels, "input_ids": torch.tensor([[512, 5, 513], [512, 9, 513]])}
    partial = read_tower(model).partial
    with torch.no_grad():
        before = model(**inputs)
        for number, layer in enumerate(encoder_of(model, "vision").layers):
            weight = layer.self_attn.out_proj.weight
            kept = weight.clone()
            weight.mul_(-1)
            after = model(**inputs)
            weight.copy_(kept)
            assert torch.equal(before.logits, after.logits) == (number in partial)
            assert not torch.equal(before.pooled_output, after.pooled_output)  # so that such an edit is no error
    assert not read_tower(model, tower="text").partial
    assert not read_tower(model.clip).partial


def test_edits_after_the_last_extracted_layer_are_shown_with_a_warning(bases, tmp_path):
    base = bases("clipseg", SEGMENTATION)
    editor = SithEditor.from_pretrained(base)
    explained = decomposed(editor)
    late = "layer 2: the decoder reads the layers 0, 1 (extract_layers"
    for layers in ([0, 1], [1, 2]):
        draft = editor.edit().vectors(0.0, layers=layers, heads=[0], vectors=[0])
        assert [line.startswith(late) for line in draft.warnings] == [True] * (layers[1] == 2)
        draft.spec.save_pretrained(tmp_path / f"spec{layers[1]}")
        ran = sith("save-edited", base, "--spec", tmp_path / f"spec{layers[1]}", "-o", tmp_path / f"edited{layers[1]}")
        assert (f"warning: {late}" in succeeded(ran).err) == (layers[1] == 2)
    explained.save_pretrained(tmp_path / "explained")
    numbers = ["--gain", 0, "--layers", 2, "--heads", 0, "--vectors", 0]
    ran = succeeded(sith("edit", base, "--decomposition", tmp_path / "explained", *numbers, "--dry-run"))
    assert f"warning: {late}" in ran.err


# --- CLIP of other sizes


@pytest.mark.parametrize(("heads", "width"), [(2, 80), (2, 104), (1, 88)])
@pytest.mark.parametrize("kind", ["vision", "text"])
def test_heads_of_other_sizes_and_gelu(heads, width, kind, tmp_path):
    """ViT-H has heads of 80, ViT-bigG of 104, ViT-g of 88; all of them have gelu in place of quick_gelu."""
    size = {"hidden_size": heads * width, "num_attention_heads": heads, "hidden_act": "gelu"}
    model = clip_model(**size) if kind == "vision" else None
    if model is None:
        config = clip_model().config
        for name, value in size.items():
            setattr(config.text_config, name, value)
        model = randomise(transformers.CLIPModel(config), 0)
    editor = SithEditor.from_model(model, byte_tokenizer(tmp_path), tower=kind)
    decomposed(editor, layers=[-1])
    assert editor.tower.head_size == width
    last = len(editor.tower.layers) - 1
    gains = {(last, 0, width - 1): 3.0, (last, heads - 1, 0): -1.0}
    edit = editor.edit()
    for (layer, head, vector), gain in gains.items():
        edit = edit.vectors(gain, layers=[layer], heads=[head], vectors=[vector])
    wanted = outputs(literal_edit(model, kind, gains, fold=True), kind)
    with editor.applied(edit.spec) as edited:
        torch.testing.assert_close(outputs(edited, kind), wanted, atol=1e-4, rtol=0)
    assert (outputs(model, kind) - wanted).abs().max() > 0.02
    assert editor.tower.settings["hidden_act"] == "gelu"


# --- texts


@pytest.mark.parametrize("template", [None, "a {} car"])
@pytest.mark.parametrize("family", [*CLASSES, "typed"])
def test_texts_have_the_embeddings_of_the_library(family, template, bases):
    typed, family = family == "typed", "chinese_clip" if family == "typed" else family
    folder = bases(family, WHOLE[family])
    tokenizer = typed_bert() if typed else transformers.AutoTokenizer.from_pretrained(folder)
    editor = SithEditor.from_pretrained(folder)
    ours = encode_texts(editor.model, tokenizer, WORDS, template)
    filled = [(template or "{}").replace("{}", word) for word in WORDS]
    wanted = text_features(editor.model, tokenizer, filled)
    torch.testing.assert_close(ours, wanted, atol=2e-6, rtol=0)
    assert (ours.flip(0) - wanted).abs().max() > 0.05  # the control: texts differ


@pytest.mark.parametrize("family", CLASSES)
def test_every_tensor_that_decides_an_embedding_is_in_the_fingerprint(family, tmp_path):
    """A tensor decides an embedding if noise in it changes embeddings."""
    tokenizer = TOKENIZERS[family](tmp_path)
    model = make(family, WHOLE[family], tokenizer)
    before, known = encode_texts(model, tokenizer, WORDS[:2]), text_tower_sha256(model)
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        counts = not torch.equal(encode_texts(model, tokenizer, WORDS[:2]), before)
        assert not (counts and text_tower_sha256(model) == known), name
        assert counts == name.startswith("text_"), name
        with torch.no_grad():
            parameter.copy_(kept)


@pytest.mark.parametrize("family", ["altclip", "chinese_clip"])
def test_tokens_that_a_text_tower_cannot_read(family, tmp_path):
    tokenizer = TOKENIZERS[family](tmp_path)
    model = make(family, WHOLE[family], tokenizer)
    with pytest.raises(InputError, match="belongs to another model"):
        encode_texts(model, byte_tokenizer(tmp_path / "bytes"), ["dog"])
    if family == "chinese_clip":
        config = copy.deepcopy(model.config)
        config.text_config.type_vocab_size = 1
        with pytest.raises(InputError, match="token type 1"):
            encode_texts(transformers.ChineseCLIPModel(config), typed_bert(), ["dog"])
    with pytest.raises(InputError, match=r"no text tower that can be edited; it has: vision"):
        read_tower(model, tower="text")
