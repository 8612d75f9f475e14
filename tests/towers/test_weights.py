"""Reading and copying safetensors files: a copy differs from its source in the replaced bytes only."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from transformers import CLIPVisionModel

from sith_hf.errors import InputError, UnsupportedModel
from sith_hf.towers import registry
from sith_hf.towers.disk_names import disk_names
from sith_hf.towers.model_class import config_class
from sith_hf.towers.weights import INDEX, SINGLE, Checkpoint, Shard
from tests.support import tiny
from tests.support.raw import Raw, raw_tensors, read_raw, tree, weight_files, write_raw


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A CLIPModel in one file."""
    return tiny.save_clip(tmp_path_factory.mktemp("full") / "model")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """The same in many files."""
    return tiny.save_clip(tmp_path_factory.mktemp("sharded") / "model", max_shard_size="20KB")


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A CLIPVisionModel as transformers 5 saves it: without the prefix; in one file and in many."""
    folder = tmp_path_factory.mktemp("bare")
    tiny.vision_model().save_pretrained(folder / "single")
    tiny.vision_model().save_pretrained(folder / "sharded", max_shard_size="20KB")
    keys = read_raw(folder / "single" / SINGLE)[0]
    assert any(key.startswith("encoder.") for key in keys), "transformers saves the prefix again: simplify disk_names"
    return folder


def simple(folder: Path, *, metadata: dict[str, str] | None = None, pad: int = 8) -> Path:
    """A small file with tensors in an order that is not the alphabet's."""
    tensors = {
        "vision_model.b": Raw("F32", (3,), struct.pack("<3f", 1, 2, 3)),
        "vision_model.a": Raw("BF16", (2, 2), bytes(range(8))),
        "text_model.scalar": Raw("F32", (), struct.pack("<f", 7)),
        "text_model.empty": Raw("F32", (0, 4), b""),
        "logit_scale": Raw("I64", (1,), struct.pack("<q", -5)),
    }
    return write_raw(folder / SINGLE, tensors, metadata, pad)


class TestReading:
    def test_every_tensor_is_there_with_its_bytes(self, full, sharded):
        for folder in (full, sharded):
            checkpoint = Checkpoint.read(folder)
            wanted = raw_tensors(folder)
            assert set(checkpoint.where) == set(wanted)
            for key, raw in wanted.items():
                entry = checkpoint.where[key].entries[key]
                assert (entry.dtype, entry.shape) == (raw.dtype, raw.shape)
                assert b"".join(checkpoint.where[key].chunks(key)) == raw.content
                assert checkpoint.tensor(key).numpy().tobytes() == raw.content
        assert len(Checkpoint.read(full).shards) == 1
        assert len(Checkpoint.read(sharded).shards) > 5

    def test_two_models_have_different_bytes(self, full, tmp_path):
        # The control of the test above: equality of bytes is not a matter of course.
        other = Checkpoint.read(tiny.save_clip(tmp_path / "other", seed=5))
        key = "vision_model.post_layernorm.weight"
        assert b"".join(other.where[key].chunks(key)) != raw_tensors(full)[key].content

    def test_chunks_are_bounded_and_whole(self, full, monkeypatch):
        monkeypatch.setattr("sith_hf.files.unchanged._PIECE", 1000)
        shard = Checkpoint.read(full).shards[0]
        key = "vision_model.encoder.layers.0.self_attn.out_proj.weight"
        pieces = list(shard.chunks(key))
        assert [len(piece) for piece in pieces] == [1000, 1000, 1000, 1000, 96]
        assert b"".join(pieces) == raw_tensors(full)[key].content

    def test_the_single_file_wins_as_it_does_in_transformers(self, sharded, full, tmp_path):
        for path in (*sharded.iterdir(), full / SINGLE):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        assert [shard.path.name for shard in Checkpoint.read(tmp_path).shards] == [SINGLE]

    def test_a_missing_tensor_is_named(self, full):
        with pytest.raises(InputError, match=r"no tensor vision_model\.nothing"):
            Checkpoint.read(full).tensor("vision_model.nothing")


