"""``verify`` is silent about an honest edit and names every other difference."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace

import pytest
import torch

from sith_hf.checkpoint.verify import roundings_apart, verify
from sith_hf.checkpoint.write import revert, save_edited
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import ArtifactError, BaseMismatch, InputError
from tests.support import tiny
from tests.support.raw import INDEX, SINGLE, Raw, out_proj, random_spec, raw_tensors, read_raw, tree, write_raw

TENSORS = len(tiny.clip_model().state_dict())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A CLIPModel in one file, with files beside it."""
    folder = tiny.save_clip(tmp_path_factory.mktemp("base") / "model")
    (folder / "extra").mkdir()
    (folder / "extra" / "note.txt").write_text("a note")
    return folder


@pytest.fixture(scope="module")
def spec(base):
    return random_spec(base)


@pytest.fixture(scope="module")
def honest(base, spec, tmp_path_factory):
    """The edit as save_edited writes it."""
    folder = tmp_path_factory.mktemp("honest") / "model"
    save_edited(base, spec, folder, include=["extra/*"])
    return folder


@pytest.fixture
def edited(honest, tmp_path):
    """A copy of it to tamper with."""
    return shutil.copytree(honest, tmp_path / "edited")


def change(folder, key, make):
    """Replace one tensor by ``make`` of it; None takes it away."""
    tensors, metadata = read_raw(folder / SINGLE)
    new = make(tensors.pop(key)) if key in tensors else make(None)
    write_raw(folder / SINGLE, tensors if new is None else {**tensors, key: new}, metadata)


def flip(bit, at=0):
    """One bit of one byte."""

    def make(raw):
        content = bytearray(raw.content)
        content[at] ^= bit
        return raw._replace(content=bytes(content))

    return make


def floats(raw):
    return list(struct.unpack(f"<{len(raw.content) // 4}f", raw.content))


def with_first(value):
    """The first float32 replaced."""
    return lambda raw: raw._replace(content=struct.pack("<f", value) + raw.content[4:])


class TestHonest:
    @pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_no_problem(self, tmp_path, dtype, sharded):
        base = tiny.save_clip(tmp_path / "base", dtype=dtype, **({"max_shard_size": "20KB"} if sharded else {}))
        save_edited(base, random_spec(base), tmp_path / "edited")
        before = tree(tmp_path)
        found = verify(tmp_path / "edited", base)
        assert found.ok
        assert found.problems == ()
        assert (found.edited, found.identical) == (4, TENSORS - 4)
        assert found.files == len(list(base.iterdir())) - len(list(base.glob("model*")))
        assert found.deviation == 0
        assert tree(tmp_path) == before

    def test_the_base_that_the_spec_names(self, honest):
        assert verify(honest).ok

    def test_the_spec_given(self, base, honest, spec, edited):
        shutil.rmtree(edited / "sith")
        assert verify(edited, base, spec).ok
        with pytest.raises(ArtifactError):
            verify(edited, base)
        other = verify(honest, base, random_spec(base, seed=9))
        assert len(other.problems) == 4

    def test_sharding_and_order_do_not_matter(self, base, honest, spec, tmp_path):
        sharded = tiny.save_clip(tmp_path / "sharded", max_shard_size="20KB")
        shutil.copytree(base / "extra", sharded / "extra")
        assert verify(honest, sharded).ok
        save_edited(sharded, spec, tmp_path / "edited")
        assert verify(tmp_path / "edited", base).ok
        tensors, metadata = read_raw(honest / SINGLE)
        shutil.copytree(honest, tmp_path / "turned")
        write_raw(tmp_path / "turned" / SINGLE, dict(reversed(tensors.items())), metadata)
        assert verify(tmp_path / "turned", base).ok

    def test_a_tower_saved_without_the_prefix(self, tmp_path):
        tiny.vision_model().save_pretrained(tmp_path / "base")
        save_edited(tmp_path / "base", random_spec(tmp_path / "base"), tmp_path / "edited")
        assert verify(tmp_path / "edited").ok

    def test_the_other_way_to_round_is_honest_and_no_further(self, base, edited):
        key = out_proj(2)[0]
        value = floats(raw_tensors(edited)[key])[0]
        (bits,) = struct.unpack("<i", struct.pack("<f", value))
        steps = {n: struct.unpack("<f", struct.pack("<i", bits + n))[0] for n in (1, 3)}
        change(edited, key, with_first(steps[1]))
        found = verify(edited, base)
        assert found.ok
        assert 0 < found.deviation <= 1
        change(edited, key, with_first(steps[3]))
        assert not verify(edited, base).ok

    def test_json(self, honest, base):
        plain = json.loads(json.dumps(verify(honest, base).to_json(), allow_nan=False))
        assert plain["ok"] is True
        assert plain["problems"] == []


