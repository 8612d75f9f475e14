"""The editor's chain of queries and edits; it changes its model inside a ``with`` block only."""

import copy
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.decomposition.decompose import decompose
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits.build import make_spec
from sith_hf.errors import BaseMismatch, InputError, SithError
from sith_hf.gains import by_concepts, by_name
from sith_hf.towers.text_encoder import encode_texts
from tests.support.made import tiny_concepts, tiny_editor
from tests.support.tiny import byte_tokenizer, clip_model, projected_vision_model, save_clip, vision_model


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """An editor that has decomposed nothing."""
    return tiny_editor(tmp_path_factory.mktemp("editor"))


@pytest.fixture(scope="module")
def made(blank):
    return decompose(blank.tower, blank.encode(tiny_concepts()), name="tiny")


@pytest.fixture
def editor(blank, made):
    """An editor with its decomposition."""
    return blank.with_decomposition(made)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def pixels():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def bytes_of(model):
    """Every tensor of a model, as bytes."""
    return {name: tensor.detach().reshape(-1).view(torch.uint8).clone() for name, tensor in model.state_dict().items()}


def changed(model, before):
    after = bytes_of(model)
    return {name for name in before if not torch.equal(before[name], after[name])}


def see(model, pixels):
    with torch.no_grad():
        return model.get_image_features(pixel_values=pixels).pooler_output


# ---------------------------------------------------------------- the chain


def test_the_chain_is_the_rules_one_after_another(editor, made):
    chain = (
        editor.suppress("boat", threshold=0.3)
        .amplify("red", gain=2.0, threshold=0.3)
        .vectors(-1.0, layers=[0], heads=[1])
    )
    gains = by_concepts(made, {"boat": made.embedding_of("boat")}, 0.0, threshold=0.3)
    gains = gains.then(by_concepts(made, {"red": made.embedding_of("red")}, 2.0, threshold=0.3))
    gains = gains.then(by_name(made, -1.0, layers=[0], heads=[1]))
    assert dict(chain.gains.gain) == dict(gains.gain)
    assert chain.spec == make_spec(editor.tower, made, gains)
    assert chain.spec is chain.spec
    assert repr(chain) == repr(chain.spec)
    assert chain.spec != editor.suppress("boat", threshold=0.3).spec  # the control


def test_the_verbs_have_their_gains(editor):
    gain = {
        name: set(getattr(editor, name)("boat", threshold=0.3).spec.gain.tolist())
        for name in ("suppress", "amplify", "invert")
    }
    assert gain == {"suppress": {0.0}, "amplify": {1.5}, "invert": {-1.0}}
    assert set(editor.suppress("boat", gain=0.25, threshold=0.3).spec.gain.tolist()) == {0.25}
    assert set(editor.amplify("boat", gain=7, threshold=0.3).spec.gain.tolist()) == {7.0}
    assert editor.edit().suppress("boat", threshold=0.3).spec == editor.suppress("boat", threshold=0.3).spec


def test_several_concepts_are_one_question(editor):
    together = editor.suppress("boat", "red", threshold=0.3).gains
    alone = [editor.suppress(name, threshold=0.3).gains.gain for name in ("boat", "red")]
    assert set(alone[0]) | set(alone[1]) <= set(together.gain)
    assert all(reason.startswith("boat, red: share") for reason in together.reason.values())


def test_an_edit_is_not_changed_by_what_follows(editor):
    first = editor.suppress("boat", threshold=0.3)
    gains, spec = dict(first.gains.gain), first.spec
    second = first.amplify("red", threshold=0.3)
    third = first.vectors(2.0, heads=[0])
    assert second is not first
    assert dict(first.gains.gain) == gains
    assert first.spec is spec
    assert len(second.gains) > len(first.gains)
    assert len(third.gains) > len(first.gains)
    with pytest.raises(FrozenInstanceError):
        first.gains = second.gains
    assert len(editor.edit().gains) == 0  # the editor remembers no edit
    assert not editor.edit().spec


def test_the_model_is_not_changed_by_questions(editor):
    before = bytes_of(editor.model)
    editor.decompose(tiny_concepts(), layers=[-1], rank=2)
    editor.find("boat")
    editor.suppress("boat", threshold=0.3, layers=[-1])
    assert changed(editor.model, before) == set()


def test_the_words_of_the_readme(blank, made):
    """Decompose, then ask: the editor remembers its latest decomposition, and a later one replaces it."""
    editor = replace(blank)
    first = editor.decompose(tiny_concepts())
    assert editor.decomposition is first
    assert first.explanations() == made.explanations()
    assert editor.find("boat") == first.find("boat") != []
    second = editor.decompose(tiny_concepts(), layers=[-1])
    assert editor.decomposition is second
    assert editor.suppress("boat", threshold=0.1).spec.layers == [2]
    other = editor.with_decomposition(first)
    assert (other.decomposition, editor.decomposition) == (first, second)
    assert other.tower is editor.tower