class TestNames:
    def test_a_tower_saved_afresh_gets_the_prefix(self, bare, full):
        for folder in (bare / "single", bare / "sharded"):
            keys = set(Checkpoint.read(folder).where)
            assert keys == {key for key in raw_tensors(full) if key.startswith("vision_model.")}

    @pytest.mark.parametrize("architecture", ["CLIPVisionModel", "CLIPTextModel"])
    def test_canonical_names_are_those_of_the_whole_model(self, architecture, full):
        kind = getattr(transformers, architecture)
        part = "vision" if kind is CLIPVisionModel else "text"
        names = disk_names(architecture, getattr(tiny.clip_model().config, f"{part}_config"), nested=True)
        wanted = [key for key in raw_tensors(full) if key.startswith(f"{part}_model.")]
        assert sorted(names.canonical.values()) == sorted(wanted)
        for keys in (wanted, [key.removeprefix(f"{part}_model.") for key in wanted]):
            assert list(names.of_files(keys).values()) == wanted

    @pytest.mark.parametrize(
        "key",
        [
            "visual_projection.weight",
            "logit_scale",
            # Nothing that from_pretrained of a CLIPVisionModel would ever look for under the prefix.
            "classifier.weight",
            "logit_bias",
            "some_adapter.lora_A.weight",
        ],
    )
    def test_other_names_stay(self, key):
        names = disk_names("CLIPVisionModel", tiny.vision_model().config, nested=True)
        assert names.of_files([key]) == {key: key}
        assert names.of_files(["encoder.layers.0.mlp.fc1.bias"]) != {}  # the control

    def test_a_name_twice_with_and_without_prefix_is_refused(self, bare, tmp_path):
        shutil.copytree(bare / "single", tmp_path / "model")
        tensors, metadata = read_raw(tmp_path / "model" / SINGLE)
        key = "post_layernorm.bias"
        write_raw(tmp_path / "model" / SINGLE, {**tensors, f"vision_model.{key}": tensors[key]}, metadata)
        with pytest.raises(InputError, match="twice"):
            Checkpoint.read(tmp_path / "model").where  # noqa: B018
        # The control.
        write_raw(tmp_path / "model" / SINGLE, tensors, metadata)
        assert f"vision_model.{key}" in Checkpoint.read(tmp_path / "model").where


class TestCopying:
    def test_nothing_replaced_is_the_same_file(self, full, sharded, tmp_path):
        for path in (*weight_files(full), *weight_files(sharded)):
            Shard.read(path).copy(tmp_path / path.name, {})
            assert (tmp_path / path.name).read_bytes() == path.read_bytes()

    def test_only_the_replaced_bytes_differ(self, full, tmp_path):
        shard = Shard.read(full / SINGLE)
        key = "vision_model.encoder.layers.1.self_attn.out_proj.bias"
        new = torch.arange(32, dtype=torch.float32) + 0.5
        shard.copy(tmp_path / "copy", {key: new})
        before, after = (full / SINGLE).read_bytes(), (tmp_path / "copy").read_bytes()
        entry = shard.entries[key]
        assert len(after) == len(before)
        assert after[: entry.start] == before[: entry.start]
        assert after[entry.stop :] == before[entry.stop :]
        assert after[entry.start : entry.stop] == struct.pack("<32f", *(i + 0.5 for i in range(32)))
        assert after != before

    @pytest.mark.parametrize("pad", [1, 8, 64])
    def test_odd_files_are_kept_byte_for_byte(self, tmp_path, pad):
        # Big-endian hosts, other writers: unsorted tensors, scalars, empty tensors, odd metadata, odd padding.
        metadata = {"format": "pt", "byte_order": "big", "": "ключ\u2028\x00", "nested": json.dumps({"a": [1]})}
        path = simple(tmp_path, metadata=metadata, pad=pad)
        Shard.read(path).copy(tmp_path / "copy", {})
        assert (tmp_path / "copy").read_bytes() == path.read_bytes()
        Shard.read(path).copy(tmp_path / "copy", {"vision_model.b": torch.tensor([4.0, 5.0, 6.0])})
        found, kept = read_raw(tmp_path / "copy")
        assert kept == metadata
        wanted = read_raw(path)[0]
        assert found.pop("vision_model.b").content == struct.pack("<3f", 4, 5, 6)
        assert wanted.pop("vision_model.b").content != struct.pack("<3f", 4, 5, 6)
        assert found == wanted

    def test_bare_names_are_rewritten_and_nothing_else(self, bare, tmp_path):
        shards = [*Checkpoint.read(bare / "single").shards, *Checkpoint.read(bare / "sharded").shards]
        assert len(shards) > 3
        for number, shard in enumerate(shards):
            copy = tmp_path / f"{number}.safetensors"
            shard.copy(copy, {})
            (before, old), (after, new) = read_raw(shard.path), read_raw(copy)
            assert list(after) == [f"vision_model.{key}" for key in before]
            assert list(after.values()) == list(before.values())
            assert new == old
            with safe_open(copy, framework="pt") as file:
                assert set(file.keys()) == set(after)
                assert file.metadata() == old

    def test_renaming_keeps_odd_metadata_and_replaces_in_the_right_place(self, tmp_path):
        metadata = {"format": "pt", "note": 'ключ "quoted"\n', "byte_order": "big"}
        tensors = {
            "encoder.second": Raw("F32", (2,), struct.pack("<2f", 1, 2)),
            "encoder.first": Raw("F32", (2,), struct.pack("<2f", 3, 4)),
        }
        path = write_raw(tmp_path / SINGLE, tensors, metadata)
        names = {key: f"vision_model.{key}" for key in tensors}
        replace(Shard.read(path), names=names, renames=True).copy(
            tmp_path / "copy", {"vision_model.encoder.first": torch.tensor([8.0, 9.0])}
        )
        after, kept = read_raw(tmp_path / "copy")
        assert kept == metadata
        assert after["vision_model.encoder.second"] == tensors["encoder.second"]
        assert after["vision_model.encoder.first"].content == struct.pack("<2f", 8, 9)

    def test_a_replacement_of_another_size_is_refused(self, full, tmp_path):
        shard = Shard.read(full / SINGLE)
        key = "vision_model.encoder.layers.1.self_attn.out_proj.bias"
        for wrong in (torch.zeros(31), torch.zeros(32, dtype=torch.float16), torch.zeros(64)):
            with pytest.raises(InputError, match="another size"):
                shard.copy(tmp_path / "copy", {key: wrong})
        shard.copy(tmp_path / "copy", {key: torch.zeros(32)})

    def test_a_replacement_that_is_not_contiguous(self, full, tmp_path):
        key = "vision_model.encoder.layers.1.self_attn.out_proj.weight"
        new = torch.arange(1024.0).reshape(32, 32).T
        Shard.read(full / SINGLE).copy(tmp_path / "copy", {key: new})
        assert read_raw(tmp_path / "copy")[0][key].content == new.contiguous().numpy().tobytes()


HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\0",
            b"\0" * 8,
            struct.pack("<Q", 2**64 - 1) + HEADER,
            struct.pack("<Q", 2**40) + HEADER,
            struct.pack("<Q", 200 * 2**20) + HEADER,
            struct.pack("<Q", len(HEADER) - 1) + HEADER + b"\0" * 4,
            struct.pack(">Q", len(HEADER)) + HEADER + b"\0" * 4,
            struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 3,
            struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 5,
            struct.pack("<Q", 4) + b"null",
            struct.pack("<Q", 2) + b"[]",
            struct.pack("<Q", 6) + b'{"a":1',
            struct.pack("<Q", 100_000) + b"[" * 100_000,
            struct.pack("<Q", 8) + b'{"\xff\xfe":1}',
            b"\x80\x04\x95not a pickle",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            b"<!doctype html><title>429 Too Many Requests</title>",
        ],
    )
    def test_a_file_that_is_not_whole_is_refused(self, tmp_path, content):
        (tmp_path / SINGLE).write_bytes(content)
        with pytest.raises(InputError, match="not a whole safetensors file"):
            Checkpoint.read(tmp_path)

    def test_the_whole_file_is_not_refused(self, tmp_path):
        (tmp_path / SINGLE).write_bytes(struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 4)
        assert len(Checkpoint.read(tmp_path).where) == 1

    def test_every_truncation_of_a_real_file_is_refused(self, full, tmp_path):
        content = (full / SINGLE).read_bytes()
        for length in (7, 8, 9, 500, len(content) // 2, len(content) - 4, len(content) - 1):
            (tmp_path / SINGLE).write_bytes(content[:length])
            with pytest.raises(InputError, match="not a whole"):
                Checkpoint.read(tmp_path)

    @pytest.mark.parametrize("make", ["missing", "nothing", "file", "folder", "link"])
    def test_no_weights(self, tmp_path, make):
        folder = tmp_path / "x"
        if make == "file":
            folder.write_text("")
        elif make != "missing":
            folder.mkdir()
            (folder / "pytorch_model.bin").write_bytes(b"")
        if make == "folder":
            (folder / SINGLE).mkdir()
        if make == "link":
            (folder / SINGLE).symlink_to(tmp_path / "gone")
        wanted = InputError if make in ("missing", "file") else UnsupportedModel
        with pytest.raises(wanted):
            Checkpoint.read(folder)


class TestIndex:
    @pytest.fixture
    def copied(self, sharded, tmp_path):
        for path in sharded.iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        return tmp_path

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"null",
            b"[]",
            b"{}",
            b'"weight_map"',
            b"not json",
            b'{"weight_map": null}',
            b'{"weight_map": []}',
            b'{"weight_map": "a"}',
            b'{"weight_map": {"a": null}}',
            b'{"weight_map": {"a": 1, "b": "c"}}',
            b'{"weight_map": {"a": ["b"]}}',
            b'{"weight_map": {}}',
            b"\xff\xfe{}",
            b"[" * 200_000,
            b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}',
        ],
    )
    def test_not_an_index(self, copied, content):
        (copied / INDEX).write_bytes(content)
        with pytest.raises(InputError, match="index"):
            Checkpoint.read(copied)

    @pytest.mark.parametrize(
        "name",
        [
            "../stolen.safetensors",
            "/etc/passwd",
            "a/../../b",
            "..",
            ".",
            "",
            "sub/model.safetensors",
            "gone.safetensors",
        ],
    )
    def test_a_shard_elsewhere(self, copied, sharded, name):
        outside = copied.parent / "stolen.safetensors"
        outside.write_bytes(weight_files(sharded)[0].read_bytes())
        index = json.loads((copied / INDEX).read_text())
        first = sorted(index["weight_map"].values())[0]
        index["weight_map"] = {key: name if value == first else value for key, value in index["weight_map"].items()}
        (copied / INDEX).write_text(json.dumps(index))
        with pytest.raises(InputError):
            Checkpoint.read(copied)

    def test_an_index_that_lies(self, copied):
        true = json.loads((copied / INDEX).read_text())
        assert Checkpoint.read(copied).index == true
        keys = sorted(true["weight_map"])
        other = next(name for name in true["weight_map"].values() if name != true["weight_map"][keys[0]])
        lies = [
            {**true["weight_map"], keys[0]: other},
            {**true["weight_map"], "vision_model.invented.weight": other},
        ]
        for lie in lies:
            (copied / INDEX).write_text(json.dumps({**true, "weight_map": lie}))
            with pytest.raises(InputError, match=r"which lacks it|holds a tensor of this name"):
                Checkpoint.read(copied)

    def test_an_index_without_metadata(self, copied):
        """transformers fails on it with a KeyError."""
        index = json.loads((copied / INDEX).read_text())
        (copied / INDEX).write_text(json.dumps({"weight_map": index["weight_map"]}))
        with pytest.raises(InputError, match="is not a sharded index"):
            Checkpoint.read(copied)

    def test_a_missing_or_damaged_shard(self, copied):
        shard = weight_files(copied)[1]
        content = shard.read_bytes()
        shard.write_bytes(content[:-1])
        with pytest.raises(InputError, match=shard.name):
            Checkpoint.read(copied)
        shard.unlink()
        with pytest.raises(InputError, match=shard.name):
            Checkpoint.read(copied)
        shard.write_bytes(content)
        Checkpoint.read(copied)

    def test_the_index_is_rewritten_only_for_bare_names(self, sharded, bare):
        assert Checkpoint.read(sharded).canonical_index() is None
        before = json.loads((bare / "sharded" / INDEX).read_text())
        after = json.loads(Checkpoint.read(bare / "sharded").canonical_index())
        assert after["weight_map"] == {f"vision_model.{key}": name for key, name in before.pop("weight_map").items()}
        after.pop("weight_map")
        assert after == before

    def test_reading_changes_nothing(self, sharded):
        before = tree(sharded)
        checkpoint = Checkpoint.read(sharded)
        for key in checkpoint.where:
            checkpoint.tensor(key)
        assert tree(sharded) == before


def test_copies_of_one_model_share_their_names():
    """Making them builds a model of the whole size, without memory: once for a base, its copies and its edits."""
    config = tiny.clip_model().config
    made = disk_names("CLIPModel", config)
    config._name_or_path = "another folder"
    assert disk_names("CLIPModel", config) is made
    config.vision_config.num_hidden_layers += 1
    assert disk_names("CLIPModel", config) is not made  # the control


def test_the_settings_of_one_file_are_parsed_once(checkpoints, monkeypatch):
    read = []
    monkeypatch.setattr(registry, "config_class", lambda kind: read.append(kind) or config_class(kind))
    registry._parsed.cache_clear()
    raw = json.loads((checkpoints.base() / "config.json").read_text())
    assert registry.config_settings(raw, "vision")["num_hidden_layers"] == 3
    assert registry.config_settings(raw, "text") == registry.config_settings(raw, "text")
    assert len(read) == 1
    raw["vision_config"]["num_hidden_layers"] = 2
    assert registry.config_settings(raw, "vision")["num_hidden_layers"] == 2  # the control
    assert len(read) == 2
