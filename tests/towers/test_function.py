"""The parameters decide what a model computes, or it is refused by name; watching and wrapping change nothing."""

from __future__ import annotations

import json
import shutil

import accelerate
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.prune import l1_unstructured
from transformers import AttentionInterface, CLIPModel

from sith_hf.checkpoint import verify
from sith_hf.editor import SithEditor
from sith_hf.edits import applied
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from sith_hf.towers import check_function
from sith_hf.towers.weights import Checkpoint
from tests.support.cli import refused, sith
from tests.support.raw import random_spec, torch_tensors
from tests.support.tiny import clip_model, projected_vision_model, save_clip, vision_model

LORA = LoraConfig(target_modules=r".*vision_model.*(v_proj|out_proj)", r=2, init_lora_weights=False)


class Doubled(nn.Linear):
    """A layer that computes more than its weight says."""

    def forward(self, x):
        return super().forward(x) * 2


class Packed(torch.Tensor):
    """A stand-in for parameters of torchao."""


def quantized(library):
    """A stand-in for the linear layer of a quantization library."""
    return type("Linear", (nn.Linear,), {"__module__": f"{library}.nn"})


def attention(model):
    return model.vision_model.encoder.layers[1].self_attn


def replace(module, name, new):
    setattr(module, name, new)


def own_forward(model):
    whole = attention(model).forward
    replace(attention(model), "forward", lambda *inputs, **options: whole(*inputs, **options))


def in_place(module, inputs, output):
    output.mul_(2)


def assigns(module, inputs, output):
    output[..., 0] = 0


def steers(module, inputs, output):
    (output[0] if isinstance(output, tuple) else output)[:, 0] += 1


def by_argument(module, inputs, output):
    torch.add(output, 1, out=output)


def by_helper(module, inputs, output):
    in_place(module, inputs, output)


def rescales(module, inputs):
    module.weight.data = module.weight.data * 2


def in_the_text(module, inputs, output):
    output.pooler_output *= 2


def own_attention(model):
    AttentionInterface.register("mine", lambda *inputs, **options: None)
    model.set_attn_implementation("mine")