# ---------------------------------------------------------------- asking


def test_asking_before_decomposing_is_refused(blank):
    fresh = replace(blank)
    for ask in (
        lambda: fresh.decomposition,
        lambda: fresh.find("boat"),
        lambda: fresh.edit(),
        lambda: fresh.suppress("boat"),
        lambda: fresh.amplify("boat"),
        lambda: fresh.invert("boat"),
        lambda: fresh.embed("boat"),
    ):
        with pytest.raises(InputError, match="call decompose first, or with_decomposition"):
            ask()


def test_a_concept_that_is_in_the_explanations_is_not_encoded_again(editor, made):
    lame = replace(editor, loaded=replace(editor.loaded, tokenizer=None)).with_decomposition(made)
    assert torch.equal(lame.embed("boat")["boat"], made.embedding_of("boat"))
    assert lame.find("BOAT") == made.find("boat")


def test_a_concept_that_is_not_goes_through_the_text_tower(editor, made):
    assert "boats" not in made.texts
    found = editor.embed("boats", "boat")
    torch.testing.assert_close(found["boats"], encode_texts(editor.model, editor.loaded.tokenizer, ["boats"])[0])
    assert list(found) == ["boats", "boat"]
    assert editor.find("boats", near=0.1) == made.find("boats", embedding=found["boats"], near=0.1)
    with pytest.raises(InputError, match="no explanation has the concept"):
        made.find("boats")  # the control: the decomposition alone cannot
    lame = replace(editor, loaded=replace(editor.loaded, tokenizer=None)).with_decomposition(made)
    with pytest.raises(InputError, match="has no tokenizer"):
        lame.find("boats")


def test_a_strangers_embedding_takes_the_template_of_the_dictionary(blank):
    prompt = "a photo of a {}"
    concepts = ConceptDictionary.from_texts(tiny_concepts().texts, template=prompt)
    editor = replace(blank)
    editor.decompose(concepts, layers=[-1])
    wanted = encode_texts(editor.model, editor.loaded.tokenizer, ["a photo of a volcano"])[0]
    torch.testing.assert_close(editor.embed("volcano")["volcano"], wanted)


@pytest.mark.parametrize("concept", ["", "  ", "\n", None, 3])
def test_a_concept_is_a_text(concept, editor):
    with pytest.raises(InputError, match="not blank"):
        editor.find(concept)
    with pytest.raises(InputError, match="not blank"):
        editor.suppress("boat", concept)


def test_an_edit_that_chooses_no_vector_is_refused(editor):
    with pytest.raises(
        InputError,
        match=r"no vector is about boat, red .* at least 1\.0 \(the largest share in all layers is 0\.\d\d\)",
    ):
        editor.suppress("boat", "red", threshold=1.0, near=1.0)
    assert editor.suppress("boat", "red", threshold=0.2).spec  # the control


def test_rules_out_of_range_are_refused(editor):
    for wrong in (
        {"threshold": 0},
        {"threshold": 2},
        {"near": 0},
        {"gain": float("nan")},
        {"layers": [9]},
        {"heads": [9]},
    ):
        with pytest.raises(InputError):
            editor.suppress("boat", **wrong)
    with pytest.raises(InputError, match="at least one concept"):
        editor.suppress()
    with pytest.raises(InputError, match="name layers, heads or vectors"):
        editor.edit().vectors(0.0)
    with pytest.raises(InputError, match="head 4"):
        editor.edit().vectors(0.0, heads=[4])
    with pytest.raises(TypeError):
        editor.suppress("boat", treshold=0.5)


# ---------------------------------------------------------------- applied


@pytest.fixture
def spec(editor):
    return editor.edit().vectors(0.0, layers=[0, 2], heads=[1]).vectors(3.0, layers=[2], vectors=[0]).spec


OUT_PROJ = {f"vision_model.encoder.layers.{n}.self_attn.out_proj.{part}" for n in (0, 2) for part in ("weight", "bias")}


