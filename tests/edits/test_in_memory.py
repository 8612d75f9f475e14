"""``applied`` edits a model wherever its weights are, and restores every byte in the same parameters."""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import accelerate
import pytest
import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from transformers import CLIPModel, CLIPVisionConfig, CLIPVisionModel, CLIPVisionModelWithProjection, SiglipVisionConfig
from transformers import SiglipVisionModel as Stranger

from sith_hf.checkpoint.write import save_edited
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.editor import SithEditor
from sith_hf.edits.in_memory import applied
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import BaseMismatch, InputError, UnsupportedModel
from tests.support.made import tiny_concepts
from tests.support.raw import out_proj, random_spec, torch_tensors
from tests.support.tiny import VISION, byte_tokenizer, clip_model, projected_vision_model, vision_model

MAKERS = {
    CLIPModel: clip_model,
    CLIPVisionModel: vision_model,
    CLIPVisionModelWithProjection: projected_vision_model,
}
KINDS = pytest.mark.parametrize("kind", list(MAKERS), ids=lambda kind: kind.__name__)
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOUCHED = {key for layer in (0, 2) for key in out_proj(layer)}


class Case(NamedTuple):
    """A checkpoint, an edit of it in layers 0 and 2, and the edited checkpoint."""

    base: Path
    spec: EditSpec
    edited: Path


@pytest.fixture(scope="session")
def case(tmp_path_factory):
    """Cases by class and dtype, each made once."""
    made: dict[tuple[Any, torch.dtype], Case] = {}

    def make(kind: Any = CLIPModel, dtype: torch.dtype = torch.float32) -> Case:
        if (kind, dtype) not in made:
            folder = tmp_path_factory.mktemp("case")
            MAKERS[kind]().to(dtype).save_pretrained(folder / "base")
            spec = random_spec(folder / "base")
            save_edited(folder / "base", spec, folder / "edited")
            made[kind, dtype] = Case(folder / "base", spec, folder / "edited")
        return made[kind, dtype]

    return make


@pytest.fixture(scope="session")
def spec(case):
    """The edit of the float32 CLIPModel."""
    return case().spec


@pytest.fixture
def model(case):
    """The float32 CLIPModel."""
    return CLIPModel.from_pretrained(case().base)


def tower(model: Any) -> Any:
    return getattr(model, "vision_model", model)


def projection(model: Any, layer: int) -> Any:
    return tower(model).encoder.layers[layer].self_attn.out_proj


