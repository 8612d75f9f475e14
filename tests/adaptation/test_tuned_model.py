"""A LoRA adapter of the real peft, merged in memory, is what peft merges; others are refused with a reason."""

from __future__ import annotations

import copy
import json
import shutil
import sys

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model

from sith_hf.adaptation import compare, load_tuned
from sith_hf.checkpoint import export_adapter, save_edited
from sith_hf.errors import InputError, MissingExtra, UnsupportedModel
from sith_hf.towers import load_model, read_tower
from tests.support.raw import random_spec
from tests.support.tiny import clip_model, vision_model

TARGETS = r"vision_model.*\.(v_proj|out_proj)"


def adapter(model, folder, config):
    """A trained adapter of a model, saved by peft: every tensor is random."""
    adapted = get_peft_model(copy.deepcopy(model), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    clip_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def loaded(base):
    return load_model(str(base))


@pytest.fixture(scope="module")
def lora(base, loaded, tmp_path_factory):
    return adapter(loaded.model, tmp_path_factory.mktemp("lora"), LoraConfig(r=2, target_modules=TARGETS))


class TestMerging:
    @pytest.mark.parametrize(
        "options",
        [
            {"r": 2},
            {"r": 3, "lora_alpha": 4, "use_rslora": True},
            {"r": 2, "use_dora": True},
            {"r": 2, "bias": "lora_only"},
            {"r": 2, "rank_pattern": {"out_proj": 4}, "alpha_pattern": {"v_proj": 1}},
            {"r": 2, "modules_to_save": ["visual_projection"]},
        ],
    )
    def test_it_is_what_peft_merges(self, loaded, tmp_path, options):
        folder = adapter(loaded.model, tmp_path / "a", LoraConfig(target_modules=TARGETS, **options))
        ours = load_tuned(loaded, folder).model
        theirs = PeftModel.from_pretrained(copy.deepcopy(loaded.model), folder).merge_and_unload()
        expected = theirs.state_dict()
        assert ours.state_dict().keys() == expected.keys()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.state_dict().items())
        assert any(
            not torch.equal(tensor, ours.state_dict()[name]) for name, tensor in loaded.model.state_dict().items()
        )

    def test_it_leaves_the_base_alone(self, loaded, lora):
        before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
        load_tuned(loaded, lora)
        assert all(torch.equal(tensor, before[name]) for name, tensor in loaded.model.state_dict().items())

    def test_the_rank_of_the_change_is_that_of_the_adapter(self, loaded, tmp_path):
        config = LoraConfig(r=1, target_modules=r"vision_model.*1.*\.out_proj")
        tuned = load_tuned(loaded, adapter(loaded.model, tmp_path / "a", config))
        found = compare(read_tower(loaded.model), read_tower(tuned.model))
        assert {head.layer for head in found.changed} == {1}
        assert all(len(head.directions) == 1 for head in found.changed)

    def test_half_precision_loses_no_small_change(self, loaded, tmp_path):
        half = load_tuned(loaded, adapter(loaded.model, tmp_path / "a", LoraConfig(r=2, target_modules=TARGETS)))
        assert half.model.dtype == torch.float32

    def test_our_own_adapters(self, base, loaded, tmp_path):
        spec = random_spec(base, [(1, 2, 0, 0.0), (2, 0, 3, 2.0)])
        export_adapter(spec, tmp_path / "adapter")
        save_edited(base, spec, tmp_path / "edited")
        pair = [load_tuned(loaded, tmp_path / name) for name in ("adapter", "edited")]
        assert compare(*(read_tower(item.model) for item in pair)).changed == ()
        assert len(compare(read_tower(loaded.model), read_tower(pair[0].model)).changed) == 2

    def test_a_checkpoint_is_loaded_as_it_is(self, base, loaded):
        assert load_tuned(loaded, base).folder == base


def rewritten(source, target, **changes):
    """A copy of an adapter with other settings."""
    shutil.copytree(source, target)
    path = target / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}))
    return target


class TestRefusals:
    def test_without_peft(self, loaded, lora, monkeypatch):
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(MissingExtra, match=r"sith-hf\[peft\]"):
            load_tuned(loaded, lora)

    def test_another_kind(self, loaded, tmp_path):
        config = IA3Config(target_modules=["v_proj"], feedforward_modules=[])
        with pytest.raises(UnsupportedModel, match="IA3"):
            load_tuned(loaded, adapter(loaded.model, tmp_path / "a", config))

    @pytest.mark.parametrize("setting", [{"layer_replication": [[0, 2]]}, {"use_bdlora": {"a": 1}}])
    def test_a_variant_whose_sum_is_another(self, loaded, lora, tmp_path, setting):
        with pytest.raises(UnsupportedModel, match=next(iter(setting))):
            load_tuned(loaded, rewritten(lora, tmp_path / "a", **setting))

    @pytest.mark.parametrize("start", ["pissa", "eva", "corda", {"a": 1}, "\x1b[31m", 3, 1.0])
    def test_a_start_that_changes_the_base_or_reads_files(self, loaded, lora, tmp_path, start):
        with pytest.raises(UnsupportedModel, match="began as"):
            load_tuned(loaded, rewritten(lora, tmp_path / "a", init_lora_weights=start))

    def test_settings_that_import_modules_are_not_read(self, loaded, lora, tmp_path):
        hostile = rewritten(
            lora,
            tmp_path / "a",
            megatron_config={"a": 1},
            megatron_core="evil",
            auto_mapping={"parent_library": "evil"},
        )
        expected = load_tuned(loaded, lora).model.state_dict()
        found = load_tuned(loaded, hostile).model.state_dict()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    def test_of_another_model(self, lora, tmp_path):
        other = load_tuned_base(tmp_path / "b", clip_model(hidden_size=16))
        with pytest.raises(InputError, match="does not fit the base"):
            load_tuned(other, lora)

    def test_of_another_class(self, lora, tmp_path):
        # Its modules have other names, and peft alone would add nothing.
        other = load_tuned_base(tmp_path / "b", vision_model())
        with pytest.raises(InputError, match="the base"):
            load_tuned(other, lora)

    def test_a_part_is_missing(self, loaded, lora, tmp_path):
        with pytest.raises(InputError, match="lacks"):
            load_tuned(loaded, rewritten(lora, tmp_path / "a", target_modules=r".*\.(v_proj|out_proj|q_proj)"))

    def test_pickled_weights(self, loaded, lora, tmp_path):
        folder = rewritten(lora, tmp_path / "a")
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        with pytest.raises(UnsupportedModel, match="unpickles nothing"):
            load_tuned(loaded, folder)

    @pytest.mark.parametrize("content", [b"", b"no safetensors", b"version https://git-lfs.github.com/spec/v1\n"])
    def test_damaged_weights(self, loaded, lora, tmp_path, content):
        folder = rewritten(lora, tmp_path / "a")
        (folder / "adapter_model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            load_tuned(loaded, folder)

    @pytest.mark.parametrize("config", ["", "[]", "{", '{"peft_type": ["LORA"]}', '{"peft_type": "LORA", "r": "x"}'])
    def test_a_damaged_configuration(self, loaded, lora, tmp_path, config):
        folder = rewritten(lora, tmp_path / "a")
        (folder / "adapter_config.json").write_text(config)
        with pytest.raises(InputError):
            load_tuned(loaded, folder)


def load_tuned_base(folder, model):
    model.save_pretrained(folder)
    return load_model(str(folder))