CHANGED = {
    "adapter": (lambda m: m.add_adapter(LORA), "layers.0.self_attn.v_proj has an adapter .*merge_and_unload"),
    "adapter elsewhere": (
        lambda m: inject_adapter_in_model(LoraConfig(target_modules=["fc1"]), m),
        "mlp.fc1 has an adapter",
    ),
    "weight_norm": (lambda m: nn.utils.parametrizations.weight_norm(attention(m).out_proj), "remove_parametrizations"),
    "old weight_norm": (lambda m: nn.utils.weight_norm(attention(m).v_proj), "computed from bias, weight_g, weight_v"),
    "spectral_norm": (lambda m: nn.utils.spectral_norm(attention(m).v_proj), "computed from bias, weight_orig"),
    "pruned": (
        lambda m: l1_unstructured(attention(m).v_proj, "weight", 0.5),
        "computed from bias, weight_orig",
    ),
    "bitsandbytes": (lambda m: replace(attention(m), "v_proj", quantized("bitsandbytes")(32, 32)), "is quantized"),
    "quanto": (lambda m: replace(attention(m), "v_proj", quantized("optimum.quanto")(32, 32)), "is quantized"),
    "torchao": (
        lambda m: replace(attention(m).v_proj, "weight", nn.Parameter(torch.zeros(32, 32).as_subclass(Packed))),
        "not a plain float parameter",
    ),
    "own linear": (lambda m: replace(attention(m), "v_proj", Doubled(32, 32)), "Doubled, not the Linear"),
    "RMSNorm": (lambda m: replace(m.vision_model, "post_layernorm", nn.RMSNorm(32)), "RMSNorm, not the LayerNorm"),
    "projection": (lambda m: replace(m, "visual_projection", Doubled(32, 24, bias=False)), "Doubled, not the Linear"),
    "no layer": (lambda m: replace(m.vision_model.encoder.layers[0], "mlp", nn.Identity()), "not the CLIPMLP"),
    "fewer layers": (lambda m: m.vision_model.encoder.layers.pop(2), "2 layers, but the model's config names 3"),
    "heads": (lambda m: replace(attention(m), "num_heads", 2), "num_heads is 2, but the model's config makes it 4"),
    "epsilon": (lambda m: replace(m.vision_model.post_layernorm, "eps", 0.1), "eps is 0.1, .* makes it 1e-05"),
    "activation": (
        lambda m: replace(m.vision_model.encoder.layers[0].mlp, "activation_fn", nn.GELU()),
        "GELU, not the QuickGELU",
    ),
    "forward": (own_forward, "a forward method of its own"),
    "attention": (own_attention, "attn_implementation 'mine'"),
    "hook": (lambda m: attention(m).out_proj.register_forward_hook(lambda _, x, y: y * 2), "a forward hook"),
    "pre-hook": (lambda m: attention(m).out_proj.register_forward_pre_hook(lambda _, x: (-x[0],)), "a forward hook"),
    "hook assigns": (lambda m: attention(m).out_proj.register_forward_hook(assigns), r"a forward hook \(assigns\)"),
    "hook adds": (lambda m: m.vision_model.encoder.layers[0].register_forward_hook(steers), "a forward hook"),
    "hook out=": (lambda m: attention(m).v_proj.register_forward_hook(by_argument), "a forward hook"),
    "hook by helper": (lambda m: attention(m).v_proj.register_forward_hook(by_helper), "a forward hook"),
    "hook of weights": (lambda m: attention(m).q_proj.register_forward_pre_hook(rescales), "a forward hook"),
    "hook of texts": (lambda m: m.text_model.register_forward_hook(in_the_text), "text_model has a forward hook"),
    "hook of a projection": (lambda m: m.visual_projection.register_forward_hook(assigns), "a forward hook"),
    "hook in place": (lambda m: attention(m).out_proj.register_forward_hook(in_place), r"a forward hook \(in_place\)"),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_a_changed_function_is_refused_by_name(kind):
    change, said = CHANGED[kind]
    model = clip_model()
    check_function(model)  # the control
    change(model)
    with pytest.raises(UnsupportedModel, match=said) as caught:
        SithEditor.from_model(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [get_peft_model(clip_model(), LORA), nn.Linear(2, 2), object()])
def test_what_is_no_model_of_transformers(model):
    with pytest.raises(UnsupportedModel, match="has an adapter" if isinstance(model, PeftModel) else "not the class"):
        SithEditor.from_model(model)


def watch(model):
    seen = []

    kept = {}

    def keep(module, inputs, output):
        seen.append(output)

    def store(module, inputs, output):
        kept["values"] = output.detach()
        return output

    attention(model).register_forward_hook(keep)
    attention(model).v_proj.register_forward_hook(store)


def compile_layers(model):
    layers = model.vision_model.encoder.layers
    for number, layer in enumerate(layers):
        layers[number] = torch.compile(layer)


SAME = {
    "watched": watch,
    "compiled": torch.compile,
    "compiled layers": compile_layers,
    "parallel": nn.DataParallel,
    "capturing": lambda m: m.vision_model(torch.zeros(1, 3, 16, 16), output_attentions=True) and None,
    "dispatched": lambda m: accelerate.dispatch_model(m, {"": "cpu"}, force_hooks=True),
    "training": lambda m: m.train(),
    "eager": lambda m: m.set_attn_implementation("eager"),
    "checkpointing": lambda m: m.gradient_checkpointing_enable(),
    "frozen": lambda m: m.requires_grad_(False),
    "another head": lambda m: m.add_module("classifier", Doubled(3, 3)),
    "merged": lambda m: get_peft_model(m, LoraConfig(target_modules=["v_proj"])).merge_and_unload(),
}


@pytest.mark.parametrize("kind", SAME)
def test_the_same_function_is_the_same_tower(kind):
    wanted = SithEditor.from_model(clip_model()).tower
    model = clip_model()
    changed = SAME[kind](model)
    tower = SithEditor.from_model(changed if isinstance(changed, nn.Module) else model).tower
    assert tower.sha256(range(3)) == wanted.sha256(range(3))
    assert tower.settings == wanted.settings


@pytest.mark.parametrize("make", [vision_model, projected_vision_model])
def test_vision_models_too(make):
    model = make()
    tower = SithEditor.from_model(model).tower
    assert tower.settings == SithEditor.from_model(clip_model()).tower.settings
    getattr(model, "vision_model", model).encoder.layers[0].self_attn.out_proj = Doubled(32, 32)
    with pytest.raises(UnsupportedModel, match=r"layers\.0\.self_attn\.out_proj is a .*Doubled"):
        SithEditor.from_model(model)


def test_an_edit_in_memory_needs_the_same_function(tmp_path):
    spec = random_spec(save_clip(tmp_path / "base"))
    model = clip_model()
    watch(model)
    attention(model).register_forward_hook(lambda _, x, y: y)
    with applied(model, spec):  # a hook does not matter for an edit, and may be there to watch it
        assert not torch.equal(model.vision_model.encoder.layers[2].self_attn.out_proj.weight, torch.zeros(32, 32))
    inject_adapter_in_model(LORA, model)
    with pytest.raises(UnsupportedModel, match="has an adapter"), applied(model, spec):
        pytest.fail("the block must not be entered")


# --- folders


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    return save_clip(tmp_path_factory.mktemp("function") / "clip", seed=5)


@pytest.fixture
def both(clean, tmp_path):
    """A checkpoint with an adapter beside its weights, which from_pretrained loads both."""
    get_peft_model(clip_model(5), LORA).save_pretrained(tmp_path / "lora")
    shutil.copytree(clean, tmp_path / "both")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "lora" / name, tmp_path / "both")
    return tmp_path / "both"


