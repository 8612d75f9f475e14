"""An exported adapter, loaded by the real peft, is the edited model; a failed export leaves nothing."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from peft import AutoPeftModel, LoraConfig, PeftModel
from peft.helpers import rescale_adapter_scale
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from sith_hf.cards.facts import CUT, hub_base
from sith_hf.checkpoint.lora import architectures, export_adapter, lora_factors
from sith_hf.checkpoint.write import save_edited
from sith_hf.core.fingerprint import BaseRef
from sith_hf.edits.in_memory import applied
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError, OutputError, UnsupportedModel
from sith_hf.towers.clip import CLIP
from tests.support import tiny
from tests.support.cli import refused, sith
from tests.support.raw import by_hand, out_proj, random_spec, torch_tensors, tree

MAKERS = {
    "CLIPModel": tiny.clip_model,
    "CLIPVisionModel": tiny.vision_model,
    "CLIPVisionModelWithProjection": tiny.projected_vision_model,
}
FILES = {"adapter_config.json", "adapter_model.safetensors", "README.md"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Ranks 1, 8 and 5; heads once, fully and in part; gains of every kind.
MANY = (
    (0, 1, 2, 0.0),
    *((1, 2, vector, -1.0) for vector in range(8)),
    *((2, head, 3, gain) for head, gain in enumerate((0.0, 1.5, -1.0, 4.0))),
    (2, 3, 4, 0.999),
)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """A checkpoint of each class in float32, with a name that must not get out."""
    root = tmp_path_factory.mktemp("secret-place")
    for kind, make in MAKERS.items():
        make().save_pretrained(root / kind)
    return {kind: root / kind for kind in MAKERS}


@pytest.fixture(scope="module")
def plain(bases):
    """The CLIPModel."""
    return bases["CLIPModel"]


@pytest.fixture(scope="module")
def spec(plain):
    """An edit of it."""
    return random_spec(plain)


@pytest.fixture(scope="module")
def pixels():
    """Three images."""
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def load(folder: Path, kind: str = "CLIPModel", dtype: torch.dtype = torch.float32):
    """The model in a checkpoint folder."""
    return getattr(transformers, kind).from_pretrained(folder, dtype=dtype).eval()


def peft_model(base: Path, folder: Path, kind: str = "CLIPModel", dtype: torch.dtype = torch.float32) -> PeftModel:
    """The base with the adapter, and without a word of complaint."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # peft's warning about missing keys
        return PeftModel.from_pretrained(load(base, kind, dtype), folder).eval()


def states(model, pixels: torch.Tensor) -> torch.Tensor:
    """What a model makes of images: the last hidden states and the pooled output in one."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.no_grad():
        found = getattr(inner, "vision_model", inner)(pixel_values=pixels.to(inner.dtype))
    return torch.cat([found.last_hidden_state.flatten(1), found.pooler_output], dim=1).double()


def far(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference of an entry."""
    return float((one.double() - other.double()).abs().max())


