"""Variants of a model: copies share what the edit leaves unchanged; models that cannot be compared are refused."""

from __future__ import annotations

import copy
import json
import shutil
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from sith_hf.editor import SithEditor
from sith_hf.editor.comparison import Comparison
from sith_hf.edits.in_memory import applied
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import BaseMismatch, InputError
from sith_hf.evaluation.plan import Collateral
from sith_hf.evaluation.run import evaluate
from sith_hf.evaluation.texts import caption_embeddings
from sith_hf.images import DatasetSettings
from sith_hf.images.comparison import ModelVariant, edited_copy, model_variants
from sith_hf.images.model_variant import embed_all, shared_depth
from tests.support.evaluating import dataset
from tests.support.made import tiny_concepts, tiny_editor
from tests.support.tiny import (
    byte_tokenizer,
    clip_model,
    image_processor,
    projected_vision_model,
    save_clip,
    vision_model,
)


def text_edit(editor):
    """An edit of the text tower."""
    editor.decompose(tiny_concepts())
    return editor.edit().vectors(-1.0, vectors=[0, 1]).spec


PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Checkpoints on disk: a base, its edit, and others that are no edits of it."""
    folder = tmp_path_factory.mktemp("variants")
    save_clip(folder / "base")
    image_processor().save_pretrained(folder / "base")
    editor = SithEditor.from_pretrained(folder / "base")
    editor.decompose(tiny_concepts(), layers=[-2, -1])
    spec = editor.edit().vectors(0.0, vectors=[0, 1]).spec
    spec.save_pretrained(folder / "spec")
    editor.save_pretrained(folder / "edited", spec)
    texts = text_edit(SithEditor.from_pretrained(folder / "base", tower="text"))
    texts.save_pretrained(folder / "text-spec")
    editor.save_pretrained(folder / "text-edited", texts)
    editor.save_pretrained(folder / "both-edited", spec.compose(texts))
    shutil.copytree(folder / "base", folder / "same")
    save_clip(folder / "stranger", seed=5)
    image_processor().save_pretrained(folder / "stranger")
    save_clip(folder / "wider", vision={"intermediate_size": 40})
    image_processor().save_pretrained(folder / "wider")
    shutil.copytree(folder / "edited", folder / "otherwise")
    settings = json.loads((folder / "otherwise" / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.1, 0.2, 0.3]
    (folder / "otherwise" / "preprocessor_config.json").write_text(json.dumps(settings))
    shutil.copytree(folder / "edited", folder / "bare")
    (folder / "bare" / "preprocessor_config.json").unlink()
    return folder


@pytest.fixture(scope="module")
def editor(editor):
    """The tiny editor, with a decomposition."""
    editor.decompose(tiny_concepts(), layers=[-2, -1])
    return editor


@pytest.fixture(scope="module")
def spec(editor):
    return editor.edit().vectors(0.0, layers=[-1], vectors=[0, 1, 2]).spec


class TestCopies:
    def test_they_share_every_parameter_that_the_edit_leaves_alone(self, editor, spec):
        base, edited, other = (
            dict(c.model.named_parameters())
            for c in model_variants(
                editor, {"base": None, "edited": spec, "half": spec * 0.5}, processor=image_processor()
            )
        )
        own = {name for name in base if base[name] is not edited[name]}
        assert own == {f"vision_model.encoder.layers.2.self_attn.out_proj.{part}" for part in ("weight", "bias")}
        assert all(edited[name] is not other[name] for name in own)

    def test_a_copy_is_the_model_with_the_edit_in_it_and_the_base_stays(self, editor, spec):
        before = state(editor.model)
        copied = edited_copy(editor.model, spec)
        assert all(torch.equal(value, before[name]) for name, value in editor.model.state_dict().items())
        with applied(editor.model, spec):
            wanted = state(editor.model)
        assert all(torch.equal(value, wanted[name]) for name, value in copied.state_dict().items())
        assert not torch.equal(
            wanted["vision_model.encoder.layers.2.self_attn.out_proj.weight"],
            before["vision_model.encoder.layers.2.self_attn.out_proj.weight"],
        )

    @pytest.mark.parametrize("make", [vision_model, projected_vision_model])
    def test_vision_towers(self, make, tmp_path):
        made = SithEditor.from_model(make(), byte_tokenizer(tmp_path), text_model=clip_model(seed=3))
        made.decompose(tiny_concepts(), layers=[-1])
        spec = made.edit().vectors(-1.0, heads=[0]).spec
        base, edited = model_variants(made, {"base": None, "edited": spec}, processor=image_processor())
        with torch.no_grad(), applied(made.model, spec):
            wanted = base.embed(PIXELS)
        with torch.no_grad():
            assert torch.equal(edited.embed(PIXELS), wanted)
            assert not torch.equal(base.embed(PIXELS), wanted)
        shared = dict(base.model.named_parameters())
        assert sum(value is not shared[name] for name, value in edited.model.named_parameters()) == 2

    def test_a_model_without_the_base_among_them(self, editor, spec):
        for specs in ({"edited": spec}, {"base": spec}):
            with pytest.raises(InputError, match="base"):
                model_variants(editor, specs, processor=image_processor())

    def test_a_model_in_memory_needs_a_processor(self, editor):
        with pytest.raises(InputError, match=r"preprocessor_config\.json"):
            model_variants(editor, {"base": None})

    def test_an_edit_of_another_model(self, editor, spec, tmp_path):
        with pytest.raises(BaseMismatch):
            model_variants(tiny_editor(tmp_path, seed=8), {"base": None, "edited": spec}, processor=image_processor())

    def test_a_model_that_is_not_in_memory(self, spec):
        with torch.device("meta"):
            empty = clip_model.__globals__["CLIPModel"](clip_model().config)
        with pytest.raises(InputError, match="offloaded"):
            edited_copy(empty, spec)


class TestEmbedding:
    def test_it_is_what_transformers_gives(self, editor):
        with torch.no_grad():
            wanted = normalize(editor.model.get_image_features(pixel_values=PIXELS).pooler_output, dim=-1)
            assert torch.allclose(ModelVariant("base", editor.model, None).embed(PIXELS), wanted, atol=1e-6)

    def test_a_tower_without_projection_is_refused(self):
        with pytest.raises(InputError, match="text_model"), torch.no_grad():
            ModelVariant("base", vision_model(), None).embed(PIXELS)

    @pytest.mark.parametrize("precision", ["no", "bf16"])
    def test_models_come_back_as_they_were(self, editor, spec, precision, tmp_path):
        dataset([3, 200, 90], label=["a", "b", "c"]).save_to_disk(tmp_path / "d")
        task = Collateral(data=DatasetSettings(dataset=str(tmp_path / "d")))
        pair = model_variants(editor, {"base": None, "edited": spec}, processor=image_processor())
        editor.model.train()
        before = state(editor.model)
        found = evaluate(pair, [task], text=None, precision=precision, resamples=100)
        assert editor.model.training
        editor.model.eval()
        assert all(torch.equal(value, before[name]) for name, value in editor.model.state_dict().items())
        assert found.value("collateral", "drift, mean", "edited") > 0

    def test_a_processor_of_another_model(self, editor, tmp_path):
        from transformers import CLIPImageProcessorPil

        dataset([3, 200], label=["a", "b"]).save_to_disk(tmp_path / "d")
        task = Collateral(data=DatasetSettings(dataset=str(tmp_path / "d")))
        other = CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24})
        with pytest.raises(InputError, match="belong to another model"):
            evaluate(model_variants(editor, {"base": None}, processor=other), [task], text=None)
        pair = (ModelVariant("base", editor.model, image_processor()), ModelVariant("edited", editor.model, other))
        with pytest.raises(InputError, match="different image processors"):
            evaluate(pair, [task], text=None)


class TestComparison:
    def test_two_checkpoints_and_a_checkpoint_with_a_spec_are_the_same_comparison(self, work):
        two = Comparison.from_checkpoints(work / "base", {"edited": work / "edited"})
        one = Comparison.from_spec(work / "base", EditSpec.from_pretrained(work / "spec"))
        assert [c.name for c in two.variants] == [c.name for c in one.variants] == ["base", "edited"]
        for first, second in zip(two.variants, one.variants, strict=True):
            with torch.no_grad():
                assert torch.equal(first.embed(PIXELS), second.embed(PIXELS))
        assert two.text is not None

    @pytest.mark.parametrize(
        ("other", "complaint"),
        [
            ("same", "same weights as base"),
            ("base", "same weights as base"),
            ("stranger", "different text towers"),
            ("wider", "differ in architecture or size"),
            ("otherwise", "different image processors"),
            ("bare", r"no processor_config\.json or preprocessor_config\.json"),
            ("missing", "no file or folder has this name"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(self, work, other, complaint):
        with pytest.raises(InputError, match=complaint):
            Comparison.from_checkpoints(work / "base", {"edited": work / other})

    def test_an_edit_that_changes_nothing(self, work):
        with pytest.raises(InputError, match="edit is empty"):
            Comparison.from_spec(work / "base", EditSpec.from_pretrained(work / "spec") * 0.0)


class TestTextTowers:
    """A variant with an edited text tower encodes texts with it; the others share the text tower of the base."""

    def test_only_edited_text_towers_are_of_the_variant(self, work):
        editor = SithEditor.from_pretrained(work / "base")
        vision, texts = (EditSpec.from_pretrained(work / name) for name in ("spec", "text-spec"))
        specs = {"base": None, "vision only": vision, "text only": texts, "edited": vision.compose(texts)}
        made = {variant.name: variant for variant in model_variants(editor, specs)}
        assert made["base"].text is made["vision only"].text is None
        for name in ("text only", "edited"):
            assert made[name].text.model is made[name].model
            assert made[name].text.tokenizer is editor.loaded.tokenizer
        with torch.no_grad():
            base, vision, texts, both = (variant.embed(PIXELS) for variant in made.values())
        assert torch.equal(base, texts)
        assert torch.equal(vision, both)
        assert not torch.equal(base, vision)

    @pytest.mark.parametrize("name", ["text-edited", "both-edited"])
    def test_checkpoints_and_specs_are_the_same_comparison(self, work, name):
        specs = [EditSpec.from_pretrained(work / part) for part in ("text-spec", "spec")]
        spec = specs[0] if name == "text-edited" else specs[1].compose(specs[0])
        ways = (
            Comparison.from_checkpoints(work / "base", {"edited": work / name}),
            Comparison.from_spec(work / "base", spec),
        )
        found = []
        for way in ways:
            base, edited = way.variants
            assert base.text is None
            found.append(caption_embeddings(edited.text, ["a boat", "a car"]))
            assert not np.allclose(found[-1], caption_embeddings(way.text, ["a boat", "a car"]), atol=1e-3)
        assert np.array_equal(*found)

    def test_texts_of_another_model_do_not_show_a_text_edit(self, work):
        with pytest.raises(InputError, match="leave out text_model"):
            Comparison.from_checkpoints(work / "base", {"edited": work / "text-edited"}, text_model=work / "stranger")
        Comparison.from_checkpoints(work / "base", {"edited": work / "edited"}, text_model=work / "stranger")


class TestSharing:
    """Layers that variants share run once, and embeddings stay bit-identical."""

    @pytest.fixture
    def variants(self, editor):
        edit = editor.edit()
        specs = {"base": None, "edited": edit.vectors(0.0, layers=[-1], vectors=[0]).spec}
        specs |= {"deep": edit.vectors(-1.0, layers=[-2]).spec, "none": edit.spec}
        return model_variants(editor, specs, processor=image_processor())

    def test_it_changes_no_bit(self, variants):
        with torch.no_grad():
            alone = [variant.embed(PIXELS) for variant in variants]
            others = [variant.embed(-PIXELS) for variant in variants]
            for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
                together = embed_all([variants[i] for i in order], PIXELS)
                assert all(torch.equal(found, alone[i]) for i, found in zip(order, together, strict=True))
            # The models keep nothing of these images.
            assert all(torch.equal(c.embed(-PIXELS), own) for c, own in zip(variants, others, strict=True))
        assert not torch.equal(alone[0], alone[1])

    def test_shared_layers_run_once(self, variants):
        count = []
        with ExitStack() as hooks, torch.no_grad():
            for variant in variants:
                for layer in variant.model.vision_model.encoder.layers:
                    hook = layer.mlp.register_forward_hook(lambda *_, name=variant.name: count.append(name))
                    hooks.callback(hook.remove)
            embed_all(variants, PIXELS)
        assert {name: count.count(name) for name in ("base", "edited", "deep", "none")} == {
            "base": 3, "edited": 1, "deep": 2, "none": 0,
        }  # fmt: skip

    def test_depths(self, variants):
        base = variants[0].model
        assert [shared_depth(base, variant.model) for variant in variants] == [0, 2, 1, 3]
        assert shared_depth(base, clip_model(seed=4)) == 0
        assert shared_depth(base, clip_model(num_hidden_layers=2)) == 0

    def test_a_model_with_other_layers_before_shared_ones_is_computed_alone(self, variants):
        base = variants[0].model
        stranger = copy.deepcopy(base, {id(parameter): parameter for parameter in base.parameters()})
        stranger.vision_model.pre_layrnorm.weight = torch.nn.Parameter(torch.ones(32) * 3)
        other = ModelVariant("edited", stranger, None)
        with torch.no_grad():
            assert torch.equal(embed_all([variants[0], other], PIXELS)[1], other.embed(PIXELS))
            assert not torch.equal(variants[0].embed(PIXELS), other.embed(PIXELS))

    def test_checkpoints_share_what_they_have_in_common(self, work):
        base, edited = (
            c.model for c in Comparison.from_checkpoints(work / "base", {"edited": work / "edited"}).variants
        )
        ours = dict(base.named_parameters())
        own = {name for name, value in edited.named_parameters() if value is not ours[name]}
        assert own
        assert all(".self_attn.out_proj." in name for name in own)
        assert shared_depth(base, edited) == 1