def see(model: Any) -> torch.Tensor:
    """The tower's output for two pictures."""
    with torch.no_grad():
        return tower(model)(PIXELS.to(next(model.parameters()).dtype)).pooler_output


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal except for rounding that depends on where in memory the same weights are."""
    return torch.allclose(one, other, rtol=0, atol=100 * torch.finfo(one.dtype).eps)


def taken(model: Any) -> dict[str, tuple[Any, ...]]:
    """Everything that must be equal before and after, by name: object, address, gradient, bytes."""
    return {
        name: (id(p), p.data_ptr(), p.requires_grad, id(p.grad), p.dtype, tensor_sha256(p), p.is_leaf)
        for name, p in model.named_parameters(remove_duplicate=False)
    }


def different(model: Any, tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """The tensors of a model whose values are not those in ``tensors``, by their name on disk."""
    bare = ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
    own = {f"vision_model.{k}" if k.startswith(bare) else k: v for k, v in model.state_dict().items()}
    return {key for key, value in tensors.items() if not torch.equal(own[key], value)}


def refused(model: Any, spec: EditSpec, error: type[Exception], match: str) -> None:
    """Entering the block fails and changes nothing."""
    before = taken(model)
    with pytest.raises(error, match=match), applied(model, spec):
        pytest.fail("the block must not be entered")
    assert taken(model) == before


class TestInMemory:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @KINDS
    def test_inside_it_is_the_saved_checkpoint_and_outside_the_base(self, case, kind, dtype):
        base, spec, edited = case(kind, dtype)
        model = kind.from_pretrained(base, dtype=dtype)
        before, plain = taken(model), see(model)
        with applied(model, spec) as inside:
            assert inside is model
            assert different(model, torch_tensors(edited)) == set()
            assert different(model, torch_tensors(base)) == TOUCHED
            assert close(see(model), see(kind.from_pretrained(edited, dtype=dtype)))
            assert (see(model) - plain).abs().max() > 0.01  # the control
            places = {name: place[:2] for name, place in taken(model).items()}
            assert places == {name: place[:2] for name, place in before.items()}
        assert taken(model) == before
        assert torch.equal(see(model), plain)

    @pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("dtype", DTYPES[:3], ids=str)
    def test_a_model_that_was_cast_up_is_the_same_base(self, case, dtype, wide):
        base, spec, _ = case(CLIPModel, dtype)
        model = CLIPModel.from_pretrained(base, dtype=wide)
        before, plain = taken(model), see(model)
        with applied(model, spec):
            assert (see(model) - plain).abs().max() > 0.01
        assert taken(model) == before

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_a_model_that_was_rounded_is_not(self, case, dtype):
        base, spec, _ = case()
        refused(CLIPModel.from_pretrained(base, dtype=dtype), spec, BaseMismatch, f"loaded as {dtype}")

    def test_a_change_of_one_bit_in_float64_is_another_base(self, case):
        base, spec, _ = case()
        model = CLIPModel.from_pretrained(base, dtype=torch.float64)
        with torch.no_grad():
            projection(model, 2).weight[0, 0] *= 1 + 2**-50
        refused(model, spec, BaseMismatch, "has other values")

    def test_training_continues_unchanged(self, case, spec):
        def two_steps(between: bool) -> CLIPModel:
            model = CLIPModel.from_pretrained(case().base).train()
            tower(model).encoder.layers[0].requires_grad_(False)
            rate = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
            tower(model)(PIXELS).pooler_output.square().sum().backward()
            if between:
                before = taken(model)
                with applied(model, spec):
                    see(model)
                assert taken(model) == before
                assert model.training
                assert projection(model, 2).weight.grad.abs().max() > 0
            rate.step()
            return model

        assert different(two_steps(True), two_steps(False).state_dict()) == set()
        assert different(two_steps(True), torch_tensors(case().base)) > {out_proj(2)[0]}  # the control: it trained

    def test_gradients_inside_are_those_of_the_edited_model(self, case, model, spec):
        other = CLIPModel.from_pretrained(case().edited)
        with applied(model, spec):
            loss = tower(model)(PIXELS).pooler_output.square().sum()
            loss.backward(retain_graph=True)
        tower(other)(PIXELS).pooler_output.square().sum().backward()
        assert torch.allclose(projection(model, 1).weight.grad, projection(other, 1).weight.grad, rtol=1e-4, atol=1e-5)
        # Outside, the weights are no longer those that the loss was computed with.
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_what_is_done_to_the_model_inside_stays_but_for_the_weights(self, case, model, spec):
        with applied(model, spec):
            twin = copy.deepcopy(model)
            model.double().eval()
            with torch.no_grad():
                projection(model, 2).weight.zero_()
        assert different(twin, torch_tensors(case().edited)) == set()
        assert different(model.float(), torch_tensors(case().base)) == set()

    @pytest.mark.parametrize("inside", [False, True], ids=["entered outside", "entered inside"])
    @pytest.mark.parametrize("made", [False, True], ids=["made outside", "made inside"])
    def test_inference_mode(self, case, spec, made, inside):
        with torch.inference_mode(made):
            model = clip_model()
        assert projection(model, 0).weight.is_inference() is made
        before, plain = taken(model), see(model)
        with torch.inference_mode(inside), applied(model, spec):
            assert different(model, torch_tensors(case().edited)) == set()
        assert taken(model) == before
        assert torch.equal(see(model), plain)

    def test_a_spec_that_would_overflow_is_refused(self, case):
        base, spec, _ = case(CLIPModel, torch.float16)
        huge = replace(spec, gain=torch.where(spec.layer == 2, 1e9, spec.gain))  # layer 0 alone would fit
        refused(CLIPModel.from_pretrained(base, dtype=torch.float16), huge, InputError, "overflow torch.float16")

    def test_a_spec_that_does_not_know_its_base_is_refused(self, model, spec):
        refused(model, replace(spec, base=BaseRef("x", None, {})), BaseMismatch, "lacks fingerprints")
        refused(model, spec.inverse(), InputError, "removes an edit")


class TestLeaving:
    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit, SystemExit, StopIteration])
    def test_by_an_exception(self, case, model, spec, error):
        before = taken(model)

        def use() -> None:
            with applied(model, spec):
                assert different(model, torch_tensors(case().base)) == TOUCHED
                raise error

        with pytest.raises(error):
            use()
        assert taken(model) == before

    def test_by_closing_or_dropping_a_generator_that_is_inside(self, case, model, spec):
        before = taken(model)

        def outputs():
            with applied(model, spec):
                while True:
                    yield see(model)

        for leave in (lambda running: running.close(), lambda running: None):
            running = outputs()
            next(running)
            assert different(model, torch_tensors(case().base)) == TOUCHED
            leave(running)
            del running
            gc.collect()
            assert taken(model) == before

    def test_by_forgetting_to(self, case, model, spec):
        before = taken(model)
        context = applied(model, spec)
        context.__enter__()
        assert different(model, torch_tensors(case().base)) == TOUCHED
        del context
        gc.collect()
        assert taken(model) == before

    @pytest.mark.parametrize("at", range(4))
    def test_when_a_write_fails(self, model, spec, monkeypatch, at):
        before, calls = taken(model), []

        def fails(parameter: torch.Tensor, values: torch.Tensor) -> None:
            calls.append(parameter)
            torch.Tensor.copy_(parameter, values)
            if len(calls) == at + 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(torch.nn.Parameter, "copy_", fails)
        with pytest.raises(KeyboardInterrupt), applied(model, spec):
            pytest.fail("the block must not be entered")
        assert taken(model) == before
        assert len(calls) == 2 * (at + 1)

    @pytest.mark.parametrize("at", range(4))
    def test_when_putting_one_back_fails_the_others_are_put_back(self, case, model, spec, monkeypatch, at):
        calls = []

        def fails(parameter: torch.Tensor, values: torch.Tensor) -> None:
            calls.append(parameter)
            if len(calls) == 4 + at + 1:
                raise MemoryError
            torch.Tensor.copy_(parameter, values)

        monkeypatch.setattr(torch.nn.Parameter, "copy_", fails)
        with pytest.raises(MemoryError), applied(model, spec):
            assert different(model, torch_tensors(case().edited)) == set()
        assert len(calls) == 8
        assert len(different(model, torch_tensors(case().base))) == 1


class TestNested:
    def test_over_other_layers(self, case, model, spec):
        base = case().base
        middle, before = random_spec(base, [(1, 0, 0, 0.0)]), taken(model)
        with applied(model, spec):
            between = taken(model)
            with applied(model, middle):
                assert different(model, torch_tensors(base)) == TOUCHED | set(out_proj(1))
            assert taken(model) == between
        assert taken(model) == before

    def test_an_edit_of_the_edited_model_over_the_same_layers(self, case, model, spec):
        second, before = random_spec(case().edited, seed=7), taken(model)
        refused(model, second, BaseMismatch, "has other values")
        with applied(model, spec):
            between = taken(model)
            refused(model, spec, BaseMismatch, "has other values")
            with applied(model, second):
                assert different(model, torch_tensors(case().edited)) == TOUCHED
            assert taken(model) == between
        assert taken(model) == before

    def test_one_after_another(self, model, spec):
        seen = []
        for strength in (1, 0.5, 1):
            with applied(model, spec * strength):
                seen.append(see(model))
        assert torch.equal(seen[0], seen[2])
        assert not torch.equal(seen[0], seen[1])


class TestShared:
    def test_layers_that_share_a_parameter_are_refused(self, model, spec):
        projection(model, 1).weight = projection(model, 0).weight
        refused(model, spec, InputError, r"layers\.0\..*weight is shared")

    def test_layers_that_share_memory_are_refused(self, model, spec):
        projection(model, 1).bias.data = projection(model, 2).bias.data
        refused(model, spec, InputError, r"layers\.2\..*bias is shared")

    def test_sharing_that_the_edit_does_not_touch_is_allowed(self, case, model):
        projection(model, 1).weight = projection(model, 0).weight
        before = taken(model)
        with applied(model, random_spec(case().base, [(2, 0, 0, 0.0)])):
            assert taken(model) != before
        assert taken(model) == before

    def test_a_tower_in_two_models_is_edited_in_both_and_restored_in_both(self, case, model, spec):
        alone = CLIPVisionModel(model.config.vision_config)
        for name, child in tower(model).named_children():
            setattr(alone, name, child)
        model.again = tower(model)  # registered twice in one model, it is still one layer
        before, plain = taken(model), see(model)
        with applied(alone, spec):
            assert different(alone, {k: v for k, v in torch_tensors(case().edited).items() if k in TOUCHED}) == set()
            assert torch.equal(see(alone), see(model))
            assert not torch.equal(see(model), plain)
        assert taken(model) == before
        with applied(model, spec):
            assert not torch.equal(see(alone), plain)
        assert torch.equal(see(alone), plain)


class TestWrapped:
    @pytest.mark.parametrize(
        "wrap",
        [
            torch.nn.DataParallel,
            torch.optim.swa_utils.AveragedModel,
            lambda model: torch.compile(model, backend="eager"),
            lambda model: torch.nn.DataParallel(torch.compile(model, backend="eager")),
        ],
        ids=["DataParallel", "AveragedModel", "compile", "both"],
    )
    def test_the_model_inside_is_edited_and_the_wrapper_given(self, case, wrap):
        outer = wrap(vision_model())
        spec = case(CLIPVisionModel).spec
        before = taken(outer)
        with applied(outer, spec) as given:
            assert given is outer
            assert {name for name, state in taken(outer).items() if state != before[name]} == {
                name for name in before if any(name.endswith(key.removeprefix("vision_model.")) for key in TOUCHED)
            }
        assert taken(outer) == before

    def test_compiled_code_sees_the_edit_and_its_end(self, case):
        base, spec, edited = case(CLIPVisionModel)
        model = CLIPVisionModel.from_pretrained(base)
        compiled = torch.compile(model, backend="eager")
        plain = see(compiled)
        with applied(compiled, spec):
            assert close(see(compiled), see(CLIPVisionModel.from_pretrained(edited)))
            assert (see(compiled) - plain).abs().max() > 0.01
        assert torch.equal(see(compiled), plain)


class Idle(ModelHook):
    """A hook that does nothing, so that accelerate makes a sequence of hooks."""


def weight_maps(model: Any) -> dict[str, int]:
    """Which map each hook of accelerate loads weights from."""
    hooks = {name: getattr(inner, "_hf_hook", None) for name, inner in model.named_modules()}
    return {name: id(hook.weights_map) for name, hook in hooks.items() if hasattr(hook, "weights_map")}


class TestOffloaded:
    def offloaded(self, how: str, kind: Any, base: Path, tmp_path: Path) -> Any:
        if how == "from_pretrained":
            names = dict(kind.from_pretrained(base).named_parameters())
            placed = {n.rpartition(".")[0] or n: "disk" if "encoder.layers.2." in n else "cpu" for n in names}
            return kind.from_pretrained(base, device_map=placed, offload_folder=tmp_path / "disk")
        model = kind.from_pretrained(base, device_map={"": "cpu"})
        if how == "cpu":
            accelerate.cpu_offload(model)
        elif how == "disk":
            accelerate.disk_offload(model, tmp_path / "disk")
        elif how == "sequence":
            accelerate.cpu_offload(model)
            for layer in (0, 2):
                add_hook_to_module(projection(model, layer), Idle(), append=True)
        elif how == "blocks":
            accelerate.disk_offload(model, tmp_path / "disk", preload_module_classes=["CLIPEncoderLayer"])
        return model

    @pytest.mark.parametrize("how", ["cpu", "disk", "sequence", "blocks", "from_pretrained"])
    @KINDS
    def test_the_edit_is_in_what_is_loaded(self, case, tmp_path, kind, how):
        base, spec, edited = case(kind)
        model = self.offloaded(how, kind, base, tmp_path)
        assert [projection(model, layer).weight.is_meta for layer in (0, 2)] == [how != "from_pretrained", True]
        maps = weight_maps(model)
        files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        plain = see(model)
        assert close(plain, see(kind.from_pretrained(base)))
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt), applied(model, spec) as inside:
                assert inside is model
                assert close(see(model), see(kind.from_pretrained(edited)))
                assert (see(model) - plain).abs().max() > 0.01
                raise KeyboardInterrupt
            assert close(see(model), plain)
        assert weight_maps(model) == maps
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files

    def test_nested(self, case, tmp_path):
        base, spec, edited = case()
        second = random_spec(edited, seed=7)
        model, twin = self.offloaded("disk", CLIPModel, base, tmp_path), CLIPModel.from_pretrained(base)
        plain = see(model)
        with pytest.raises(BaseMismatch), applied(model, second):
            pytest.fail("the block must not be entered")
        with applied(model, spec), applied(twin, spec):
            with applied(model, second), applied(twin, second):
                assert close(see(model), see(twin))
                assert (see(model) - see(CLIPModel.from_pretrained(edited))).abs().max() > 0.01
            assert close(see(model), see(twin))
        assert close(see(model), plain)

    def test_what_is_saved_inside_is_the_edited_model(self, case, tmp_path):
        base, spec, edited = case()
        model = self.offloaded("from_pretrained", CLIPModel, base, tmp_path)
        with applied(model, spec):
            model.save_pretrained(tmp_path / "saved")
        saved, wanted = torch_tensors(tmp_path / "saved"), torch_tensors(edited)
        assert saved.keys() == wanted.keys()
        assert all(torch.equal(saved[key], wanted[key]) for key in wanted)

    @pytest.mark.parametrize("how", ["cpu", "disk", "blocks", "from_pretrained"])
    @KINDS
    def test_an_editor_reads_and_edits_it(self, case, tmp_path, kind, how):
        base, spec, edited = case(kind)
        model = self.offloaded(how, kind, base, tmp_path)
        editor, plain = SithEditor.from_model(model), see(model)
        whole = SithEditor.from_pretrained(base).tower
        assert editor.tower.sha256(range(3)) == whole.sha256(range(3))
        with editor.applied(spec):
            assert close(see(model), see(kind.from_pretrained(edited)))
            assert (see(model) - plain).abs().max() > 0.01
        assert close(see(model), plain)

    def test_a_text_tower_that_is_offloaded_cannot_encode_and_says_so(self, case, tmp_path):
        model = self.offloaded("cpu", CLIPModel, case().base, tmp_path)
        editor = SithEditor.from_model(model, byte_tokenizer(tmp_path / "bytes"))
        with pytest.raises(InputError, match="text tower is offloaded"):
            editor.decompose(tiny_concepts())
        companion = SithEditor.from_model(model, byte_tokenizer(tmp_path / "bytes"), text_model=clip_model())
        companion.decompose(tiny_concepts())
        plain = see(model)
        with companion.applied(companion.edit().vectors(0.0, heads=[1]).spec):
            assert (see(model) - plain).abs().max() > 0.01
        assert close(see(model), plain)

    @KINDS
    def test_one_device_for_all_needs_no_hooks(self, case, kind):
        base, spec, edited = case(kind)
        model = kind.from_pretrained(base, device_map={"": "cpu"})
        before = taken(model)
        with applied(model, spec):
            assert different(model, torch_tensors(edited)) == set()
        assert taken(model) == before

    def test_hooks_that_offload_nothing(self, case, model, spec):
        accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
        before = taken(model)
        with applied(model, spec):
            assert different(model, torch_tensors(case().edited)) == set()
        assert taken(model) == before

    def test_a_model_without_values_is_refused(self, spec):
        with torch.device("meta"):
            model = CLIPVisionModel(CLIPVisionConfig(**VISION))
        with pytest.raises(InputError, match="without values"), applied(model, spec):
            pytest.fail("the block must not be entered")
        with pytest.raises(InputError, match="without values"):
            SithEditor.from_model(model)
        with pytest.raises(InputError, match="without values"):
            tensor_sha256(projection(model, 0).weight)


class Packed(torch.Tensor):
    """A stand-in for parameters of quantization and sharding libraries."""


class TestRefused:
    @pytest.mark.parametrize("make", [lambda: torch.nn.Linear(2, 2), object, lambda: None, torch.nn.Module])
    def test_what_is_no_tower(self, spec, make):
        with (
            pytest.raises(UnsupportedModel, match="does not have the vision tower of the family clip"),
            applied(make(), spec),
        ):
            pytest.fail("the block must not be entered")

    def test_the_text_tower_and_another_family(self, model, spec):
        refused(model.text_model, spec, UnsupportedModel, "does not have the vision tower of the family clip")
        small = {key: value for key, value in VISION.items() if key != "projection_dim"}
        stranger = Stranger(SiglipVisionConfig(**small))
        refused(stranger, spec, UnsupportedModel, "does not have the vision tower of the family clip")

    def test_too_few_layers(self, spec):
        refused(clip_model(num_hidden_layers=2), spec, BaseMismatch, "is not there")

    def test_a_parametrized_weight(self, model, spec):
        torch.nn.utils.parametrizations.weight_norm(projection(model, 2))
        with pytest.raises(InputError, match="not a plain float parameter"), applied(model, spec):
            pytest.fail("the block must not be entered")

    def test_quantized_weights(self, model, spec):
        projection(model, 2).weight = torch.nn.Parameter(torch.zeros(32, 32, dtype=torch.int8), requires_grad=False)
        refused(model, spec, InputError, r"Parameter of torch\.int8")
        with torch.no_grad():
            packed = torch.nn.Parameter(torch.zeros(32, 32).as_subclass(Packed), requires_grad=False)
        projection(model, 2).weight = packed
        refused(model, spec, InputError, "not a plain float parameter")
