"""``open_clip_config.json``: defaults, equal models, and refusals that name the key and the reason."""

import json

import pytest

from sith_hf import SithEditor
from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers import load_model
from sith_hf.towers.open_clip_config import converted, open_clip_config
from tests.support.open_clip_folders import CONFIG, SIZE, TEXT, VISION, open_clip_folder


def config(vision=None, text=None, **model):
    cfg = {"embed_dim": SIZE, "vision_cfg": {**VISION, **(vision or {})}, "text_cfg": {**TEXT, **(text or {})}, **model}
    return {"model_cfg": cfg}


class TestConverted:
    def test_missing_keys_have_the_defaults_of_open_clip(self):
        found = converted({"model_cfg": {"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}})
        vision, text = found["vision_config"], found["text_config"]
        assert (vision["hidden_size"], vision["num_hidden_layers"], vision["num_attention_heads"]) == (768, 12, 12)
        assert (vision["patch_size"], vision["image_size"], vision["intermediate_size"]) == (16, 224, 3072)
        assert (text["hidden_size"], text["num_attention_heads"], text["max_position_embeddings"]) == (512, 8, 77)
        assert (text["causal"], text["pool"], text["clean"], vision["hidden_act"]) == (True, "argmax", "lower", "gelu")

    def test_heads_are_as_wide_as_head_width(self):
        found = converted(config(vision={"width": 1280, "head_width": 80}))["vision_config"]
        assert found["num_attention_heads"] == 16  # H/14

    @pytest.mark.parametrize(
        "part",
        [
            {"vision": {"patch_dropout": 0.5, "output_tokens": True, "image_size": [16, 16]}},
            {"text": {"output_tokens": True, "pad_id": 1, "proj_type": "linear"}},
            {"vision": {"attentional_pool": False, "timm_model_name": None, "scale_heads": False}},
            {"text": {"hf_tokenizer_name": None}},
        ],
    )
    def test_keys_without_effect_change_nothing(self, part):
        assert converted(config(**part)) == converted(config())

    def test_control_quick_gelu_is_another_model(self):
        assert converted(config(quick_gelu=True)) != converted(config())


class TestRefusals:
    @pytest.mark.parametrize(
        ("part", "key", "why"),
        [
            ({"vision": {"timm_model_name": "eva02_base"}}, "timm_model_name", "between value and output"),
            ({"vision": {"timm_model_name": "eva02_enormous"}}, "timm_model_name", "follows the output projection"),
            ({"vision": {"timm_model_name": "fastvit_mci0"}}, "timm_model_name", "MobileCLIP"),
            ({"vision": {"timm_model_name": "convnext_base"}}, "timm_model_name", "convolutions"),
            ({"vision": {"timm_model_name": "vit_base_patch16_siglip_224"}}, "timm_model_name", "model_type is siglip"),
            ({"vision": {"timm_model_name": "vit_medium_patch16_clip"}}, "timm_model_name", "a model of timm"),
            ({"vision": {"layers": [3, 4, 6, 3]}}, "layers", "a ResNet has no heads"),
            ({"vision": {"attentional_pool": True}}, "attentional_pool", "queries of its own"),
            ({"vision": {"scale_attn_inner": True}}, "scale_attn_inner", "between value and output projection"),
            ({"vision": {"scale_attn": True}}, "scale_attn", "follows the output projection"),
            ({"text": {"scale_heads": True}}, "scale_heads", "scale of each head"),
            ({"text": {"qk_norm": True}}, "qk_norm", "other parts"),
            ({"vision": {"block_type": "custom"}}, "block_type", "other parts"),
            ({"vision": {"pool_type": "none"}}, "pool_type", "expected one of tok, avg"),
            ({"vision": {"image_size": [224, 336]}}, "image_size", "square"),
            ({"vision": {"act_kwargs": {"slope": 1}}}, "act_kwargs", "approximate"),
            ({"vision": {"norm_kwargs": {"elementwise_affine": False}}}, "norm_kwargs", "eps only"),
            ({"vision": {"rotary": True}}, "rotary", "does not know"),
            ({"text": {"hf_model_name": "xlm-roberta-base"}}, "hf_model_name", "text tower is a model of transformers"),
            ({"text": {"embed_cls": True}}, "embed_cls", "CoCa"),
            ({"text": {"proj_type": "none"}}, "proj_type", "expected 'linear'"),
            ({"text": {"tokenizer_kwargs": {"language": "en"}}}, "tokenizer_kwargs", "expected clean"),
            ({"text": {"tokenizer_mode": "clips"}}, "tokenizer_mode", "tokens of its own"),
            ({"multimodal_cfg": {"width": 512}}, "multimodal_cfg", "CoCa"),
        ],
    )  # fmt: skip
    def test_what_changes_the_algebra_is_refused_by_its_key_and_reason(self, part, key, why):
        with pytest.raises(UnsupportedModel, match=key) as caught:
            converted(config(**part))
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("part", "match"),
        [
            ({"vision": {"width": "wide"}}, "vision_cfg has width 'wide'"),
            ({"vision": {"layers": 0}}, "vision_cfg has layers 0"),
            ({"vision": {"layers": True}}, "vision_cfg has layers True"),
            ({"vision": {"head_width": 7}}, "head_width does not divide"),
            ({"vision": {"mlp_ratio": -1}}, "mlp_ratio -1"),
            ({"text": {"context_length": None}}, "context_length None"),
            ({"embed_dim": "\x1b[31m"}, r"embed_dim '.x1b"),
        ],
    )
    def test_values_that_cannot_be_used_are_named(self, part, match):
        with pytest.raises(InputError, match=match) as caught:
            converted(config(**part))
        assert "\x1b" not in str(caught.value)

    @pytest.mark.parametrize("content", ["{}", "[]", "{", '{"model_cfg": 3}', '{"model_cfg": {"embed_dim": 4}}'])
    def test_a_damaged_file_is_refused_in_one_line(self, tmp_path, content):
        folder = open_clip_folder(tmp_path / "m")
        (folder / CONFIG).write_text(content)
        for call in (lambda: open_clip_config(folder), lambda: load_model(str(folder))):
            with pytest.raises(InputError, match=r"open_clip_config\.json") as caught:
                call()
            assert "\n" not in str(caught.value)

    def test_the_folder_is_refused_as_its_configuration_is(self, tmp_path):
        folder = open_clip_folder(tmp_path / "m")
        changed = json.loads((folder / CONFIG).read_text())
        changed["model_cfg"]["vision_cfg"]["scale_attn_inner"] = True
        (folder / CONFIG).write_text(json.dumps(changed))
        with pytest.raises(UnsupportedModel, match="vision_cfg has scale_attn_inner True: a layer norm stands between"):
            SithEditor.from_pretrained(folder)