def test_an_adapter_beside_the_weights_is_refused_by_every_command(both, clean, tmp_path):
    assert hasattr(CLIPModel.from_pretrained(both), "peft_config")  # or this test tests nothing
    random_spec(clean).save_pretrained(tmp_path / "spec")
    for command in (
        ("save-edited", both, "--spec", tmp_path / "spec", "-o", tmp_path / "out"),
        ("verify", both, "--base", clean, "--spec", tmp_path / "spec"),
        ("revert", both, "-o", tmp_path / "out"),
        ("decompose", both, "-o", tmp_path / "out"),
    ):
        assert "holds a PEFT adapter (adapter_config.json)" in refused(sith(*command))
        assert not (tmp_path / "out").exists()
    with pytest.raises(UnsupportedModel, match=r"without its base model: run .*merge_and_unload"):
        SithEditor.from_pretrained(tmp_path / "lora")


def test_the_advice_works(both, tmp_path):
    """The adapter moved to a folder of its own, and merged."""
    (tmp_path / "ADAPTER").mkdir()
    for path in both.glob("adapter_*"):
        path.rename(tmp_path / "ADAPTER" / path.name)
    merged = PeftModel.from_pretrained(CLIPModel.from_pretrained(both), tmp_path / "ADAPTER").merge_and_unload()
    merged.save_pretrained(tmp_path / "MERGED")
    base, edited = (SithEditor.from_pretrained(folder).tower for folder in (both, tmp_path / "MERGED"))
    assert torch.equal(edited.layers[0].value_weight, attention_weight(merged))
    assert not torch.equal(edited.layers[0].value_weight, base.layers[0].value_weight)


def attention_weight(model):
    return model.vision_model.encoder.layers[0].self_attn.v_proj.weight


