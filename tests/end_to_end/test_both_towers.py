"""The text tower of CLIP from its decomposition to a checkpoint, and the edits of both towers in one."""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn.functional import normalize
from transformers import (
    AutoTokenizer,
    CLIPModel,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
)

from sith_hf.cards import picture, spec_card
from sith_hf.checkpoint import export_adapter, history, revert, save_edited, verify
from sith_hf.core.fingerprint import tensor_sha256
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec, TowerSpecs, applied
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.images.comparison import edited_copy
from sith_hf.publish import card_of, push_edited
from sith_hf.towers import encode_texts
from tests.support.both import PIXELS, TOKENS, editor_of, explicit, make_both, save_text, save_whole
from tests.support.cli import refused, sith
from tests.support.made import WORDS, tiny_concepts
from tests.support.raw import read_raw
from tests.support.tiny import byte_tokenizer, image_processor, vision_model

TEXTS = ["a red boat", "Ocean", "café 运动", "x"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_both(tmp_path_factory.mktemp("both"))


@pytest.fixture(scope="module")
def both(made):
    return made.of_vision.compose(made.of_text)


@pytest.fixture(scope="module")
def edited(made, both):
    save_edited(made.base, both, made.base.with_name("edited"))
    return made.base.with_name("edited")


@pytest.fixture(scope="module")
def editor(made):
    """The editor of a tower, with a decomposition."""
    return cache(lambda tower, fold=True: editor_of(made.base, tower, fold=fold))


def text_embeddings(model, ids=TOKENS):
    with torch.no_grad():
        return model.text_projection(model.text_model(input_ids=ids).pooler_output)


def image_embeddings(model):
    with torch.no_grad():
        return model.visual_projection(model.vision_model(pixel_values=PIXELS.to(model.dtype)).pooler_output)


def whole(folder, **options):
    model, report = CLIPModel.from_pretrained(folder, output_loading_info=True, **options)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


class TestTextTower:
    @pytest.mark.parametrize("fold", [True, False])
    def test_a_decomposition_is_the_svd_of_the_value_output_matrices(self, fold, editor):
        found = editor("text", fold)
        result, model = found.decomposition, found.model
        assert (result.tower, result.num_heads, result.rank) == ("text", 2, 8)
        assert result.settings["readout"] == "final_layer_norm, text_projection (exact)"
        flat = torch.eye(16, dtype=torch.float64) - 1 / 16
        for number, layer in enumerate(model.text_model.encoder.layers):
            for head in range(2):
                part = slice(8 * head, 8 * head + 8)
                value, out = layer.self_attn.v_proj.weight[part].double(), layer.self_attn.out_proj.weight[:, part]
                matrix = out.double() @ value
                if fold:
                    matrix = flat @ matrix @ (layer.layer_norm1.weight.double().diag() @ flat)
                _, strength, _ = torch.linalg.svd(matrix)
                torch.testing.assert_close(
                    result.singular_values[number, head].double(), strength[:8], atol=1e-5, rtol=0
                )
                s, w, r = (t[number, head].double() for t in (result.singular_values, result.write, result.read))
                torch.testing.assert_close((w.T * s) @ r, matrix, atol=1e-5, rtol=0)

    def test_a_direction_reaches_the_joint_space_as_in_the_model(self, made):
        tower, model = made.text.tower, made.text.model
        directions = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            wanted = model.text_projection(model.text_model.final_layer_norm(directions))
        torch.testing.assert_close(tower.to_joint(directions), normalize(wanted, dim=-1))

    def test_text_embeddings_are_the_librarys(self, made, edited):
        for folder in (made.base, edited):
            model, tokenizer = whole(folder), AutoTokenizer.from_pretrained(folder)
            with torch.no_grad():
                inputs = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
                wanted = normalize(features(model.get_text_features(**inputs)), dim=-1)
            torch.testing.assert_close(encode_texts(model, tokenizer, TEXTS), wanted, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("tower", ["text", "vision"])
    @pytest.mark.parametrize("fold", [True, False])
    @pytest.mark.parametrize("gain", [0.0, -1.0, 3.0])
    def test_an_edited_checkpoint_computes_what_explicit_matrices_do(self, tower, fold, gain, made, editor, tmp_path):
        editor = editor(tower, fold)
        spec = editor.edit().vectors(gain, layers=[-1], heads=[0]).vectors(gain, layers=[0], vectors=[1, 2]).spec
        editor.save_pretrained(tmp_path / "edited", spec)
        base, found = whole(made.base, attn_implementation="eager"), whole(tmp_path / "edited")
        literal = explicit(base, tower, editor.decomposition, dict(zip(spec.keys, spec.gain.tolist(), strict=True)))
        embed = {"text": text_embeddings, "vision": image_embeddings}[tower]
        torch.testing.assert_close(embed(found).double(), embed(literal), atol=1e-4, rtol=0)
        assert (embed(found) - embed(base)).abs().max() > 0.1  # the control
        with editor.applied(spec) as model:
            assert torch.equal(embed(model), embed(found))

    def test_words_find_and_suppress_vectors(self, made):
        edit = made.text.suppress(WORDS[0], top=3)
        assert (edit.spec.tower, len(edit.spec)) == ("text", 3)
        assert edit.impact.tower == "text"
        assert made.text.impact(edit.spec) == edit.impact
        assert "of the text tower" in str(edit)
        topic = made.text.suppress(*WORDS[:3], threshold=0.05)
        assert topic.spec.tower == "text"
        assert made.text.find(WORDS[0])
        assert edit.taken[WORDS[0]] > 0


def features(found):
    return found if torch.is_tensor(found) else found.pooler_output


class TestBothTowers:
    def test_only_the_edited_tensors_differ(self, made, both, edited):
        assert isinstance(both, TowerSpecs)
        ours, theirs = (read_raw(folder / "model.safetensors")[0] for folder in (made.base, edited))
        assert list(ours) == list(theirs)
        changed = {name for name in ours if ours[name] != theirs[name]}
        assert changed == both.touched_keys
        assert {name.partition(".")[0] for name in changed} == {"vision_model", "text_model"}
        found = verify(edited, made.base)
        assert found.ok
        assert (found.edited, found.deviation) == (len(changed), 0)

    def test_each_tower_is_edited_as_if_it_were_alone(self, made, both, edited):
        found = whole(edited)
        with applied(whole(made.base), made.of_text) as model:
            assert torch.equal(text_embeddings(found), text_embeddings(model))
            assert not torch.equal(image_embeddings(found), image_embeddings(model))
        with applied(whole(made.base), made.of_vision) as model:
            assert torch.equal(image_embeddings(found), image_embeddings(model))
            assert not torch.equal(text_embeddings(found), text_embeddings(model))
        model = whole(made.base)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with applied(model, both):
            assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in model.state_dict().items())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_get_text_features_of_the_edited_folder(self, made, edited):
        with torch.no_grad():
            base, found = (
                features(whole(folder).get_text_features(input_ids=TOKENS)) for folder in (made.base, edited)
            )
        torch.testing.assert_close(found, text_embeddings(whole(edited)))
        assert (found - base).abs().max() > 0.1

    def test_a_copy_shares_all_other_parameters(self, made, both):
        model = whole(made.base)
        copied = edited_copy(model, both)
        ours = dict(model.named_parameters())
        own = {name for name, parameter in copied.named_parameters() if parameter is not ours[name]}
        assert own == both.touched_keys

    def test_the_revert_removes_both(self, made, edited, tmp_path):
        saved = revert(edited, tmp_path / "reverted")
        base, found = whole(made.base), whole(saved.folder)
        for embed in (text_embeddings, image_embeddings):
            torch.testing.assert_close(embed(found), embed(base), atol=1e-5, rtol=0)
            assert (embed(whole(edited)) - embed(base)).abs().max() > 0.1
        assert not (saved.folder / "sith").exists()

    @pytest.mark.parametrize("first", ["vision", "text"])
    def test_an_edit_of_the_other_tower_later_and_two_reverts(self, first, made, tmp_path):
        second = {"vision": "text", "text": "vision"}[first]
        specs = {"vision": made.of_vision, "text": made.of_text}
        save_edited(made.base, specs[first], tmp_path / "one")
        editor = editor_of(tmp_path / "one", second)
        again = editor.edit().vectors(0.0, layers=[-1], vectors=[0]).spec
        editor.save_pretrained(tmp_path / "two", again)
        assert [spec.tower for spec in history(tmp_path / "two")] == [second, first]
        assert SithEditor.from_pretrained(tmp_path / "two").history == history(tmp_path / "two")
        assert verify(tmp_path / "two", tmp_path / "one").ok
        revert(tmp_path / "two", tmp_path / "back")
        assert history(tmp_path / "back") == (specs[first],)
        revert(tmp_path / "back", tmp_path / "base")
        found, base = whole(tmp_path / "base"), whole(made.base)
        for embed in (text_embeddings, image_embeddings):
            torch.testing.assert_close(embed(found), embed(base), atol=1e-5, rtol=0)

    def test_both_again_on_top_of_both(self, made, both, edited, tmp_path):
        vision, text = (editor_of(edited, tower) for tower in ("vision", "text"))
        more = [each.edit().vectors(0.5, layers=[-1]).spec for each in (vision, text)]
        save_edited(edited, more[1].compose(more[0]), tmp_path / "twice")
        assert history(tmp_path / "twice") == (more[0].compose(more[1]), both)
        revert(tmp_path / "twice", tmp_path / "once")
        revert(tmp_path / "once", tmp_path / "none")
        torch.testing.assert_close(
            text_embeddings(whole(tmp_path / "none")), text_embeddings(whole(made.base)), atol=1e-5, rtol=0
        )

    def test_impact_is_of_the_decomposed_tower(self, made, both):
        assert made.text.impact(both) == made.text.impact(made.of_text)
        assert made.vision.impact(both) == made.vision.impact(made.of_vision)
        with pytest.raises(BaseMismatch, match="of the text tower, and the decomposition of the vision tower"):
            made.vision.impact(made.of_text)

    def test_cards_name_both_towers(self, made, both, edited):
        card = (edited / "README.md").read_text()
        assert "of the vision tower have new gains" in card
        assert "of the text tower have new gains" in card
        assert "The vision tower:" in card
        assert "The text tower:" in card
        plain = card.replace("\\", "")
        assert "| way to the joint space | final_layer_norm, text_projection (exact) |" in plain
        assert "| way to the joint space | post_layernorm, visual_projection (exact) |" in plain
        assert "| tower | layer | head | vector | gain |" in card
        assert card_of(edited).rstrip() in card
        one = spec_card(made.of_text, repo_id=None)
        assert "each attention head of the text tower is" in one
        assert "vision tower" not in one
        assert "| tower | layer" not in one

    def test_the_picture_has_a_grid_for_each_tower(self, made, both, edited, tmp_path):
        sizes = {}
        for name, spec in (("both", both), ("vision", made.of_vision), ("text", made.of_text)):
            (tmp_path / name).write_bytes(picture(edited, spec))
            with Image.open(tmp_path / name) as image:
                sizes[name] = image.height
        assert max(sizes["vision"], sizes["text"]) < sizes["both"] < sizes["vision"] + sizes["text"]
        assert (edited / "sith" / "edit_map.png").read_bytes() == (tmp_path / "both").read_bytes()

    def test_it_can_be_pushed(self, edited):
        pushed = push_edited(edited, "me/edited", dry_run=True)
        assert {"model.safetensors", "sith/edit_spec.safetensors", "sith/edit_map.png"} <= set(pushed.sent)
        assert "The text tower:" in pushed.card

    def test_the_edit_alone_can_be_pushed(self, both):
        local = TowerSpecs(tuple(replace(p, base=replace(p.base, name="/home/me/secret")) for p in both.parts))
        pushed = local.push_to_hub("me/both", dry_run=True)
        assert set(pushed.sent) >= {"edit_spec.safetensors"}
        assert "The text tower:" in pushed.card
        assert "home" not in pushed.card
        assert (
            "of the vision tower, with 4 heads per layer and of the text tower, with 2 heads per layer" in pushed.card
        )


class TestAdapter:
    def test_peft_loads_both(self, made, both, tmp_path):
        export_adapter(both, tmp_path / "adapter")
        model = PeftModel.from_pretrained(whole(made.base), tmp_path / "adapter").eval()
        edited, base = edited_copy(whole(made.base), both), whole(made.base)
        for embed in (text_embeddings, image_embeddings):
            torch.testing.assert_close(embed(model.base_model.model), embed(edited), atol=1e-5, rtol=1e-4)
            with model.disable_adapter():
                torch.testing.assert_close(embed(model.base_model.model), embed(base))
        card = (tmp_path / "adapter" / "README.md").read_text()
        assert "This adapter is for `CLIPModel`." in card
        assert "need" not in card.split("This adapter is for")[1].split("\n\n")[0]

    @pytest.mark.parametrize("kind", [CLIPModel, CLIPTextModel, CLIPTextModelWithProjection])
    def test_peft_loads_the_text_tower_into_every_class(self, kind, made, tmp_path):
        export_adapter(made.of_text, tmp_path / "adapter", kind.__name__)
        model = PeftModel.from_pretrained(kind.from_pretrained(made.base), tmp_path / "adapter").eval()
        edited, base = edited_copy(kind.from_pretrained(made.base), made.of_text), kind.from_pretrained(made.base)
        with torch.no_grad():
            ours, theirs, before = (
                getattr(each, "text_model", each)(input_ids=TOKENS)[0]
                for each in (model.base_model.model, edited, base)
            )
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        assert (ours - before).abs().max() > 0.1

    def test_a_class_without_the_towers_is_refused(self, made, both, tmp_path):
        for spec, kind in (
            (made.of_text, "CLIPVisionModel"),
            (made.of_vision, "CLIPTextModel"),
            (both, "CLIPVisionModelWithProjection"),
            (both, "CLIPTextModelWithProjection"),
        ):
            with pytest.raises(UnsupportedModel, match="CLIPModel"):
                export_adapter(spec, tmp_path / "adapter", kind)
        assert not (tmp_path / "adapter").exists()


class TestTextEncoders:
    """CLIPTextModel and CLIPTextModelWithProjection, as in Stable Diffusion and in retrieval."""

    @pytest.fixture(scope="class", params=["CLIPTextModel", "CLIPTextModelWithProjection", "as in 2022"])
    def encoder(self, request, made, tmp_path_factory):
        name = "CLIPTextModel" if request.param == "as in 2022" else request.param
        kind = {"CLIPTextModel": CLIPTextModel, "CLIPTextModelWithProjection": CLIPTextModelWithProjection}[name]
        folder = save_text(tmp_path_factory.mktemp("text") / "encoder", kind, whole(made.base))
        byte_tokenizer(folder.parent / "bytes").save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        if request.param == "as in 2022":
            tensors = {f"text_model.{key}": tensor for key, tensor in tensors.items()}
            tensors["text_model.embeddings.position_ids"] = torch.arange(77)[None]
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        else:
            assert any(key.startswith("encoder.layers") for key in tensors) == (name == "CLIPTextModel")
        return folder, kind

    def outputs(self, folder, kind):
        model, report = kind.from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"]
        with torch.no_grad():
            return model.eval()(input_ids=TOKENS)[0]

    def test_it_is_explained_edited_and_reverted(self, encoder, made, tmp_path):
        folder, kind = encoder
        companion = made.base if kind is CLIPTextModel else None
        editor = SithEditor.from_pretrained(folder, text_model=companion)
        assert editor.tower.kind == "text"
        editor.decompose(tiny_concepts())
        spec = editor.edit().vectors(3.0, layers=[-1], heads=[0]).spec
        saved = editor.save_pretrained(tmp_path / "edited", spec)
        assert verify(saved.folder, folder).ok
        edited, base = self.outputs(saved.folder, kind), self.outputs(folder, kind)
        assert (edited - base).abs().max() > 0.1
        with editor.applied(spec) as model, torch.no_grad():
            assert torch.equal(model(input_ids=TOKENS)[0], edited)
        revert(saved.folder, tmp_path / "back")
        torch.testing.assert_close(self.outputs(tmp_path / "back", kind), base, atol=1e-5, rtol=0)
        # The same edit fits the whole model, which has these weights.
        save_edited(made.base, spec, tmp_path / "whole")
        with editor.applied(spec) as model, torch.no_grad():
            inner = getattr(model, "text_model", model)(input_ids=TOKENS).pooler_output
        torch.testing.assert_close(whole(tmp_path / "whole").text_model(input_ids=TOKENS).pooler_output, inner)

    def test_without_a_projection_it_needs_the_whole_model(self, made, tmp_path):
        folder = save_text(tmp_path / "encoder", CLIPTextModel, whole(made.base))
        editor = SithEditor.from_pretrained(folder)
        with pytest.raises(InputError, match="text_model="):
            editor.decompose(tiny_concepts())


class TestRefused:
    def test_a_text_edit_of_a_vision_model(self, made, both, tmp_path):
        CLIPVisionModelWithProjection.from_pretrained(made.base).save_pretrained(tmp_path / "vision")
        image_processor().save_pretrained(tmp_path / "vision")
        for spec in (made.of_text, both):
            with pytest.raises(BaseMismatch, match=r"of the text tower.*CLIPVisionModelWithProjection.*: vision"):
                save_edited(tmp_path / "vision", spec, tmp_path / "out")
            with (
                pytest.raises(UnsupportedModel, match="does not have the text tower"),
                applied(CLIPVisionModelWithProjection.from_pretrained(made.base), spec),
            ):
                pytest.fail("the block must not be entered")
        assert not (tmp_path / "out").exists()
        save_edited(tmp_path / "vision", made.of_vision, tmp_path / "out")  # the control

    def test_a_vision_edit_of_a_text_encoder(self, made, tmp_path):
        folder = save_text(tmp_path / "encoder", CLIPTextModel, whole(made.base))
        with pytest.raises(BaseMismatch, match=r"of the vision tower.*CLIPTextModel.*: text"):
            save_edited(folder, made.of_vision, tmp_path / "out")
        with (
            pytest.raises(UnsupportedModel, match="does not have the vision tower"),
            applied(CLIPTextModel.from_pretrained(folder), made.of_vision),
        ):
            pytest.fail("the block must not be entered")
        save_edited(folder, made.of_text, tmp_path / "out")  # the control

    def test_both_where_one_has_other_weights(self, made, both, tmp_path):
        other = save_whole(tmp_path / "other", seed=3)
        tensors, theirs = (load_file(folder / "model.safetensors") for folder in (made.base, other))
        mixed = {key: theirs[key] if key.startswith("text") else tensor for key, tensor in tensors.items()}
        save_file(mixed, other / "model.safetensors", {"format": "pt"})
        with pytest.raises(BaseMismatch, match=r"text_model.*has other values"):
            save_edited(other, both, tmp_path / "out")
        model = whole(other)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(BaseMismatch, match=r"text_model.*has other values"), applied(model, both):
            pytest.fail("the block must not be entered")
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        save_edited(other, made.of_vision, tmp_path / "out")  # the control

    @pytest.mark.parametrize("names", ["other", "vision", "no bias", "none", "good"])
    def test_an_edit_that_names_other_tensors(self, names, made, tmp_path):
        """The files of a spec may name any tensor of the right shape, with its fingerprint."""
        spec, layer = made.of_text, made.of_text.layers[0]
        here, other = spec.place.outputs, "text_model.encoder.layers.0.self_attn.q_proj."
        outputs = {
            "other": {**here, layer: (f"{other}weight", f"{other}bias")},
            "vision": {},  # those of CLIP's vision tower
            "no bias": {number: (weight, None) for number, (weight, _) in here.items()},
            "none": {**here, layer: ("no\n\x1b[31msuch|tensor", None)},
            "good": here,
        }[names]
        tensors = load_file(made.base / "model.safetensors")
        changed = replace(spec, place=replace(spec.place, outputs=outputs))
        sha256 = {name: tensor_sha256(tensors.get(name, torch.zeros(1))) for name in changed.touched_keys}
        changed = replace(changed, base=replace(spec.base, sha256={**spec.base.sha256, **sha256}))
        changed.save_pretrained(tmp_path / "spec")
        command = ("save-edited", made.base, "--spec", tmp_path / "spec", "-o", tmp_path / "o")
        if names == "good":
            assert sith(*command).code == 0
            assert verify(tmp_path / "o", base=made.base).ok
            return
        assert "names the tensors" in refused(sith(*command))
        assert not (tmp_path / "o").exists()
        with pytest.raises(BaseMismatch), applied(CLIPModel.from_pretrained(made.base), changed):
            pass
        # A folder that was edited by such a spec is not reverted by it either.
        save_edited(made.base, spec, tmp_path / "edited")
        weights = load_file(tmp_path / "edited" / "model.safetensors")
        after = {name: tensor_sha256(weights.get(name, torch.zeros(1))) for name in changed.touched_keys}
        changed.with_edited_sha256(after).save_pretrained(tmp_path / "edited" / "sith")
        with pytest.raises((BaseMismatch, InputError)):
            revert(tmp_path / "edited", tmp_path / "reverted")
        assert not (tmp_path / "reverted").exists()

    def test_an_edit_of_a_layer_that_is_not_there(self, made, tmp_path):
        spec = made.of_text
        stem = "text_model.encoder.layers.0.self_attn.out_proj."
        far = replace(
            spec,
            layer=torch.full_like(spec.layer, 2**62),
            head=torch.zeros_like(spec.head),
            vector=torch.arange(len(spec)),
            place=replace(spec.place, outputs={2**62: (f"{stem}weight", f"{stem}bias")}),
        )
        far.save_pretrained(tmp_path / "spec")
        message = refused(sith("save-edited", made.base, "--spec", tmp_path / "spec", "-o", tmp_path / "o"))
        assert "ends with layer 1" in message
        message = refused(sith("export-adapter", tmp_path / "spec", "-o", tmp_path / "a"))
        assert "expected at most 1000" in message

    def test_a_decomposition_of_the_other_tower(self, made):
        vision_only = SithEditor.from_model(vision_model(), name="vision")
        with pytest.raises(InputError, match=r"a CLIPVisionModel has no text tower.*it has: vision"):
            vision_only.with_decomposition(made.text.decomposition)
        assert made.vision.with_decomposition(made.text.decomposition).tower.kind == "text"


class TestCommands:
    @pytest.fixture(scope="class")
    def specs(self, made, tmp_path_factory):
        """An edit of each tower, made by the commands."""
        folder = tmp_path_factory.mktemp("cli")
        (folder / "concepts.txt").write_text("\n".join(WORDS) + "\n", encoding="utf-8")
        for tower in ("vision", "text"):
            dec, words = folder / f"{tower}-dec", ("--concepts", folder / "concepts.txt")
            ran = sith("decompose", made.base, "-o", dec, *words, "--tower", tower, "--json")
            assert ran.code == 0, ran.err
            found = json.loads(ran.out)
            assert found["tower"] == tower
            assert found["readout"].endswith("projection (exact)")
            ran = sith("edit", made.base, "--decomposition", dec, "--suppress", WORDS[0], "--top", "3",
                       "-o", folder / tower, "--json")  # fmt: skip
            assert ran.code == 0, ran.err
            assert json.loads(ran.out)["impact"]["tower"] == tower
        return folder

    def test_the_text_tower_again_is_already_done(self, made, specs):
        words = ("--concepts", specs / "concepts.txt")
        ran = sith("decompose", made.base, "-o", specs / "text-dec", *words, "--tower", "text")
        assert ran.code == 0, ran.err
        assert "already done" in ran.err
        refused(sith("decompose", made.base, "-o", specs / "text-dec", *words))

    def test_show_find_and_judge(self, specs):
        ran = sith("show", specs / "text", "--details")
        assert "\nEdit of the text tower of base: 3 singular vectors" in ran.out
        assert {row["tower"] for row in json.loads(sith("show", specs / "text", "--json").out)} == {"text"}
        assert sith("show", specs / "text-dec", "--layers", "-1").code == 0
        assert "poles are silent" in sith("find", specs / "text-dec", WORDS[0]).out  # random weights
        assert WORDS[0] in sith("find", specs / "text-dec", WORDS[0], "--all").out
        topic = ("--topic", "places", "--concepts", ",".join(WORDS[:3]))
        assert sith("judge", specs / "text-dec", "-o", specs / "scores", *topic).code == 0

    def test_two_specs_in_one_checkpoint(self, made, specs, tmp_path):
        named = [argument for tower in ("text", "vision") for argument in ("--spec", specs / tower)]
        ran = sith("save-edited", made.base, *named, "-o", tmp_path / "edited")
        assert ran.code == 0, ran.err
        found = EditSpec.from_pretrained(tmp_path / "edited")
        wanted = EditSpec.from_pretrained(specs / "vision").compose(EditSpec.from_pretrained(specs / "text"))
        assert isinstance(found, TowerSpecs)
        assert found == wanted
        assert sith("verify", tmp_path / "edited", "--base", made.base).code == 0
        assert sith("verify", tmp_path / "edited", "--base", made.base, *named).code == 0
        assert sith("verify", tmp_path / "edited", "--base", made.base, *named[:2]).code == 1  # the control
        shown = sith("show", tmp_path / "edited", "--details").out
        assert "Edit of the vision tower" in shown
        assert "Edit of the text tower" in shown
        assert sith("revert", tmp_path / "edited", "-o", tmp_path / "reverted").code == 0
        ran = sith("push-edited", "--base", made.base, *named, "--repo-id", "me/x", "--dry-run", "--json")
        assert ran.code == 0, ran.err
        assert "The text tower:" in json.loads(ran.out)["card"]

    def test_two_specs_in_one_adapter(self, made, specs, tmp_path):
        ran = sith("export-adapter", specs / "vision", specs / "text", "-o", tmp_path / "adapter", "--json")
        assert ran.code == 0, ran.err
        assert set(json.loads(ran.out)["rank"]) == {"vision", "text"}
        ran = sith(
            "export-adapter", specs / "text", "-o", tmp_path / "one", "--architecture", "CLIPTextModel", "--details"
        )
        assert "text tower, layer" in ran.out
        message = refused(sith("export-adapter", specs / "text", "-o", tmp_path / "no", "--architecture", "BertModel"))
        assert "CLIPTextModelWithProjection" in message

    def test_fidelity_of_the_text_tower(self, made, specs):
        options = ("--methods", "top-k", "--sparsities", "2", "--draws", "9", "--concepts", specs / "concepts.txt")
        ran = sith("fidelity", made.base, "--tower", "text", *options, "--json")
        assert ran.code == 0, ran.err
        found = json.loads(ran.out)
        assert (found["tower"], found["heads"], found["vectors"]) == ("text", 2, 8)

    def test_refusals_are_one_line(self, made, specs, tmp_path):
        vision_model().save_pretrained(tmp_path / "vision")
        image_processor().save_pretrained(tmp_path / "vision")
        words = ("--concepts", specs / "concepts.txt")
        message = refused(sith("decompose", tmp_path / "vision", "--tower", "text", "-o", tmp_path / "o", *words))
        assert "CLIPVisionModel has no text tower" in message
        assert "it has: vision" in message
        message = refused(sith("save-edited", tmp_path / "vision", "--spec", specs / "text", "-o", tmp_path / "o"))
        assert "text tower" in message
        message = refused(
            sith("edit", tmp_path / "vision", "--decomposition", specs / "text-dec", "--gain", "0", "--dry-run")
        )
        assert "no text tower" in message
        assert sith("decompose", made.base, "--tower", "both", "-o", tmp_path / "o").code == 2
        stranger = make_both(tmp_path / "stranger", seed=5)
        stranger.of_text.save_pretrained(tmp_path / "strange")
        two = ("--spec", specs / "text", "--spec", tmp_path / "strange")
        assert "other values" in refused(sith("save-edited", made.base, *two, "-o", tmp_path / "o"))
        assert not (tmp_path / "o").exists()


def test_the_tower_option_offers_the_towers_that_there_are():
    from sith_hf.cli.decompose import decompose
    from sith_hf.towers import TOWERS

    (option,) = (item for item in decompose.params if item.name == "tower")
    assert tuple(option.type.choices) == TOWERS


def test_texts_of_an_edited_text_tower_can_be_explained_by_the_base(made, edited):
    """With the base as the companion, an edited checkpoint is explained by the unedited dictionary."""
    editor = SithEditor.from_pretrained(edited, tower="vision", text_model=made.base)
    again = editor.encode(tiny_concepts())
    assert torch.equal(again.embeddings, made.vision.encode(tiny_concepts()).embeddings)
    own = SithEditor.from_pretrained(edited).encode(tiny_concepts())
    assert not torch.equal(own.embeddings, again.embeddings)  # the control