class TestTampering:
    """Every difference gives just one problem, which names it."""

    @pytest.mark.parametrize(
        "key", ["logit_scale", "text_projection.weight", "vision_model.encoder.layers.1.self_attn.out_proj.weight"]
    )
    def test_an_untouched_tensor_by_one_bit(self, edited, base, key):
        for at in (0, -1):
            change(edited, key, flip(1, at))
            (problem,) = verify(edited, base).problems
            assert key in problem
            assert "does not touch" in problem
            change(edited, key, flip(1, at))
            assert verify(edited, base).ok

    def test_the_sign_of_zero(self, base, spec, tmp_path):
        # Equal values of other bytes are not the base's bytes.
        source = shutil.copytree(base, tmp_path / "base")
        key = "vision_model.embeddings.class_embedding"
        change(source, key, with_first(0.0))
        save_edited(source, spec, tmp_path / "edited")
        assert verify(tmp_path / "edited", source).ok
        change(tmp_path / "edited", key, with_first(-0.0))
        assert len(verify(tmp_path / "edited", source).problems) == 1

    @pytest.mark.parametrize("key", [*out_proj(0), *out_proj(2)])
    @pytest.mark.parametrize("value", [5.0, float("nan"), float("inf"), -1e38], ids=str)
    def test_an_edited_tensor(self, edited, base, key, value):
        change(edited, key, with_first(value))
        found = verify(edited, base)
        (problem,) = found.problems
        assert key in problem
        assert found.deviation > 1
        json.dumps(found.to_json(), allow_nan=False)

    def test_an_edit_that_was_not_written(self, edited, base):
        shutil.copyfile(base / SINGLE, edited / SINGLE)
        assert len(verify(edited, base).problems) == 4

    def test_a_tensor_of_another_dtype_or_shape(self, edited, base):
        key = "vision_model.post_layernorm.weight"
        other = [lambda raw: raw._replace(dtype="I32"), lambda raw: raw._replace(shape=(4, 8))]
        for make in (*other, lambda raw: Raw("F16", raw.shape, raw.content[:64])):
            kept = raw_tensors(edited)[key]
            change(edited, key, make)
            (problem,) = verify(edited, base).problems
            assert key in problem
            change(edited, key, lambda raw, kept=kept: kept)
        assert verify(edited, base).ok

    @pytest.mark.parametrize("key", ["logit_scale", out_proj(2)[1]])
    def test_a_missing_tensor(self, edited, base, key):
        change(edited, key, lambda raw: None)
        (problem,) = verify(edited, base).problems
        assert problem == f"tensor {key} is only in the base"

    def test_an_added_tensor(self, edited, base):
        change(edited, "vision_model.stowaway", lambda raw: Raw("F32", (1,), b"\0\0\0\0"))
        (problem,) = verify(edited, base).problems
        assert problem == "tensor vision_model.stowaway is only in the edited checkpoint"

    def test_files(self, edited, base):
        (edited / "config.json").write_text((edited / "config.json").read_text() + " ")
        assert verify(edited, base).problems == ("file config.json differs from the base's",)
        shutil.copyfile(base / "config.json", edited / "config.json")
        (edited / "tokenizer.json").rename(edited / "tokenizer")
        missing, added = verify(edited, base).problems
        assert (missing, added) == ("file tokenizer is not in the base", "file tokenizer.json of the base is missing")
        (edited / "tokenizer").rename(edited / "tokenizer.json")
        (edited / "extra" / "note.txt").unlink()
        assert verify(edited, base).ok  # it is not part of a checkpoint
        for text, end in (("a note", None), ("another", "differs from the base's")):
            (edited / "extra" / "note.txt").write_text(text)
            assert verify(edited, base).problems == (() if end is None else (f"file extra/note.txt {end}",))
        (edited / "extra" / "note.txt").unlink()
        for name in ("extra/modeling.py", "sith/modeling.py", "README.txt"):
            (edited / name).write_text("import os")
            assert verify(edited, base).problems == (f"file {name} is not in the base",)
            (edited / name).unlink()
        assert verify(edited, base).ok

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "model.fp16.safetensors", "onnx/model.onnx"])
    def test_other_weights_beside_the_edited_ones(self, edited, base, name):
        # save_edited never writes them, and a model loaded from them lacks the edit.
        (edited / name).parent.mkdir(exist_ok=True)
        (edited / name).write_bytes(b"weights")
        (problem,) = verify(edited, base).problems
        assert name in problem

    def test_other_weights_in_the_base_are_no_difference(self, base, honest, tmp_path):
        source = shutil.copytree(base, tmp_path / "base")
        (source / "pytorch_model.bin").write_bytes(b"weights")
        assert verify(honest, source).ok

    def test_everything_at_once(self, edited, base):
        change(edited, "logit_scale", flip(1))
        change(edited, out_proj(0)[0], with_first(9.0))
        (edited / "config.json").write_text("{}")
        found = verify(edited, base)
        assert len(found.problems) == 3
        assert (found.edited, found.identical) == (3, TENSORS - 5)
        assert not found.ok
        assert found.to_json()["ok"] is False