def test_applied_edits_and_puts_every_byte_back(editor, spec, pixels):
    before, plain = bytes_of(editor.model), see(editor.model, pixels)
    objects = {name: id(tensor) for name, tensor in editor.model.named_parameters()}
    old_layer = {n: copy.deepcopy(editor.model.vision_model.encoder.layers[n].self_attn.out_proj) for n in (0, 2)}
    with editor.applied(spec) as model:
        assert model is editor.model
        assert changed(model, before) == OUT_PROJ
        assert (see(model, pixels) - plain).abs().max() > 1e-2
        for n in (0, 2):
            layer = model.vision_model.encoder.layers[n].self_attn.out_proj
            old = [old_layer[n].weight, old_layer[n].bias]
            assert all(torch.equal(*pair) for pair in zip((layer.weight, layer.bias), spec.apply(n, *old), strict=True))
    assert changed(editor.model, before) == set()
    assert torch.equal(see(editor.model, pixels), plain)
    assert {name: id(tensor) for name, tensor in editor.model.named_parameters()} == objects
    assert all(p.requires_grad for p in editor.model.parameters())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_applied_puts_every_byte_back_after_an_exception(error, editor, spec):
    before = bytes_of(editor.model)

    def use():
        with editor.applied(spec):
            assert changed(editor.model, before) == OUT_PROJ
            raise error

    with pytest.raises(error):
        use()
    assert changed(editor.model, before) == set()


def test_applied_puts_every_byte_back_when_it_fails_half_way(editor, spec, monkeypatch):
    before = bytes_of(editor.model)
    broken = replace(spec)
    apply = type(spec).apply

    def second_fails(self, layer, weight, bias):
        if layer == 2:
            raise MemoryError
        return apply(self, layer, weight, bias)

    monkeypatch.setattr(type(spec), "apply", second_fails)
    with pytest.raises(MemoryError), editor.applied(broken):
        pytest.fail("the block must not be entered")
    assert changed(editor.model, before) == set()


def test_applied_may_be_nested_over_different_layers(editor, spec):
    before = bytes_of(editor.model)
    middle = editor.edit().vectors(0.0, layers=[1]).spec
    with editor.applied(spec):
        outer = bytes_of(editor.model)
        with editor.applied(middle):
            assert {name.split(".")[3] for name in changed(editor.model, before)} == {"0", "1", "2"}
        assert changed(editor.model, outer) == set()
        with pytest.raises(BaseMismatch), editor.applied(spec):  # the same layers again: their base is gone
            pytest.fail("the block must not be entered")
        assert changed(editor.model, outer) == set()
    assert changed(editor.model, before) == set()


def test_applied_twice_in_a_row_is_the_same(editor, spec, pixels):
    seen = []
    for _ in range(2):
        with editor.applied(spec) as model:
            seen.append(see(model, pixels))
    assert torch.equal(*seen)


def test_applied_refuses_what_does_not_fit(editor, spec, tmp_path):
    stranger = tiny_editor(tmp_path, seed=1)
    for other, wrong, error in (
        (stranger, spec, BaseMismatch),
        (editor, spec.inverse(), InputError),
        (tiny_editor(tmp_path / "2", num_hidden_layers=2), spec, BaseMismatch),
    ):
        before = bytes_of(other.model)
        with pytest.raises(error), other.applied(wrong):
            pytest.fail("the block must not be entered")
        assert changed(other.model, before) == set()


def test_an_empty_edit_applies_as_nothing(editor, spec):
    before = bytes_of(editor.model)
    with editor.applied(spec * 0):
        assert changed(editor.model, before) == set()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_applied_in_half_precision(dtype, tokenizer):
    editor = SithEditor.from_model(clip_model().to(dtype), tokenizer)
    editor.decompose(tiny_concepts(), layers=[2])
    spec = editor.edit().vectors(0.0, heads=[1]).spec
    before = bytes_of(editor.model)
    with editor.applied(spec) as model:
        assert changed(model, before) == {name for name in OUT_PROJ if ".2." in name}
        assert model.vision_model.encoder.layers[2].self_attn.out_proj.weight.dtype == dtype
    assert changed(editor.model, before) == set()


# ---------------------------------------------------------------- models in memory


def test_from_model_takes_what_it_is_given(tokenizer):
    model = clip_model()
    assert SithEditor.from_model(model, tokenizer).loaded.name == "in memory"
    assert SithEditor.from_model(model, tokenizer, name="mine").loaded.name == "mine"
    editor = SithEditor.from_model(model, tokenizer)
    assert editor.model is model
    assert editor.decompose(tiny_concepts(), layers=[0]).base.name == "in memory"


def test_from_model_without_a_tokenizer_asks_for_a_dictionary_that_is_encoded(tokenizer, made):
    bare = SithEditor.from_model(clip_model())
    with pytest.raises(InputError, match="has no tokenizer"):
        bare.decompose(tiny_concepts())
    encoded = SithEditor.from_model(clip_model(), tokenizer).encode(tiny_concepts())
    assert bare.decompose(encoded).explanations() == made.explanations()
    assert bare.suppress("boat", threshold=0.3).spec