def lora_layers(model) -> list[LoraLayer]:
    """The layers of a model that an adapter is in."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


class TestLoading:
    @pytest.mark.parametrize("kind", list(MAKERS))
    def test_the_outputs_are_those_of_the_edited_checkpoint(self, bases, tmp_path, pixels, kind):
        spec, adapter = random_spec(bases[kind], MANY), tmp_path / "adapter"
        save_edited(bases[kind], spec, tmp_path / "edited")
        assert export_adapter(spec, adapter, kind) == adapter
        assert {path.name for path in adapter.iterdir()} == FILES
        base, edited = (states(load(folder, kind), pixels) for folder in (bases[kind], tmp_path / "edited"))
        assert far(base, edited) > 0.3  # the control

        model = peft_model(bases[kind], adapter, kind)
        assert len(lora_layers(model)) == len(spec.layers)
        assert all(layer.scaling == {"default": 1.0} for layer in lora_layers(model))
        assert far(states(model, pixels), edited) < 1e-5
        with model.disable_adapter():
            assert torch.equal(states(model, pixels), base)

        plain = load(bases[kind], kind)
        plain.load_adapter(str(adapter))  # transformers' own loading
        assert far(states(plain, pixels), edited) < 1e-5

        config = json.loads((adapter / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = str(bases[kind])  # as if the base were on the Hub
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        model = AutoPeftModel.from_pretrained(adapter).eval()
        assert type(model.get_base_model()).__name__ == kind
        assert far(states(model, pixels), edited) < 1e-5

    @pytest.mark.parametrize("kind", list(MAKERS))
    def test_merged_it_is_the_edited_checkpoint(self, bases, tmp_path, kind):
        spec = random_spec(bases[kind], MANY)
        save_edited(bases[kind], spec, tmp_path / "edited")
        export_adapter(spec, tmp_path / "adapter", kind)
        merged = peft_model(bases[kind], tmp_path / "adapter", kind).merge_and_unload()
        assert type(merged).__name__ == kind

        found, edited, base = (
            model.state_dict() for model in (merged, load(tmp_path / "edited", kind), load(bases[kind], kind))
        )
        changed = {key for key in edited if not torch.equal(edited[key], base[key])}
        assert len(changed) == 6
        assert set(found) == set(edited)
        for key in edited:
            if key not in changed:
                assert torch.equal(found[key], base[key])
                continue
            # peft rounds the factors, each of up to eight products and their sum, and then the sum with the base.
            delta = edited[key].double() - base[key].double()
            bound = 2**-24 * (16 * delta.abs().amax() + 2 * edited[key].double().abs())
            assert ((found[key].double() - edited[key].double()).abs() <= bound).all()
            assert far(base[key], edited[key]) > 1e-2

    def test_the_projection_and_the_text_tower_work_through_it(self, plain, spec, tmp_path, pixels):
        export_adapter(spec, tmp_path / "adapter")
        tokens = torch.tensor([[512, 5, 6, 513]])
        model = peft_model(plain, tmp_path / "adapter")
        with applied(load(plain), spec) as edited, torch.no_grad():
            wanted = edited(input_ids=tokens, pixel_values=pixels).logits_per_image
            assert far(model(input_ids=tokens, pixel_values=pixels).logits_per_image, wanted) < 1e-4
        with torch.no_grad():
            assert far(load(plain)(input_ids=tokens, pixel_values=pixels).logits_per_image, wanted) > 1e-2

    def test_one_for_a_clip_model_serves_the_class_with_projection(self, plain, spec, tmp_path, pixels):
        export_adapter(spec, tmp_path / "adapter")
        model = peft_model(plain, tmp_path / "adapter", "CLIPVisionModelWithProjection")
        with applied(load(plain), spec) as edited:
            assert far(states(model, pixels), states(edited, pixels)) < 1e-5

    def test_a_changed_gain_and_a_missing_bias_are_seen(self, plain, spec, tmp_path, pixels):
        with applied(load(plain), spec) as edited:
            wanted = states(edited, pixels)
        gains = spec.gain.clone()
        gains[1] += 0.05
        export_adapter(replace(spec, gain=gains), tmp_path / "gain")
        assert far(states(peft_model(plain, tmp_path / "gain"), pixels), wanted) > 1e-3
        path = export_adapter(spec, tmp_path / "bias") / "adapter_model.safetensors"
        save_file({k: t * (not k.endswith("bias")) for k, t in load_file(path).items()}, path)
        assert far(states(peft_model(plain, tmp_path / "bias"), pixels), wanted) > 1e-2

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_a_base_in_half_precision(self, bases, tmp_path, pixels, dtype):
        kind = "CLIPModel"
        load(bases[kind], kind, dtype).save_pretrained(tmp_path / "base")
        spec = random_spec(tmp_path / "base")
        save_edited(tmp_path / "base", spec, tmp_path / "edited")
        export_adapter(spec, tmp_path / "adapter", kind)
        model = peft_model(tmp_path / "base", tmp_path / "adapter", kind, dtype)

        # The truth is the same weights in float32. The adapter may be as far from it as the edited checkpoint is.
        with applied(load(tmp_path / "base", kind), spec) as edited:
            truth = states(edited, pixels)
        baked, base = (states(load(tmp_path / name, kind, dtype), pixels) for name in ("edited", "base"))
        allowed = 2 * far(baked, truth)
        assert far(states(model, pixels), truth) <= allowed < far(base, truth) / 5
        # transformers keeps the factors themselves in half precision.
        half = load(tmp_path / "base", kind, dtype)
        half.load_adapter(str(tmp_path / "adapter"))
        assert {layer.lora_A["default"].weight.dtype for layer in lora_layers(half)} == {dtype}
        assert far(states(half, pixels), truth) <= allowed


class TestStrength:
    @pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
    def test_the_scale_is_the_strength(self, plain, spec, tmp_path, pixels, strength):
        export_adapter(spec, tmp_path / "adapter")
        export_adapter(strength * spec, tmp_path / "scaled") if strength else None
        with applied(load(plain), strength * spec) as edited:
            wanted = states(edited, pixels)
        model = peft_model(plain, tmp_path / "adapter")
        with rescale_adapter_scale(model, strength):
            found = [states(model, pixels)]
        for layer in lora_layers(model):
            layer.set_scale("default", strength)
        found += [states(model, pixels), states(model.merge_and_unload(), pixels)]
        if strength:
            found.append(states(peft_model(plain, tmp_path / "scaled"), pixels))
        assert all(far(one, wanted) < 1e-5 for one in found)

    def test_the_bias_counts(self, plain, spec, tmp_path, pixels):
        # The control: were the bias not scaled along, the test above would see it.
        with applied(load(plain), 0.3 * spec) as edited:
            wanted = states(edited, pixels)
        model = load(plain)
        for layer in spec.layers:
            change = spec.change(layer)
            projection = model.vision_model.encoder.layers[layer].self_attn.out_proj
            with torch.no_grad():
                for head, delta in change.heads.items():
                    projection.weight[:, head * 8 : head * 8 + 8] += 0.3 * delta
                projection.bias += change.bias
        assert far(states(model, pixels), wanted) > 0.1

    def test_add_weighted_adapter_drops_the_bias_as_the_card_says(self, plain, spec, tmp_path):
        export_adapter(spec, tmp_path / "adapter")
        assert "`add_weighted_adapter` drops the bias" in (tmp_path / "adapter" / "README.md").read_text()
        model = peft_model(plain, tmp_path / "adapter")
        model.add_weighted_adapter(["default"], [0.5], "weaker", combination_type="cat")
        for layer in lora_layers(model):
            assert layer.lora_B["default"].bias.abs().max() > 0.1
            bias = layer.lora_B["weaker"].bias
            assert bias is None or not bias.any()


class TestNames:
    @pytest.mark.parametrize(
        ("written", "loaded"),
        [
            ("CLIPVisionModel", "CLIPModel"),
            ("CLIPVisionModel", "CLIPVisionModelWithProjection"),
            ("CLIPModel", "CLIPVisionModel"),
            ("CLIPVisionModelWithProjection", "CLIPVisionModel"),
        ],
    )
    def test_ours_are_refused_by_a_model_that_has_others(self, bases, tmp_path, written, loaded):
        export_adapter(random_spec(bases[written]), tmp_path / "adapter", written)
        with pytest.raises(ValueError, match=r"[Tt]arget modules"):
            PeftModel.from_pretrained(load(bases[loaded], loaded), tmp_path / "adapter")
        with pytest.raises(ValueError, match=r"[Tt]arget modules"):
            load(bases[loaded], loaded).load_adapter(str(tmp_path / "adapter"))

    def test_layer_1_is_not_layer_11(self, tmp_path):
        tiny.vision_model(num_hidden_layers=12).save_pretrained(tmp_path / "base")
        spec = random_spec(tmp_path / "base", [(1, 0, 0, 0.0), (1, 0, 1, 0.0), (10, 0, 0, 0.0)])
        export_adapter(spec, tmp_path / "adapter", "CLIPVisionModel")
        model = peft_model(tmp_path / "base", tmp_path / "adapter", "CLIPVisionModel")
        found = {name: module.r["default"] for name, module in model.named_modules() if isinstance(module, LoraLayer)}
        stem = "base_model.model.encoder.layers.{}.self_attn.out_proj"
        assert found == {stem.format(1): 2, stem.format(10): 1}

    @pytest.mark.parametrize("name", ["CLIPTextModel", "clipmodel", "os"])
    def test_another_class_is_refused(self, spec, tmp_path, name):
        with pytest.raises(UnsupportedModel, match="CLIPVisionModelWithProjection"):
            export_adapter(spec, tmp_path / "adapter", name)
        assert not any(tmp_path.iterdir())


class TestFiles:
    def test_the_config_is_what_peft_reads(self, spec, tmp_path):
        export_adapter(spec, tmp_path / "adapter")
        written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # peft warns of unknown keys
            config = LoraConfig.from_pretrained(tmp_path / "adapter")
        assert {key: getattr(config, key) for key in written} == written
        name = "vision_model.encoder.layers.{layer}.self_attn.out_proj"
        ranks = {name.format(layer=0): 1, name.format(layer=2): 3}
        assert config.rank_pattern == config.alpha_pattern == ranks
        assert config.r == config.lora_alpha == 3
        assert config.lora_bias is True
        assert [
            key for key in (name.format(layer=n) for n in range(3)) if re.fullmatch(config.target_modules, key)
        ] == [*ranks]

    def test_the_factors_are_the_terms(self, plain, tmp_path):
        spec = random_spec(plain, MANY)
        export_adapter(spec, tmp_path / "adapter")
        tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        stem = "base_model.model.vision_model.encoder.layers.{layer}.self_attn.out_proj"
        assert set(tensors) == {
            f"{stem.format(layer=layer)}.{part}"
            for layer in spec.layers
            for part in ("lora_A.weight", "lora_B.weight", "lora_B.bias")
        }
        base, edited = torch_tensors(plain), by_hand(plain, spec)
        for layer in spec.layers:
            down, up, bias = (
                tensors[f"{stem.format(layer=layer)}.{part}"]
                for part in ("lora_A.weight", "lora_B.weight", "lora_B.bias")
            )
            terms_here = [i for i, key in enumerate(spec.keys) if key[0] == layer]
            assert down.dtype == up.dtype == bias.dtype == torch.float32
            assert down.shape == (len(terms_here), 32)
            for row, i in zip(down, terms_here, strict=True):
                start = int(spec.head[i]) * 8
                assert not row[:start].any()
                assert not row[start + 8 :].any()
                # Exactly the spec's row, but for a power of two.
                ratio = row[start : start + 8] / spec.row[i]
                assert (ratio == ratio[0]).all()
                assert torch.frexp(ratio[0]).mantissa == 0.5
            sizes = down.abs().amax(dim=1) / up.abs().amax(dim=0)
            assert ((sizes > 0.49) & (sizes < 2.01)).all()
            weight, offset = out_proj(layer)
            assert far(up.double() @ down.double(), edited[weight] - base[weight].double()) < 1e-5
            assert far(bias, edited[offset] - base[offset].double()) < 1e-5

    @pytest.mark.parametrize(
        ("name", "revision", "known"),
        [
            ("openai/clip-vit-base-patch32", COMMIT, True),
            ("openai/clip-vit-base-patch32", "main", False),
            ("openai/clip-vit-base-patch32", None, False),
            ('openai/clip")', COMMIT, False),
            ("/data/me/clip", COMMIT, False),
            (None, None, False),  # the very folder
        ],
    )
    def test_only_a_base_on_the_hub_is_named_and_no_local_path(self, plain, spec, tmp_path, name, revision, known):
        settings = {**spec.settings, "from": str(plain)}
        base = BaseRef(name or str(plain), revision, spec.base.sha256)
        assert hub_base(base) == (name if known else None)
        folder = export_adapter(replace(spec, base=base, settings=settings), tmp_path / "adapter")
        config = json.loads((folder / "adapter_config.json").read_text())
        data = ModelCard.load(folder / "README.md").data.to_dict()
        assert config["base_model_name_or_path"] == data.get("base_model") == (name if known else None)
        assert config["revision"] == (revision if known else None)
        assert data.get("base_model_relation") == ("adapter" if known else None)
        written = b"".join(path.read_bytes() for path in folder.iterdir())
        secrets = [str(tmp_path), "secret-place", str(Path.home()), *([] if known or name is None else [name])]
        assert [secret for secret in secrets if secret.encode() in written] == []

    def test_a_row_of_zeros_and_lopsided_ones(self, spec):
        row = spec.row * torch.tensor([[0.0], [1e-12], [1e12], [1.0]])
        odd = replace(spec, row=row)
        for layer, factors in lora_factors(odd).items():
            product = torch.zeros(32, 32, dtype=torch.float64)
            for head, delta in odd.change(layer).heads.items():
                product[:, head * 8 : head * 8 + 8] = delta
            found = factors.up.double() @ factors.down.double()
            assert torch.allclose(found, product, rtol=1e-5, atol=0)
            assert factors.down.abs().max() < 1e7
            assert factors.up.abs().max() < 1e7


class TestCard:
    def test_it_says_what_was_done(self, spec, tmp_path):
        named = replace(spec, base=replace(spec.base, name="me/base", revision=COMMIT))
        card = ModelCard.load(export_adapter(named, tmp_path / "adapter") / "README.md")
        assert (card.data.base_model, card.data["base_model_relation"], card.data.library_name) == (
            "me/base",
            "adapter",
            "peft",
        )
        text = " ".join(card.text.split())
        assert "4 singular vectors in 3 attention heads of layers 0 and 2 of the vision tower have new gains" in text
        assert "| 2 | 3 | 0 | 3 | \\+ sea 2 \\| - road 2 |" in text
        assert "not evaluated" in text
        assert f"me/base at revision {COMMIT}." in text
        assert all(spec.base.sha256[key] in text for layer in (0, 2) for key in out_proj(layer))

    def test_a_very_long_table_is_cut(self, tmp_path):
        tiny.vision_model(hidden_size=128, num_hidden_layers=9).save_pretrained(tmp_path / "base")
        keys = [(n, head, vector, 0.0) for n in range(9) for head in range(4) for vector in range(32)]
        spec = random_spec(tmp_path / "base", keys, head_size=32)
        card = (export_adapter(spec, tmp_path / "adapter", "CLIPVisionModel") / "README.md").read_text()
        assert f"{len(keys) - CUT} more vectors are in the edit spec" in card
        assert card.count("sea") == CUT

    @pytest.mark.parametrize("named", [True, False], ids=["named", "nameless"])
    @pytest.mark.parametrize("kind", list(MAKERS))
    def test_its_code_runs(self, bases, tmp_path, pixels, kind, named):
        spec = random_spec(bases[kind])
        if named:
            spec = replace(spec, base=replace(spec.base, name="me/base", revision=COMMIT))
        export_adapter(spec, tmp_path / "adapter", kind)
        card = (tmp_path / "adapter" / "README.md").read_text()
        (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        place = "me/base" if named else "path/to/the/base"
        assert code.count(f'"{place}"') == code.count('"path/to/this/adapter"') == 1
        code = code.replace(f'"{place}"', repr(str(bases[kind])))
        code = code.replace('"path/to/this/adapter"', repr(str(tmp_path / "adapter")))
        code = re.sub(r"pass  # here", "seen.append(states(model, pixels))  # here", code)
        space = {"seen": [], "states": states, "pixels": pixels}
        exec(code, space)  # our own card
        base = load(bases[kind], kind)
        assert torch.equal(space["seen"][0], states(base, pixels))
        with applied(base, 0.5 * spec) as half:
            assert far(space["seen"][1], states(half, pixels)) < 1e-5
        with applied(base, spec) as edited:
            assert far(states(space["edited"], pixels), states(edited, pixels)) < 1e-5


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda spec: spec.compose(spec.inverse()), "changes nothing"),
            (lambda spec: spec.inverse(), "removes an edit"),
            (lambda spec: replace(spec, gain=torch.full_like(spec.gain, -1e300)), "overflows"),
            # The factors fit, and their product does not.
            (lambda spec: replace(spec, gain=torch.full_like(spec.gain, 1e25), row=spec.row * 1e25), "overflows"),
        ],
    )
    def test_a_spec_that_is_no_adapter(self, spec, tmp_path, change, message):
        with pytest.raises(InputError, match=message):
            export_adapter(change(spec), tmp_path / "adapter")
        assert not any(tmp_path.iterdir())

    def test_a_folder_in_use(self, spec, tmp_path):
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter" / "mine.txt").write_text("mine")
        before = tree(tmp_path)
        with pytest.raises(InputError, match="not empty"):
            export_adapter(spec, tmp_path / "adapter")
        assert tree(tmp_path) == before
        with pytest.raises(InputError, match="holds no adapter"):
            export_adapter(spec, tmp_path / "adapter", overwrite=True)
        (tmp_path / "adapter" / "mine.txt").unlink()
        export_adapter(0.5 * spec, tmp_path / "adapter")
        with pytest.raises(InputError, match="--overwrite"):
            export_adapter(spec, tmp_path / "adapter")
        export_adapter(spec, tmp_path / "adapter", overwrite=True)
        assert {path.name for path in (tmp_path / "adapter").iterdir()} == FILES
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]

    def test_the_base_itself(self, plain, tmp_path):
        shutil.copytree(plain, tmp_path / "base")
        spec, before = random_spec(tmp_path / "base"), tree(tmp_path)
        for folder in (tmp_path / "base", tmp_path):
            with pytest.raises(InputError, match="holds no adapter"):
                export_adapter(spec, folder, overwrite=True)
        assert tree(tmp_path) == before


@pytest.mark.parametrize("old", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_a_failed_export_leaves_everything_as_it_was(spec, tmp_path, monkeypatch, error, old):
    if old:
        export_adapter(0.5 * spec, tmp_path / "adapter")
    before = tree(tmp_path)

    def fail(self, content, real=Path.write_text, **options):
        real(self, content[:10], **options)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", fail)
        with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
            export_adapter(spec, tmp_path / "adapter", overwrite=old)
    assert tree(tmp_path) == before
    export_adapter(spec, tmp_path / "adapter", overwrite=old)


class TestCommand:
    def test_it_writes_what_the_function_writes(self, bases, tmp_path):
        for kind in MAKERS:
            spec = random_spec(bases[kind])
            spec.save_pretrained(tmp_path / kind)
            export_adapter(spec, tmp_path / f"{kind}-function", kind)
            ran = sith(
                "export-adapter",
                tmp_path / kind,
                "--architecture",
                kind,
                "--details",
                "-o",
                tmp_path / f"{kind}-command",
            )
            assert ran.code == 0, ran.err
            ranks = [f"vision tower, layer {layer}: rank {rank}" for layer, rank in ((0, 1), (2, 3))]
            answer = f"a LoRA adapter of rank 3 at most, in 2 layers of {kind}"
            assert ran.out.splitlines() == [answer, *ranks, str(tmp_path / f"{kind}-command")]
            assert "names no base model" in ran.err
            assert tree(tmp_path / f"{kind}-command") == tree(tmp_path / f"{kind}-function")

    def test_the_default_is_a_clip_model_and_json_says_so(self, spec, tmp_path):
        named = replace(spec, base=replace(spec.base, name="me/base", revision=COMMIT))
        named.save_pretrained(tmp_path / "spec")
        ran = sith("export-adapter", tmp_path / "spec", "-o", tmp_path / "adapter", "--json")
        assert ran.code == 0, ran.err
        assert ran.err == ""
        assert ran.data == {
            "folder": str(tmp_path / "adapter"),
            "architecture": "CLIPModel",
            "base_model": "me/base",
            "rank": {"0": 1, "2": 3},
        }

    def test_an_edited_checkpoint_serves_as_its_spec(self, plain, spec, tmp_path):
        save_edited(plain, spec, tmp_path / "edited")
        ran = sith("export-adapter", tmp_path / "edited", "-o", tmp_path / "adapter")
        assert ran.code == 0, ran.err
        assert tree(tmp_path / "adapter") == tree(export_adapter(spec, tmp_path / "other"))

    def test_the_spec_is_not_overwritten(self, spec, tmp_path):
        spec.save_pretrained(tmp_path / "work" / "spec")
        before = tree(tmp_path)
        for folder in (tmp_path / "work" / "spec", tmp_path / "work"):
            ran = sith("export-adapter", tmp_path / "work" / "spec", "-o", folder, "--overwrite")
            assert ran.code == 2
            assert "holds the edit spec" in refused(ran)
        assert tree(tmp_path) == before
        assert EditSpec.from_pretrained(tmp_path / "work" / "spec") == spec

    def test_an_error_is_one_line(self, spec, tmp_path):
        spec.save_pretrained(tmp_path / "spec")
        spec.inverse().save_pretrained(tmp_path / "revert")
        export_adapter(0.5 * spec, tmp_path / "used")
        for arguments, message in {
            (tmp_path / "nothing", "-o", tmp_path / "new"): "no file or folder",
            (tmp_path / "revert", "-o", tmp_path / "new"): "removes an edit",
            (tmp_path / "spec", "-o", tmp_path / "used"): "--overwrite",
            (tmp_path / "used", "-o", tmp_path / "new"): "edit_spec.safetensors",
        }.items():
            ran = sith("export-adapter", *arguments)
            assert ran.code == 2
            assert message in refused(ran)
        assert not (tmp_path / "new").exists()
        assert (
            sith("export-adapter", tmp_path / "spec", "-o", tmp_path / "new", "--architecture", "BertModel").code == 2
        )

    def test_it_names_the_classes_that_there_are(self, spec, tmp_path):
        spec.save_pretrained(tmp_path / "spec")
        known = [name for names in CLIP.model_types.values() for name in names if "vision" in CLIP.towers(name)]
        assert architectures(spec) == known
        assert known[0] == "CLIPModel"
        ran = sith("export-adapter", tmp_path / "spec", "-o", tmp_path / "new", "--architecture", "CLIPTextModel")
        message = refused(ran)
        assert all(part in message for part in ("CLIPTextModel", "the vision tower", *known))

    def test_peft_is_not_needed(self, spec, tmp_path, monkeypatch):
        spec.save_pretrained(tmp_path / "spec")
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "peft", None)  # importing it is now an ImportError
            with pytest.raises(ImportError):
                import peft  # noqa: F401
            ran = sith("export-adapter", tmp_path / "spec", "-o", tmp_path / "adapter")
        assert ran.code == 0, ran.err
        assert tree(tmp_path / "adapter") == tree(export_adapter(spec, tmp_path / "other"))