class TestRefusals:
    def test_a_wrong_base(self, honest, base, tmp_path):
        other = tiny.save_clip(tmp_path / "other", seed=3)
        with pytest.raises(BaseMismatch):
            verify(honest, other)
        with pytest.raises(BaseMismatch):
            verify(honest, honest)
        assert verify(honest, base).ok

    def test_the_base_was_moved_away(self, base, edited):
        record = EditSpec.from_pretrained(edited)
        moved = replace(record, base=replace(record.base, name="/no/such/folder"))
        moved.save_pretrained(edited / "sith")
        with pytest.raises(InputError, match="/no/such/folder"):
            verify(edited)
        assert verify(edited, base).ok

    def test_damaged_folders(self, edited, base, tmp_path):
        for wrong in (tmp_path / "none", base / "config.json"):
            with pytest.raises(InputError):
                verify(wrong, base)
            with pytest.raises(InputError):
                verify(edited, wrong)
        with pytest.raises(ArtifactError):
            verify(base, base)
        (edited / SINGLE).write_bytes((edited / SINGLE).read_bytes()[:-1])
        with pytest.raises(InputError, match="not a whole"):
            verify(edited, base)

    def test_a_reverted_checkpoint_is_not_an_edited_one(self, honest, base, tmp_path):
        revert(honest, tmp_path / "back")
        with pytest.raises(ArtifactError):
            verify(tmp_path / "back", base)

    def test_an_index_that_lies(self, tmp_path):
        base = tiny.save_clip(tmp_path / "base", max_shard_size="20KB")
        save_edited(base, random_spec(base), tmp_path / "edited")
        index = json.loads((tmp_path / "edited" / INDEX).read_text())
        first = min(index["weight_map"])
        index["weight_map"][first] = next(n for n in index["weight_map"].values() if n != index["weight_map"][first])
        (tmp_path / "edited" / INDEX).write_text(json.dumps(index))
        with pytest.raises(InputError, match="fetch it again"):
            verify(tmp_path / "edited", base)


class TestRoundings:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
    def test_one_step_is_at_most_one(self, dtype):
        values = torch.tensor([1.0, 1.5, -3.0, 2.0**-10, 100.0]).to(dtype)
        bits = torch.int32 if dtype == torch.float32 else torch.int16
        assert 0 < roundings_apart((values.view(bits) + 1).view(dtype), values) <= 1
        assert roundings_apart(values, values.clone()) == 0
        assert roundings_apart((values.view(bits) + 3).view(dtype), values) > 1

    def test_zero_and_nan(self):
        zero = torch.zeros(3)
        assert roundings_apart(zero + 1e-30, zero) > 1
        assert roundings_apart(torch.tensor([float("nan")]), torch.tensor([1.0])) == float("inf")
