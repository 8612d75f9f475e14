"""SigLIP and SigLIP 2 through the public surface: encoder heads, the attention-pooling head, padded texts."""

import copy
import json
import shutil
from itertools import product

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize

from sith_hf import ConceptDictionary, Decomposition, EditSpec, SithEditor
from sith_hf.checkpoint import export_adapter, verify
from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.decomposition import DecomposeSettings
from sith_hf.edits import applied
from sith_hf.errors import BaseMismatch, InputError, MissingExtra, UnsupportedModel
from sith_hf.fidelity import fidelity_table, grid
from sith_hf.gains import drift_shares
from sith_hf.images import ModelVariant
from sith_hf.images.processor import image_processor
from sith_hf.pursuit import Pursuit
from sith_hf.towers import encode_texts, encoder_settings, layer_title, read_tower
from sith_hf.towers import tokenizer as tokenizers
from tests.support import tiny
from tests.support.cli import refused, sith, succeeded
from tests.support.siglip import inputs, letters, literal_edit, outputs, save, siglip, tower_of

EXACT = {"atol": 1e-10, "rtol": 0}
TEXTS = ["dog", "red boat", "ocean", "a car", "snow"]
# Class and tower; the tower of a whole model is named, that of a tower alone is the model.
TOWERS = [
    ("SiglipModel", "vision"), ("SiglipModel", "text"), ("SiglipVisionModel", "vision"), ("SiglipTextModel", "text"),
    ("Siglip2Model", "vision"), ("Siglip2Model", "text"), ("Siglip2VisionModel", "vision"),
    ("Siglip2TextModel", "text"),
]  # fmt: skip
IDS = [f"{name}-{kind}" for name, kind in TOWERS]