def test_a_model_in_memory_has_no_checkpoint_to_copy(tokenizer, tmp_path):
    editor = SithEditor.from_model(clip_model(), tokenizer)
    editor.decompose(tiny_concepts(), layers=[0])
    spec = editor.edit().vectors(0.0, heads=[0]).spec
    with pytest.raises(InputError, match="no checkpoint to copy"):
        editor.save_pretrained(tmp_path / "out", spec)
    assert not (tmp_path / "out").exists()


def test_a_model_that_was_loaded_keeps_its_name_and_can_be_saved(tmp_path, made):
    folder = save_clip(tmp_path / "base")
    editor = SithEditor.from_pretrained(folder)
    assert editor.loaded.name == str(folder)
    editor.decompose(tiny_concepts())
    spec = editor.suppress("boat", threshold=0.3).spec
    assert spec.keys == editor.with_decomposition(made).suppress("boat", threshold=0.3).spec.keys
    editor.save_pretrained(tmp_path / "out", spec)
    again = SithEditor.from_pretrained(tmp_path / "out")
    with editor.applied(spec) as model:
        before = bytes_of(model)
    assert changed(again.model, before) == set()
    assert changed(editor.model, before) != set()  # the control
    in_memory = SithEditor.from_model(editor.model, editor.loaded.tokenizer)
    assert in_memory.loaded.name == str(folder)


def test_towers_alone_name_their_companion(tokenizer, made):
    companion = clip_model()
    for model in (vision_model(), projected_vision_model()):
        alone = SithEditor.from_model(model)
        with pytest.raises(InputError, match="text_model="):
            alone.decompose(tiny_concepts())
        together = SithEditor.from_model(model, tokenizer, text_model=companion)
        assert together.text.model is companion
        found = together.decompose(tiny_concepts(), layers=[0])
        assert found.base.sha256.keys() == {k for k in made.base.sha256 if ".layers." not in k or ".layers.0." in k}
        assert together.find("boat", near=0.1) == found.find("boat", near=0.1)
        before = bytes_of(model)
        with together.applied(together.edit().vectors(0.0, heads=[1]).spec):
            assert {name.split("layers.0.")[1] for name in changed(model, before)} == {
                "self_attn.out_proj.weight", "self_attn.out_proj.bias",
            }  # fmt: skip
        assert changed(model, before) == set()


def test_a_companion_of_another_width_is_refused(tokenizer):
    with pytest.raises(InputError, match="width 32, this tower has width 64"):
        SithEditor.from_model(vision_model(hidden_size=64), tokenizer, text_model=clip_model())


def test_the_vision_tower_of_a_model_without_one_is_refused():
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = CLIPTextModelWithProjection(config)
    with pytest.raises(InputError, match="has no vision tower that can be edited; it has: text"):
        SithEditor.from_model(model, tower="vision")
    assert SithEditor.from_model(model).tower.kind == "text"  # the control


# ---------------------------------------------------------------- decompositions from elsewhere


def test_a_decomposition_of_other_weights_is_refused(blank, made, tmp_path):
    stranger = tiny_editor(tmp_path, seed=1)
    with pytest.raises(BaseMismatch, match="made for tiny"):
        stranger.with_decomposition(made)
    touched = clip_model()
    with torch.no_grad():
        touched.vision_model.encoder.layers[1].self_attn.v_proj.bias[0] += 1e-3
    with pytest.raises(BaseMismatch, match=r"layers\.1\.self_attn\.v_proj\.bias has other values"):
        SithEditor.from_model(touched).with_decomposition(made)
    with pytest.raises(SithError):
        tiny_editor(tmp_path / "2", num_hidden_layers=2).with_decomposition(made)
    assert blank.with_decomposition(made).decomposition is made  # the control


def test_a_saved_decomposition_answers_as_the_fresh_one(blank, editor, made, tmp_path):
    made.save_pretrained(tmp_path)
    again = blank.with_decomposition(Decomposition.from_pretrained(tmp_path))
    assert again.find("boat") == editor.find("boat")
    assert again.suppress("boat", threshold=0.3).spec == editor.suppress("boat", threshold=0.3).spec


def test_with_decomposition_leaves_the_editor_alone(blank, made):
    fresh = replace(blank)
    other = fresh.with_decomposition(made)
    assert other is not fresh
    assert other.model is fresh.model
    with pytest.raises(InputError, match="no decomposition yet"):
        fresh.decomposition  # noqa: B018


def test_a_model_that_changed_since_gets_no_spec(tokenizer):
    editor = SithEditor.from_model(clip_model(), tokenizer)
    editor.decompose(tiny_concepts(), layers=[0])
    edit = editor.edit().vectors(0.0, heads=[0])
    with torch.no_grad():
        editor.model.vision_model.encoder.layers[0].self_attn.out_proj.weight[0, 0] += 1
    with pytest.raises(BaseMismatch, match="has other values"):
        edit.spec  # noqa: B018