def test_other_weights_in_the_config_are_refused(clean, tmp_path):
    folder = shutil.copytree(clean, tmp_path / "named")
    shutil.copy(folder / "model.safetensors", folder / "other.safetensors")
    change_config(folder, transformers_weights="other.safetensors")
    for call in (SithEditor.from_pretrained, Checkpoint.read):
        with pytest.raises(UnsupportedModel, match=r"transformers_weights: 'other\.safetensors'"):
            call(folder)


# --- dtypes


def change_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def as_dtypes(folder, choose):
    """Rewrite a checkpoint with a dtype for each tensor."""
    tensors = load_file(folder / "model.safetensors")
    tensors = {key: tensor.to(choose(key)) for key, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def mixed(key):
    return torch.float32 if "norm" in key or key.endswith("bias") else torch.float16


DTYPES = {
    "float32": (lambda key: torch.float32, torch.float32),
    "float16": (lambda key: torch.float16, torch.float16),
    "bfloat16": (lambda key: torch.bfloat16, torch.bfloat16),
    "float64": (lambda key: torch.float64, torch.float64),
    "mixed": (mixed, torch.float32),
    "both halves": (lambda key: torch.float16 if "v_proj" in key else torch.bfloat16, torch.float32),
    "float16 with a wide logit_scale": (
        lambda key: torch.float32 if key == "logit_scale" else torch.float16,
        torch.float16,
    ),
}
SAID = [{"dtype": name} for name in ("float16", "bfloat16", "float32", "float64", None)]
SAID += [{"dtype": None, "torch_dtype": name} for name in ("float16", "float32")]


@pytest.mark.parametrize("kind", DTYPES)
def test_weights_are_loaded_exactly_whatever_the_config_says(clean, tmp_path, kind):
    choose, wanted = DTYPES[kind]
    folder = shutil.copytree(clean, tmp_path / "clip")
    as_dtypes(folder, choose)
    stored, prints = torch_tensors(folder), []
    for said in SAID:
        change_config(folder, **{"torch_dtype": None, **said})
        editor = SithEditor.from_pretrained(folder)
        assert {parameter.dtype for parameter in editor.model.parameters()} == {wanted}
        state = editor.model.state_dict()
        assert all(torch.equal(state[key], tensor.to(wanted)) for key, tensor in stored.items())
        prints.append(editor.tower.sha256(range(3)))
    assert all(one == prints[0] for one in prints)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_an_edit_of_rounded_weights_says_so(clean, tmp_path, half):
    editor = SithEditor.from_model(CLIPModel.from_pretrained(clean, dtype=half), name=str(clean))
    spec = random_spec(clean)
    rounded = editor.tower.sha256([0, 2])
    base = type(spec.base)(str(clean), None, {key: rounded[key] for key in spec.base.sha256})
    with pytest.raises(BaseMismatch, match=rf"loaded in {half}, but the files .* hold torch\.float32: .*dtype=torch"):
        editor.save_pretrained(tmp_path / "out", type(spec)(**{**vars(spec), "base": base}))
    assert not (tmp_path / "out").exists()
    SithEditor.from_pretrained(clean).save_pretrained(tmp_path / "out", spec)  # what the message advises
    assert verify(tmp_path / "out", clean).ok


def test_verify_finds_what_transformers_would_not_load(clean, tmp_path):
    folder = shutil.copytree(clean, tmp_path / "base")
    SithEditor.from_pretrained(folder).save_pretrained(tmp_path / "edited", random_spec(folder))
    assert verify(tmp_path / "edited", folder).ok  # the control
    for place in (folder, tmp_path / "edited"):
        config = json.loads((place / "config.json").read_text())
        config["text_config"]["num_hidden_layers"] = 3
        (place / "config.json").write_text(json.dumps(config))
    found = verify(tmp_path / "edited", folder)
    assert any("cannot load it" in problem and "num_hidden_layers 3" in problem for problem in found.problems)
    with pytest.raises(InputError, match="num_hidden_layers 3"):
        SithEditor.from_pretrained(tmp_path / "edited")