@pytest.fixture(scope="module")
def whole():
    """A SiglipModel."""
    return siglip()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tiny.byte_tokenizer(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def editor(tmp_path_factory):
    """An editor of a checkpoint in a folder, decomposed."""
    editor = SithEditor.from_pretrained(save(tmp_path_factory.mktemp("siglip") / "base"))
    decomposed(editor)
    return editor


def decomposed(editor, **fields):
    return editor.decompose(ConceptDictionary.from_texts(TEXTS), pursuit=Pursuit(sparsity=2), **fields)


def opened(folder, name, kind, tmp_path):
    """An editor of a tower; a vision tower alone has its whole model beside it, for texts."""
    companion = None
    if "Vision" in name:
        companion = save(tmp_path / "companion", name.replace("Vision", ""), seed=9)
    return SithEditor.from_pretrained(folder, tower=kind, text_model=companion)


def unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


# --- an edited checkpoint


@pytest.mark.parametrize(
    ("name", "kind", "fold"),
    [(*tower, True) for tower in TOWERS] + [(*tower, False) for tower in TOWERS[:2]],
    ids=[*(f"{name}-folded" for name in IDS), *(f"{name}-plain" for name in IDS[:2])],
)
def test_an_edited_checkpoint_is_a_forward_with_edited_matrices(name, kind, fold, tmp_path):
    base = save(tmp_path / "base", name, **({"max_shard_size": "20KB"} if fold else {}))
    editor = opened(base, name, kind, tmp_path)
    decomposed(editor, fold=fold)
    last = len(editor.tower.layers) - 1
    assert last == (2 if kind == "vision" else 1)
    gains = {(last, 0, 0): 0.0, (last, 1, 1): -1.0, (last, 1, 2): 3.0, (0, 3, 1): 0.0, (0, 2, 2): 3.0}
    edit = editor.edit()
    for (layer, head, vector), gain in gains.items():
        edit = edit.vectors(gain, layers=[layer], heads=[head], vectors=[vector])
    spec = edit.spec
    assert EditSpec.from_pretrained(spec.save_pretrained(tmp_path / "spec").parent) == spec
    editor.save_pretrained(tmp_path / "edited", spec)
    assert verify(tmp_path / "edited", base).ok

    plain, report = getattr(transformers, name).from_pretrained(tmp_path / "edited", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    wanted = outputs(literal_edit(editor.model, kind, gains, fold=fold), kind)
    torch.testing.assert_close(outputs(plain, kind), wanted, atol=1e-4, rtol=0)
    torch.testing.assert_close(
        outputs(literal_edit(editor.model, kind, dict.fromkeys(gains, 1.0), fold=fold), kind),
        outputs(editor.model, kind),
        **EXACT,
    )
    # Controls: the edit is not small, and each of its layers matters.
    assert (outputs(editor.model, kind) - wanted).abs().max() > 0.05
    for layer in (0, last):
        part = {key: gain for key, gain in gains.items() if key[0] == layer}
        assert (outputs(literal_edit(editor.model, kind, part, fold=fold), kind) - wanted).abs().max() > 0.01
    with editor.applied(spec) as model:
        assert torch.equal(outputs(model, kind), outputs(plain, kind))

    before, after = editor.model.state_dict(), plain.state_dict()
    differing = {key for key in before if not torch.equal(before[key], after[key])}
    assert len(differing) == len(spec.touched_keys) == 4
    assert all(".out_proj." in key for key in differing)
    files = [load_file(path) for path in sorted((tmp_path / "edited").glob("*.safetensors"))]
    assert spec.touched_keys <= {key for file in files for key in file}

    SithEditor.from_pretrained(tmp_path / "edited", tower=kind).revert(tmp_path / "reverted")
    again = getattr(transformers, name).from_pretrained(tmp_path / "reverted").state_dict()
    for key in before:
        torch.testing.assert_close(again[key], before[key], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_pool_of_half_precision(dtype, tmp_path):
    base = tmp_path / "base"
    siglip().to(dtype).save_pretrained(base)
    tiny.byte_tokenizer(tmp_path / "t").save_pretrained(base)
    editor = SithEditor.from_pretrained(base)
    decomposed(editor, layers=[-1])
    spec = editor.edit().vectors(-1.0, heads=[0, 2], vectors=[0]).spec
    editor.save_pretrained(tmp_path / "edited", spec)
    found = verify(tmp_path / "edited", base)
    assert found.ok
    assert found.edited == 2
    with editor.applied(spec) as model:
        written = load_file(tmp_path / "edited" / "model.safetensors")
        key = "vision_model.head.attention.out_proj.weight"
        assert torch.equal(model.state_dict()[key], written[key])
        assert written[key].dtype == dtype


# --- decomposition


@pytest.mark.parametrize(("fold", "centre"), [(True, True), (True, False), (False, False)])
def test_the_pool_is_the_svd_of_its_matrices(whole, tokenizer, fold, centre):
    found = decomposed(SithEditor.from_model(whole, tokenizer), layers=[-1], fold=fold, centre=centre)
    assert found.layers == (2,)
    head, norm = whole.vision_model.head.attention, whole.vision_model.post_layernorm
    value = head.in_proj_weight.detach().double()[64:]
    for number in range(4):
        rows = slice(number * 8, (number + 1) * 8)
        read = value[rows] * norm.weight.detach().double() if fold else value[rows]
        read = read - read.mean(dim=1, keepdim=True) if centre else read
        matrix = head.out_proj.weight.detach().double()[:, rows] @ read
        torch.testing.assert_close(
            found.singular_values[0, number].double(), torch.linalg.svdvals(matrix)[:8], atol=1e-5, rtol=1e-5
        )
        rebuilt = (found.write[0, number].T * found.singular_values[0, number]) @ found.read[0, number]
        torch.testing.assert_close(rebuilt.double(), matrix, atol=1e-5, rtol=0)
    # The write side keeps its mean, which is part of the embedding.
    assert found.write.mean(dim=-1).abs().max() > 0.01


def test_the_encoder_is_the_svd_of_its_matrices(whole, tokenizer):
    found = decomposed(SithEditor.from_model(whole, tokenizer), layers=[0, 1], fold=False, centre=False)
    for number, head in product(range(2), range(4)):
        attention, rows = whole.vision_model.encoder.layers[number].self_attn, slice(head * 8, (head + 1) * 8)
        matrix = attention.out_proj.weight.detach().double()[:, rows] @ attention.v_proj.weight.detach().double()[rows]
        rebuilt = (found.write[number, head].T * found.singular_values[number, head]) @ found.read[number, head]
        torch.testing.assert_close(rebuilt.double(), matrix, atol=1e-5, rtol=0)


def test_the_pool_is_the_last_layer(editor):
    tower = editor.tower
    assert [layer.title for layer in tower.layers] == ["", "", "pool"]
    assert tower.resolve_layers([-1]) == (2,)
    assert tower.resolve_layers([-3]) == (0,)
    assert [layer_title(n, tower.settings) for n in range(3)] == [0, 1, "2 (pool)"]
    with pytest.raises(InputError, match=r"layers 0-2 \(2 is the pooling head\)"):
        tower.resolve_layers([3])
    assert tower.settings["num_hidden_layers"] == 2


# --- the way to the joint space


@pytest.fixture(scope="module")
def precise(whole):
    """The model in float64, and its vision tower."""
    model = copy.deepcopy(whole).double()
    return model, read_tower(model)


@pytest.mark.parametrize("length", [0, 0.4])
def test_what_a_pooling_head_writes_is_the_embedding_without_the_mlp(precise, length):
    model, tower = precise
    head, written = model.vision_model.head, unit(5, 32)
    mean = length * unit(32, seed=3)
    with torch.no_grad():
        hidden = model.vision_model(**inputs(model, "vision")).last_hidden_state
        r = head.attention(head.probe.repeat(3, 1, 1), hidden, hidden)[0]
        pooled = model.vision_model(**inputs(model, "vision")).pooler_output
        torch.testing.assert_close((r + head.mlp(head.layernorm(r)))[:, 0], pooled, **EXACT)
        assert (r[:, 0] - pooled).abs().max() > 0.1  # the control: the MLP is what is left out
    wanted = normalize(normalize(written, dim=-1) - mean, dim=-1)
    torch.testing.assert_close(tower.to_joint(written, mean if length else None, 2), wanted, **EXACT)
    back = normalize(normalize(written, dim=-1) + mean, dim=-1)
    torch.testing.assert_close(tower.from_joint(written * 3, mean if length else None, 2), back, **EXACT)


@pytest.mark.parametrize("layer", [0, 1])
def test_what_an_encoder_head_writes_passes_through_the_pool(precise, layer):
    """If every token holds a vector v, attention writes W_O W_V v whatever it attends to."""
    model, tower = precise
    attention, norm = model.vision_model.head.attention, model.vision_model.post_layernorm
    written = unit(4, 32)
    with torch.no_grad():
        read = norm(written) - norm.bias
        probe = model.vision_model.head.probe.repeat(4, 1, 1)
        some, none = (
            attention(probe, tokens, tokens)[0][:, 0]
            for tokens in (read.unsqueeze(1).repeat(1, 7, 1), torch.zeros(4, 7, 32, dtype=torch.float64))
        )
        wanted = normalize(some - none, dim=-1)
    # The norm's epsilon is all that differs: direction and opposite have opposite points.
    torch.testing.assert_close(tower.to_joint(written, layer=layer), wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(tower.to_joint(-written, layer=layer), -wanted, atol=1e-9, rtol=0)
    assert (tower.to_joint(written, layer=layer) - tower.to_joint(written, layer=2)).abs().max() > 0.1
    chain = attention.out_proj.weight.detach() @ attention.in_proj_weight.detach()[64:]
    torch.testing.assert_close(tower.from_joint(wanted, layer=layer), normalize(wanted @ chain, dim=-1), **EXACT)
    perfect = (tower.from_joint(wanted, layer=layer) * written).sum(dim=-1)
    torch.testing.assert_close(tower.readout(layer).projected_norm(written), perfect, atol=1e-9, rtol=0)


def test_what_a_text_head_writes_is_read_exactly(whole):
    model = copy.deepcopy(whole).double()
    tower, written = read_tower(model, tower="text"), unit(4, 24)
    with torch.no_grad():
        wanted = normalize(model.text_model.head(model.text_model.final_layer_norm(written)), dim=-1)
    torch.testing.assert_close(tower.to_joint(written), wanted, **EXACT)
    assert tower.readout().exact
    assert (model.text_model.head.bias.abs() > 0.01).any()  # the control: there is a bias to add


def test_artifacts_say_which_way_was_taken(editor, tmp_path):
    found = editor.decomposition
    path = found.save_pretrained(tmp_path)
    said = Decomposition.from_pretrained(path).settings["readout"].split("; ")
    assert [way.partition(" ")[0] for way in said] == ["pool-value-output", "pool-output"]
    assert all("MLP" in way for way in said)
    assert not any(way.exact for way, _ in editor.tower.readouts)


def test_what_a_pooling_head_reads_is_what_the_encoder_writes(whole, tokenizer):
    editor = SithEditor.from_model(whole, tokenizer)
    found = decomposed(editor, layers=[1, 2], side="read")
    code = found.explain(2, 0, 0)
    joint = {layer: editor.tower.to_joint(found.read[1, 0, 0].double(), layer=layer) for layer in (1, 2)}
    best = {layer: found.texts[int((found.atoms.double() @ joint[layer]).argmax())] for layer in joint}
    assert best[1] != best[2]  # the control: the way matters
    assert found.significance.rows == (0, 0)
    assert code.concepts
    chosen = {text for text, _ in code.concepts}
    assert best[1] in chosen


def test_each_way_has_its_own_null(editor):
    found = editor.decomposition
    assert found.significance.rows == (0, 0, 1)
    assert not torch.equal(*found.significance.sample)
    # Random directions for the pool keep their mean, as what its heads write does.
    settings = DecomposeSettings()
    assert [settings.centres(layer) for layer in editor.tower.layers] == [True, True, False]


def test_methods_are_compared_for_one_way_at_a_time(editor):
    dictionary = editor.encode(ConceptDictionary.from_texts(TEXTS))
    pursuits = grid(["omp"], [2])
    with pytest.raises(InputError, match="different ways"):
        fidelity_table(editor.tower, dictionary, pursuits, DecomposeSettings(layers=[-2, -1]), draws=20)
    for layers in ([-1], [0, 1]):
        made = fidelity_table(editor.tower, dictionary, pursuits, DecomposeSettings(layers=layers), draws=20)
        assert made.results[0].fidelity.shape[0] == len(layers)


def test_the_pool_has_drift_of_its_own(editor):
    """Removing every vector of all layers of a way is half of what that way writes."""
    shares = drift_shares(editor.tower, editor.decomposition)
    torch.testing.assert_close(shares[2].sum(), torch.tensor(0.5, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(shares[:2].sum(), torch.tensor(0.5, dtype=torch.float64), atol=1e-5, rtol=0)


def test_words_choose_vectors_of_the_pool(editor):
    draft = editor.suppress("dog", top=3, layers=[-1])
    assert set(draft.spec.layers) == {2}
    assert len(draft.spec) == 3
    assert "2 (pool)" in str(draft)
    cosine = editor.decomposition.write[2].double() @ normalize(
        editor.embed("dog")["dog"].double() - editor.decomposition.dictionary_mean.double(), dim=-1
    )
    strongest = {tuple(divmod(int(i), 8)) for i in cosine.abs().flatten().topk(3).indices}
    assert {(head, vector) for _, head, vector in draft.spec.keys} == strongest


# --- a tower without its pooling head


def test_a_tower_without_a_pool_takes_that_of_its_whole_model(tmp_path):
    vision = {"vision_use_head": False}
    base = save(tmp_path / "base", "SiglipVisionModel", vision=vision)
    companion = save(tmp_path / "companion")
    alone = SithEditor.from_pretrained(base)
    assert len(alone.tower.layers) == 2
    assert alone.tower.settings["attention_pooling"] is False
    for call in (alone.tower.readout, lambda: decomposed(alone)):
        with pytest.raises(InputError, match="text_model"):
            call()
    editor = SithEditor.from_pretrained(base, text_model=companion)
    found = decomposed(editor)
    same = decomposed(SithEditor.from_pretrained(companion), layers=[0, 1])
    assert torch.equal(found.fidelity, same.fidelity)  # both have seed 0
    spec = editor.edit().vectors(0.0, layers=[-1], heads=[0], vectors=[0]).spec
    assert not any(".head." in key for key in spec.base.sha256)
    alone.save_pretrained(tmp_path / "edited", spec)
    assert verify(tmp_path / "edited", base).ok
    with pytest.raises(InputError, match="without its pooling head"):
        alone.with_decomposition(found)
    with pytest.raises(InputError, match="no pooling head"):
        ModelVariant("base", alone.model, None).embed(torch.zeros(1, 3, 16, 16))


@pytest.mark.parametrize(
    ("companion", "said"),
    [(lambda: siglip(hidden_size=64), "width 64"), (lambda: tiny.clip_model(), "no pooling head")],
)
def test_refused_companions(companion, said):
    with pytest.raises(InputError, match=said) as caught:
        SithEditor.from_model(siglip("SiglipVisionModel", vision_use_head=False), text_model=companion())
    assert "\n" not in str(caught.value)


# --- texts


def library_features(model, tokenizer, texts, length):
    """The library's embeddings of the tokenizer's own output, which may have an attention mask."""
    written = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    with torch.no_grad():
        return normalize(model.get_text_features(**written).pooler_output, dim=-1)


WORDS = ["dog", "A Red Boat, at sea!", "", "dog " * 40, "ocean"]


@pytest.mark.parametrize(
    ("options", "length"),
    [
        ({}, 24),
        ({"model_input_names": ["input_ids"]}, 24),
        ({"padding_side": "right"}, 24),
        ({"padding_side": "right", "model_input_names": ["input_ids"]}, 24),
        ({"model_max_length": 16, "model_input_names": ["input_ids"]}, 16),
        ({"model_max_length": 64}, 24),
    ],
)
@pytest.mark.parametrize("name", ["SiglipModel", "Siglip2Model"])
def test_texts_have_the_embeddings_of_the_library(name, options, length):
    model, tokenizer = siglip(name), letters(**options)
    found = encode_texts(model, tokenizer, WORDS)
    torch.testing.assert_close(found, library_features(model, tokenizer, WORDS, length), atol=2e-6, rtol=0)
    filled = [f"a photo of {word}." for word in WORDS]
    template = encode_texts(model, tokenizer, WORDS, "a photo of {}.")
    torch.testing.assert_close(template, library_features(model, tokenizer, filled, length), atol=2e-6, rtol=0)
    # Controls: padding matters, and so does hiding it.
    ids = torch.tensor([tokenizer("dog")["input_ids"]])
    with torch.no_grad():
        bare = normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    assert (found[0] - bare[0]).abs().max() > 0.01
    assert torch.equal(encode_texts(model, tokenizer, ["DOG"]), encode_texts(model, tokenizer, ["dog"]))


def test_other_padding_is_another_setting():
    model = siglip()
    seen = [
        encoder_settings(model, letters(**options))
        for options in ({}, {"padding_side": "right"}, {"model_input_names": ["input_ids"]}, {"model_max_length": 16})
    ]
    assert len({json.dumps(item, sort_keys=True) for item in seen}) == 4
    assert [item["max_tokens"] for item in seen] == [24, 24, 24, 16]
    assert all("eos_token_id" not in item for item in seen)


def test_a_dictionary_of_other_padding_is_refused(whole):
    first = SithEditor.from_model(whole, letters())
    found = decomposed(first)
    with pytest.raises(BaseMismatch, match="padding_side"):
        SithEditor.from_model(whole, letters(padding_side="right")).with_decomposition(found)


def test_a_text_tower_alone_encodes_texts(whole, tokenizer):
    alone = SithEditor.from_model(whole.text_model, tokenizer)
    both = SithEditor.from_model(whole, tokenizer, tower="text")
    one, other = decomposed(alone), decomposed(both)
    assert torch.equal(one.fidelity, other.fidelity)
    assert one.tower == "text"


@pytest.mark.parametrize("missing", ["sentencepiece", "google.protobuf"])
def test_a_missing_sentencepiece_is_one_line_with_its_extra(missing, tmp_path, monkeypatch):
    base = tmp_path / "base"
    siglip().save_pretrained(base)
    (base / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>\x15")
    (base / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "SiglipTokenizer"}))
    monkeypatch.setattr(tokenizers, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(MissingExtra, match=r'is not installed: pip install "sith-hf\[sentencepiece\]"') as caught:
        SithEditor.from_pretrained(base)
    assert "\n" not in str(caught.value)
    assert missing.rpartition(".")[2] in str(caught.value)


def test_a_folder_without_a_tokenizer_is_decomposed_no_further_than_its_heads(tmp_path):
    siglip().save_pretrained(tmp_path)
    editor = SithEditor.from_pretrained(tmp_path)
    assert editor.loaded.tokenizer is None
    with pytest.raises(InputError, match="no tokenizer"):
        decomposed(editor)


# --- images


def test_images_have_the_embeddings_of_the_library(whole):
    pixels = inputs(whole, "vision", torch.float32)["pixel_values"]
    with torch.no_grad():
        wanted = normalize(whole.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        for model in (whole, whole.vision_model):
            torch.testing.assert_close(ModelVariant("base", model, None).embed(pixels), wanted, atol=1e-6, rtol=0)


def test_images_of_any_shape_are_refused_by_name(tmp_path):
    base = save(tmp_path / "base", "Siglip2Model")
    editor = SithEditor.from_pretrained(base)
    with pytest.raises(UnsupportedModel, match="NaFlex"):
        ModelVariant("base", editor.model, None).embed(torch.zeros(1, 3, 16, 16))
    with pytest.raises(UnsupportedModel, match="NaFlex"):
        ModelVariant("base", editor.model, None).image_size  # noqa: B018
    with pytest.raises(UnsupportedModel, match=r"^a Siglip2Model \(NaFlex\)"):
        image_processor(editor.loaded)


# --- hooks, shapes, other places


@pytest.mark.parametrize("name", ["SiglipModel", "Siglip2Model"])
@pytest.mark.parametrize("path", ["vision_model.head.attention", "vision_model.encoder.layers.0", "text_model.head"])
def test_hooks_that_watch_are_accepted_and_others_refused(name, path):
    model, seen = siglip(name), []
    handle = model.get_submodule(path).register_forward_hook(lambda module, args, output: seen.append(path))
    assert len(read_tower(model).layers) == 3
    assert seen
    handle.remove()

    def doubled(module, args, output):
        return tuple(part if part is None else part * 2 for part in output) if isinstance(output, tuple) else output * 2

    model.get_submodule(path).register_forward_hook(doubled)
    with pytest.raises(UnsupportedModel, match="changes what it computes"):
        read_tower(model)


def without(model, path):
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, None)


@pytest.mark.parametrize(
    "path",
    [
        "head.attention.in_proj_weight", "head.attention.in_proj_bias", "head.attention.out_proj.weight",
        "head.attention.out_proj.bias", "post_layernorm.weight", "encoder.layers.1.self_attn.v_proj.bias",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["missing", "narrow"])
def test_a_bad_shape_is_refused_by_the_name_of_the_tensor(path, how):
    model = siglip()
    tower = model.vision_model
    if how == "missing":
        without(tower, path)
    else:
        parent, _, name = path.rpartition(".")
        value = tower.get_parameter(path).detach()
        setattr(tower.get_submodule(parent), name, torch.nn.Parameter(value[: len(value) // 2].clone()))
    with pytest.raises(UnsupportedModel, match=path.removesuffix(".bias").replace(".", r"\.")):
        read_tower(model)


@pytest.mark.parametrize("key", ["vision_model.head.attention.in_proj_weight", "vision_model.head.probe"])
def test_a_file_without_a_tensor_is_refused_by_its_name(key, tmp_path):
    base = save(tmp_path / "base")
    tensors = load_file(base / "model.safetensors")
    del tensors[key]
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=key.replace(".", r"\.")):
        SithEditor.from_pretrained(base)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = siglip()
    with torch.no_grad():
        model.vision_model.head.attention.in_proj_bias[70] = float("nan")
    with pytest.raises(InputError, match=r"head\.attention\.in_proj_bias holds NaN"):
        SithEditor.from_model(model)


def test_edits_of_other_places_are_refused(editor, tmp_path):
    spec = editor.edit().vectors(0.0, layers=[-1], heads=[0], vectors=[0]).spec
    others = {
        "another seed": save(tmp_path / "seed", seed=3),
        "another family": save(tmp_path / "siglip2", "Siglip2Model"),
        "clip": tiny.save_clip(tmp_path / "clip"),
        "text alone": save(tmp_path / "text", "SiglipTextModel"),
        "no pool": save(tmp_path / "headless", "SiglipVisionModel", vision={"vision_use_head": False}),
    }
    for what, folder in others.items():
        if what == "another family":
            continue  # its vision towers have the same tensors: see below
        with pytest.raises((BaseMismatch, UnsupportedModel, InputError)):
            SithEditor.from_pretrained(folder).save_pretrained(tmp_path / "no", spec)
        assert not (tmp_path / "no").exists(), what
    model = siglip("SiglipTextModel")
    with pytest.raises((BaseMismatch, UnsupportedModel)), applied(model, spec):
        pass
    with pytest.raises(BaseMismatch), applied(siglip(seed=3), spec):
        pass


def test_an_edit_of_encoder_layers_fits_a_base_whose_pool_was_edited(editor, tmp_path):
    """Edits of both kinds of layers are made from one decomposition, in either order."""
    pool, encoder = (editor.edit().vectors(0.0, layers=[n], heads=[0], vectors=[0]).spec for n in (2, 0))
    editor.save_pretrained(tmp_path / "one", pool.compose(encoder))
    editor.save_pretrained(tmp_path / "pool", pool)
    SithEditor.from_pretrained(tmp_path / "pool").save_pretrained(tmp_path / "two", encoder)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert tensor_sha256(one["vision_model.head.attention.out_proj.weight"]) != tensor_sha256(
        editor.model.state_dict()["vision_model.head.attention.out_proj.weight"]
    )


def test_an_adapter_of_the_encoder_is_the_edit_and_one_of_the_pool_is_refused(editor, tmp_path):
    spec = editor.edit().vectors(-1.0, layers=[0, 1], heads=[1], vectors=[0]).spec
    export_adapter(spec, tmp_path / "adapter", "SiglipModel")
    base = copy.deepcopy(editor.model)
    adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    with editor.applied(spec) as model:
        wanted = outputs(model, "vision")
    torch.testing.assert_close(outputs(adapted, "vision"), wanted, atol=1e-5, rtol=0)
    assert (outputs(editor.model, "vision") - wanted).abs().max() > 0.05
    pool = editor.edit().vectors(-1.0, layers=[1, 2], heads=[1], vectors=[0]).spec
    with pytest.raises(UnsupportedModel, match="layer 2 is the attention-pooling head"):
        export_adapter(pool, tmp_path / "none", "SiglipModel")
    assert not (tmp_path / "none").exists()


# --- names that readers see


def test_readers_see_which_layer_is_the_pool(editor, tmp_path):
    editor.decomposition.save_pretrained(tmp_path / "decomposition")
    spec = editor.edit().vectors(0.0, layers=[1, 2], heads=[0], vectors=[0]).spec
    spec.save_pretrained(tmp_path / "spec")
    # Random weights: every pole is silent.
    for artifact, options in (("decomposition", ["--all"]), ("spec", ["--details"])):
        shown = succeeded(sith("show", tmp_path / artifact, *options)).out
        assert "2 (pool)" in shown
        assert "1 (pool)" not in shown
    data = succeeded(sith("show", tmp_path / "decomposition", "--json")).data
    assert {row["layer"] for row in data} == {0, 1, 2}
    editor.save_pretrained(tmp_path / "edited", spec)
    card = (tmp_path / "edited" / "README.md").read_text()
    assert "layers 1 and 2 (pool)" in card
    assert "| 2 (pool) | 0 | 0 |" in card
    assert any((tmp_path / "edited").rglob("*.png"))


def test_commands(editor, tmp_path):
    base = editor.loaded.folder
    concepts = tmp_path / "concepts.txt"
    concepts.write_text("\n".join(TEXTS))
    succeeded(sith("decompose", base, "--concepts", concepts, "--layers", "-2,-1", "-o", tmp_path / "found"))
    assert Decomposition.from_pretrained(tmp_path / "found").layers == (1, 2)
    said = refused(sith("decompose", base, "--concepts", concepts, "--layers", "3", "-o", tmp_path / "none"))
    assert "(2 is the pooling head)" in said


def test_it_is_a_copy_that_is_edited(tmp_path):
    """Other files of the folder come along, and a tower alone gets the names that transformers 4 loads."""
    base = save(tmp_path / "base", "SiglipVisionModel")
    assert "head.probe" in load_file(base / "model.safetensors")
    editor = SithEditor.from_pretrained(base, text_model=save(tmp_path / "companion"))
    decomposed(editor)
    spec = editor.edit().vectors(0.0, layers=[-1], heads=[0], vectors=[0]).spec
    editor.save_pretrained(tmp_path / "edited", spec)
    written = load_file(tmp_path / "edited" / "model.safetensors")
    assert all(key.startswith("vision_model.") for key in written)
    assert (tmp_path / "edited" / "preprocessor_config.json").read_bytes() == (
        base / "preprocessor_config.json"
    ).read_bytes()
    older = tmp_path / "older"
    shutil.copytree(base, older)
    tensors = load_file(base / "model.safetensors")
    save_file({f"vision_model.{key}": value for key, value in tensors.items()}, older / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    again = SithEditor.from_pretrained(older)
    again.save_pretrained(tmp_path / "again", spec)
    same = load_file(tmp_path / "again" / "model.safetensors")
    assert written.keys() == same.keys()
    assert all(torch.equal(written[key], same[key]) for key in written)
    assert tower_of(again.model, "vision") is again.model
