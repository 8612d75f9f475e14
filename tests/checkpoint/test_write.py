"""An edited checkpoint equals its source except for the edited tensors; a failure leaves nothing; revert undoes it."""

from __future__ import annotations

import ctypes
import errno
import itertools
import json
import os
import re
import shutil
import struct
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import transformers

from sith_hf.checkpoint.write import locate, revert, save_edited
from sith_hf.core.fingerprint import BaseRef
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import ArtifactError, BaseMismatch, InputError, OutputError, SithError
from sith_hf.towers.weights import Shard
from tests.support import tiny
from tests.support.raw import (
    INDEX,
    SINGLE,
    by_hand,
    out_proj,
    random_spec,
    raw_tensors,
    read_raw,
    torch_tensors,
    tree,
    weight_files,
    write_raw,
)

KINDS = ("CLIPModel", "CLIPVisionModel", "CLIPVisionModelWithProjection")
OWN = ("model", "sith/", "README.md")
# safetensors writes metadata in an order that changes from run to run: specs are compared as specs.
SPEC = "sith/edit_spec.safetensors"


@pytest.fixture(scope="session")
def plain(checkpoints):
    """A CLIPModel in float32, in one file."""
    return checkpoints.base()


@pytest.fixture(scope="session")
def edited(checkpoints):
    """An edit of it in layers 0 and 2, saved."""
    return checkpoints.edited().edited


@pytest.fixture(scope="session")
def spec(checkpoints):
    """That edit."""
    return checkpoints.edited().spec


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files and the same edit spec, or no edit spec both."""
    if tree(one, without=[SPEC]) != tree(other, without=[SPEC]) or (one / SPEC).exists() != (other / SPEC).exists():
        return False
    return not (one / SPEC).exists() or EditSpec.from_pretrained(one) == EditSpec.from_pretrained(other)


def differing(one: Path, other: Path) -> set[str]:
    """The tensors that are not the same bytes, dtype and shape in both folders."""
    here, there = raw_tensors(one), raw_tensors(other)
    assert set(here) == set(there)
    return {key for key in here if here[key] != there[key]}


class TestWhatIsWritten:
    @pytest.mark.parametrize("sharded", [False, True], ids=["single", "sharded"])
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    @pytest.mark.parametrize("kind", KINDS)
    def test_only_the_edited_tensors_differ(self, checkpoints, tmp_path, kind, dtype, sharded):
        base, target = checkpoints.base(kind, dtype=dtype, shards=sharded), tmp_path / "edited"
        spec = random_spec(base)
        before = tree(base)
        saved = save_edited(base, spec, target)

        touched = {key for layer in (0, 2) for key in out_proj(layer)}
        assert differing(base, target) == touched == set(saved.changed)
        assert saved.left_out == ()
        assert [path.name for path in weight_files(target)] == [path.name for path in weight_files(base)]
        assert tree(target, without=OWN) == tree(base, without=OWN)
        assert tree(base) == before
        # Every file of weights that holds no edited tensor is the same file, but for a prefix.
        for path in weight_files(base):
            (here, metadata), (there, kept) = read_raw(path), read_raw(target / path.name)
            assert metadata == kept
            if kind != "CLIPVisionModel" and not touched & set(here):
                assert path.read_bytes() == (target / path.name).read_bytes()
            prefix = "vision_model." if kind == "CLIPVisionModel" else ""
            assert list(there) == [prefix + key for key in here]

        # What differs is the edit: within one rounding of the formula's float64 value, and heads left alone are exact.
        new, old = torch_tensors(target), torch_tensors(base)
        for key, wanted in by_hand(base, spec).items():
            assert new[key].dtype == getattr(torch, dtype)
            error = (new[key].double() - wanted).abs()
            assert (error <= 0.51 * torch.finfo(new[key].dtype).eps * wanted.abs() + 1e-7).all()
            assert (new[key].double() - old[key].double()).abs().max() == pytest.approx(saved.changed[key])
            assert (old[key].double() - wanted).abs().max() > 0.1  # the control: the base is far from it
        untouched = [slice(0, 8), slice(16, 32)]
        for columns in untouched:
            assert torch.equal(new[out_proj(0)[0]][:, columns], old[out_proj(0)[0]][:, columns])
        assert not torch.equal(new[out_proj(0)[0]][:, 8:16], old[out_proj(0)[0]][:, 8:16])

        model, report = getattr(transformers, kind).from_pretrained(target, dtype="auto", output_loading_info=True)
        assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        tower = getattr(model, "vision_model", model)
        for layer in (0, 2):
            weight, bias = (new[key] for key in out_proj(layer))
            assert torch.equal(tower.encoder.layers[layer].self_attn.out_proj.weight, weight)
            assert torch.equal(tower.encoder.layers[layer].self_attn.out_proj.bias, bias)

    @pytest.mark.parametrize("kind", ["CLIPVisionModel", "CLIPVisionModelWithProjection"])
    def test_a_clip_model_loads_as_a_tower(self, edited, plain, kind):
        model, report = getattr(transformers, kind).from_pretrained(edited, output_loading_info=True)
        assert not report["missing_keys"]
        base = getattr(transformers, kind).from_pretrained(plain)
        pixels = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            assert not torch.allclose(model(pixels)[0], base(pixels)[0], atol=1e-2)

    def test_the_prefix_is_enforced_on_disk(self, checkpoints, tmp_path):
        for sharded in (False, True):
            base, target = checkpoints.base("CLIPVisionModel", shards=sharded), tmp_path / f"edited-{sharded}"
            assert not any(key.startswith("vision_model.") for key in read_raw(weight_files(base)[0])[0])
            save_edited(base, random_spec(base), target)
            assert all(key.startswith("vision_model.") for f in weight_files(target) for key in read_raw(f)[0])
        weight_map = json.loads((target / INDEX).read_text())["weight_map"]
        assert {name: set() for name in weight_map.values()}.keys() == {f.name for f in weight_files(target)}
        assert all(key in read_raw(target / name)[0] for key, name in weight_map.items())

    def test_the_spec_is_saved_beside_with_fingerprints(self, edited, spec):
        saved = EditSpec.from_pretrained(edited)
        assert saved == spec
        assert spec.edited_sha256 is None
        assert set(saved.edited_sha256) == {key for layer in (0, 2) for key in out_proj(layer)}

    def test_twice_gives_the_same_bytes(self, plain, spec, edited, tmp_path):
        save_edited(plain, spec, tmp_path / "again")
        assert same(tmp_path / "again", edited)
        save_edited(plain, spec * 0.5, tmp_path / "half")
        assert not same(tmp_path / "half", edited)

    def test_labels_cannot_break_the_card(self, plain, tmp_path):
        hostile = ["| x | \n\n# Owned", "<script>alert(1)</script>", "[a](javascript:x)", "\x1b[31m\u202e{{ 7*7 }}"]
        save_edited(plain, random_spec(plain, labels=hostile), tmp_path / "edited")
        card = re.sub("[0-9a-f]{64}", "", (tmp_path / "edited" / "README.md").read_text(encoding="utf-8"))
        assert "<script>" not in card
        assert "\x1b" not in card
        assert "\u202e" not in card
        assert "49" not in card
        assert not any(line.startswith("# Owned") for line in card.splitlines())
        assert sum(line.startswith("| ") and line.count(" |") >= 5 for line in card.splitlines()) == 5


LEFT_OUT = {
    ".gitattributes",
    "1_Pooling/config.json",
    "deep/er/файл 😀.txt",
    "empty.txt",
    "onnx/model.onnx",
    "pytorch_model.bin",
    "pytorch_model-00001-of-00002.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
    "tf_model.h5",
    "flax_model.msgpack",
    "model.fp16.safetensors",
    "bilder/anderes.png",
}


class TestFiles:
    @pytest.fixture
    def cluttered(self, plain, tmp_path):
        """A snapshot as huggingface_hub keeps it: links to blobs, nested folders, other formats beside."""
        blobs, folder = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
        blobs.mkdir()
        contents = {path.name: path.read_bytes() for path in plain.iterdir()}
        contents |= {
            "README.md": "# Von Hand geschrieben: 日本\n![](bilder/ein%20Bild.png)\n".encode(),
            "bilder/ein Bild.png": b"picture",
            "bilder/anderes.png": b"picture",
            "LICENSE.txt": b"mine",
            "additional_chat_templates/short.jinja": b"{{ messages }}",
            "vocab.json": b"{}",
            "deep/er/файл 😀.txt": b"nested",
            "empty.txt": b"",
            ".gitattributes": b"*.safetensors filter=lfs\n",
            "1_Pooling/config.json": b"{}",
            "onnx/model.onnx": b"other weights",
            "pytorch_model.bin": b"other weights",
            "pytorch_model-00001-of-00002.bin": b"other weights",
            "pytorch_model.bin.index.json": b"{}",
            "open_clip_pytorch_model.bin": b"other weights",
            "tf_model.h5": b"other weights",
            "flax_model.msgpack": b"other weights",
            "model.fp16.safetensors": b"other weights",
        }
        for number, (name, content) in enumerate(contents.items()):
            (blobs / str(number)).write_bytes(content)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(os.path.relpath(blobs / str(number), (folder / name).parent))
        return folder

    def test_every_file_is_carried_or_reported(self, cluttered, spec, tmp_path):
        before = tree(cluttered)
        target = tmp_path / "out" / "edited"
        saved = save_edited(cluttered, spec, target)
        assert set(saved.left_out) == LEFT_OUT
        assert saved.reasons.keys() == LEFT_OUT
        carried = {name: value for name, value in before.items() if name not in {*LEFT_OUT, SINGLE, "README.md"}}
        assert {"bilder/ein Bild.png", "LICENSE.txt", "vocab.json", "config.json"} <= set(carried)
        assert tree(target, without=OWN) == carried
        assert tree(target)["sith/base/README.md"] == before["README.md"]
        assert not [path for path in target.rglob("*") if path.is_symlink()]
        assert tree(cluttered) == before

        back = revert(target, tmp_path / "out" / "back")
        assert back.left_out == ()
        assert tree(back.folder, without=["model"]) == {**carried, "README.md": before["README.md"]}

    def test_the_variant_index_is_left_out_with_its_shards(self, cluttered, spec, tmp_path):
        (cluttered / "model.fp16.safetensors.index.json").write_text("{}")
        saved = save_edited(cluttered, spec, tmp_path / "edited")
        assert set(saved.left_out) == {*LEFT_OUT, "model.fp16.safetensors.index.json"}

    def test_git_and_download_folders_stay_behind(self, plain, spec, tmp_path):
        source = shutil.copytree(plain, tmp_path / "source")
        for name in (".git/config", ".cache/huggingface/x.lock"):
            (source / name).parent.mkdir(parents=True)
            (source / name).write_text("")
        save_edited(source, spec, tmp_path / "edited")
        assert not {".git", ".cache"} & {path.name for path in (tmp_path / "edited").iterdir()}

    def test_files_get_ordinary_permissions(self, edited, tmp_path):
        (tmp_path / "file").write_text("")
        (tmp_path / "folder").mkdir()
        for path in edited.rglob("*"):
            wanted = tmp_path / ("folder" if path.is_dir() else "file")
            assert path.stat().st_mode & 0o777 == wanted.stat().st_mode & 0o777
        assert edited.stat().st_mode & 0o777 == (tmp_path / "folder").stat().st_mode & 0o777


class TestTarget:
    def test_new_empty_and_nested_folders(self, plain, spec, edited, tmp_path):
        (tmp_path / "empty").mkdir()
        long = tmp_path / ("x" * 250)
        for target in (tmp_path / "empty", tmp_path / "new", tmp_path / "a" / "b" / "c", long):
            save_edited(plain, spec, target)
            assert same(target, edited)

    def test_relative_targets(self, plain, spec, edited, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        for target in ("x", "./y/", "../z", "w/../v"):
            save_edited(plain, spec, target)
            assert same(Path(target).resolve(), edited)
        assert {path.name for path in tmp_path.iterdir()} == {"here", "z"}

    def test_the_current_folder(self, plain, spec, edited, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        save_edited(plain, spec, ".")
        assert same(tmp_path / "here", edited)
        assert [path.name for path in tmp_path.iterdir()] == ["here"]

    def test_a_folder_in_use(self, plain, spec, edited, tmp_path):
        target = tmp_path / "target"
        target.mkdir()
        (target / "mine.txt").write_text("mine")
        for run in (lambda: save_edited(plain, spec, target), lambda: revert(edited, target)):
            with pytest.raises(InputError, match="not empty"):
                run()
            assert {path.name for path in target.iterdir()} == {"mine.txt"}
        for run in (save_edited, revert):
            with pytest.raises(InputError, match="holds no checkpoint"):
                run(*((plain, spec) if run is save_edited else (edited,)), target, overwrite=True)
        assert {path.name for path in target.iterdir()} == {"mine.txt"}
        (target / "config.json").write_text("{}")
        save_edited(plain, spec, target, overwrite=True)
        assert same(target, edited)
        revert(edited, target, overwrite=True)
        assert "mine.txt" not in tree(target)
        assert not (target / "sith").exists()
        assert [path.name for path in tmp_path.iterdir()] == ["target"]

    def test_repeating_leaves_the_result_alone(self, plain, spec, edited, tmp_path):
        """So a run that was killed after its last step can be repeated. Other content is still refused."""
        target = tmp_path / "target"
        for run in (lambda edit: save_edited(plain, edit, target), lambda edit: revert(edited, target)):
            run(spec)
            before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in target.rglob("*")}
            assert run(spec).folder == target
            assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in target.rglob("*")} == before
            (target / "config.json").write_text("{}")
            with pytest.raises(InputError, match=r"config\.json.*--overwrite"):
                run(spec)
            shutil.rmtree(target)
        save_edited(plain, spec, target)
        with pytest.raises(InputError, match="not empty"):
            save_edited(plain, 0.5 * spec, target)

    def test_overlapping_folders(self, plain, spec, edited, tmp_path):
        source = shutil.copytree(plain, tmp_path / "outer" / "source")
        (tmp_path / "link").symlink_to(source)
        before = tree(tmp_path)
        for target in (source, source / "in" / "side", source.parent, tmp_path, tmp_path / "link", tmp_path / "link/x"):
            for overwrite in (False, True):
                with pytest.raises(InputError):
                    save_edited(source, spec, target, overwrite=overwrite)
                with pytest.raises(InputError):
                    save_edited(tmp_path / "link", spec, target, overwrite=overwrite)
                assert tree(tmp_path) == before
        # A name that only begins alike does not overlap.
        save_edited(source, spec, source.parent / "source2")

    @pytest.mark.parametrize("make", ["file", "link to folder", "dangling link", "link to file"])
    def test_not_a_folder(self, plain, spec, tmp_path, make):
        target, other = tmp_path / "target", tmp_path / "other"
        if make == "file":
            target.write_text("mine")
        else:
            if make == "link to folder":
                other.mkdir()
            elif make == "link to file":
                other.write_text("mine")
            target.symlink_to(other)
        for overwrite in (False, True):
            with pytest.raises(InputError, match="not a folder"):
                save_edited(plain, spec, target, overwrite=overwrite)
        assert target.is_symlink() == (make != "file")
        assert not (other.is_dir() and any(other.iterdir()))

    @pytest.mark.parametrize("name", ["x" * 300, "file/below"])
    def test_names_that_cannot_be(self, plain, spec, tmp_path, name):
        (tmp_path / "file").write_text("")
        with pytest.raises(SithError):
            save_edited(plain, spec, f"{tmp_path}/{name}")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]


class TestRefusals:
    def refused(self, error, match, source, spec, tmp_path):
        with pytest.raises(error, match=match):
            save_edited(source, spec, tmp_path / "out" / "edited")
        assert not (tmp_path / "out").exists()

    def test_another_base(self, plain, spec, tmp_path):
        source = shutil.copytree(plain, tmp_path / "source")
        tensors, metadata = read_raw(source / SINGLE)
        key = out_proj(2)[0]
        values = bytearray(tensors[key].content)
        (last,) = struct.unpack("<i", values[-4:])
        values[-4:] = struct.pack("<i", last + 1)  # one ulp
        write_raw(source / SINGLE, {**tensors, key: tensors[key]._replace(content=bytes(values))}, metadata)
        self.refused(BaseMismatch, "layers.2.self_attn.out_proj.weight", source, spec, tmp_path)
        write_raw(source / SINGLE, tensors, metadata)
        save_edited(source, spec, tmp_path / "out" / "edited")

    def test_a_tower_without_the_layer(self, plain, tmp_path):
        tiny.vision_model(num_hidden_layers=1).save_pretrained(tmp_path / "short")
        spec = random_spec(plain, [(2, 0, 0, 0.0)])
        self.refused(BaseMismatch, r"layers\.2\..* is not there", tmp_path / "short", spec, tmp_path)

    def test_the_same_weights_in_another_dtype_are_the_same_base(self, checkpoints, tmp_path):
        half = checkpoints.base(dtype="float16")
        wide = transformers.CLIPModel.from_pretrained(half, dtype=torch.float32)
        wide.save_pretrained(tmp_path / "wide")
        save_edited(tmp_path / "wide", random_spec(half), tmp_path / "edited")
        assert raw_tensors(tmp_path / "edited")[out_proj(0)[0]].dtype == "F32"

    def test_an_edit_that_changes_nothing(self, plain, spec, tmp_path, checkpoints):
        self.refused(InputError, "changes nothing", plain, spec * 0, tmp_path)
        self.refused(InputError, "changes nothing", plain, spec.compose(spec.inverse()), tmp_path)
        self.refused(InputError, "changes nothing", plain, random_spec(plain, [(0, 0, 0, 1.0)]), tmp_path)
        half = checkpoints.base(dtype="bfloat16")
        self.refused(InputError, "rounding", half, random_spec(half) * 1e-9, tmp_path)
        save_edited(plain, random_spec(plain) * 1e-3, tmp_path / "control")

    def test_a_revert_is_not_an_edit(self, plain, edited, spec, tmp_path):
        self.refused(InputError, "revert", plain, spec.inverse(), tmp_path)
        self.refused(InputError, "revert", edited, spec.inverse(), tmp_path)

    def test_overflow(self, checkpoints, tmp_path):
        half = checkpoints.base(dtype="float16")
        self.refused(InputError, "overflow", half, random_spec(half, [(0, 0, 0, 1e6)]), tmp_path)
        save_edited(half, random_spec(half, [(0, 0, 0, 1e3)]), tmp_path / "control")
        wide = checkpoints.base()
        self.refused(InputError, "overflow", wide, random_spec(wide, [(0, 0, 0, 1e300)]), tmp_path)

    def test_a_source_that_is_not_there(self, spec, tmp_path):
        for name in (tmp_path / "none", "no/such/folder", "", "x" * 300, "a\0b", "-", "..//"):
            with pytest.raises(InputError):
                save_edited(name, spec, tmp_path / "out" / "edited")
        assert not (tmp_path / "out").exists()

    def test_locate(self, plain):
        assert locate(plain) == plain
        assert locate(str(plain)) == plain


STAGES = {
    "copyfile": (shutil, "copyfile"),
    "kernel copy": (os, "copy_file_range"),
    "rename": (os, "rename"),
    "replace": (os, "replace"),
    "mkdtemp": (tempfile, "mkdtemp"),
    "mkdir": (Path, "mkdir"),
    "shard": (Shard, "copy"),
    "spec": (EditSpec, "save_pretrained"),
}
FAULTS = {
    "full disk": (lambda: OSError(errno.ENOSPC, "No space left on device"), OutputError),
    "Ctrl-C": (KeyboardInterrupt, KeyboardInterrupt),
    "bug": (lambda: RuntimeError("bug"), RuntimeError),
}


class Breaks:
    """A function that fails at its n-th call, before or after it did its work; and from then on if ``forever``."""

    def __init__(self, real, make, at, after, forever=False):
        self.real, self.make, self.at, self.after, self.forever, self.calls = real, make, at, after, forever, 0

    def __get__(self, instance, owner=None):
        return self if instance is None else lambda *args, **kwargs: self(instance, *args, **kwargs)

    def __call__(self, *args, **kwargs):
        self.calls += 1
        due = self.calls == self.at or (self.forever and self.calls > self.at)
        if due and not self.after:
            raise self.make()
        result = self.real(*args, **kwargs)
        if due:
            raise self.make()
        return result


def no_exchange(*args, **kwargs):
    """No C library: a folder is replaced by two renames."""
    raise OSError(errno.ENOENT, "no C library")


class TestFailures:
    """Wherever it fails, the target is absent or unchanged, and nothing is left beside it."""

    @pytest.fixture(scope="class")
    def reverted(self, edited, tmp_path_factory):
        folder = tmp_path_factory.mktemp("reverted") / "model"
        revert(edited, folder)
        return folder

    def scene(self, tmp_path, state):
        work = tmp_path / "work"
        work.mkdir()
        target = work / "target"
        if state == "empty":
            target.mkdir()
        if state == "old":
            target.mkdir()
            (target / "mine.txt").write_text("mine")
            (target / "config.json").write_text("{}")
        return work, target

    @pytest.fixture(scope="class")
    def runs(self, plain, spec, edited, reverted):
        """What to run with a target, and what it then is."""
        return {
            "save": (lambda target: save_edited(plain, spec, target, overwrite=True), edited),
            "revert": (lambda target: revert(edited, target, overwrite=True), reverted),
        }

    @pytest.mark.parametrize("fault", ["full disk", "Ctrl-C"])
    @pytest.mark.parametrize(("state", "what"), [("absent", "save"), ("old", "save"), ("old", "revert")])
    def test_at_every_write(self, runs, tmp_path, monkeypatch, state, what, fault):
        """The first, second, ... write fails until none is left to fail."""
        make, wanted = FAULTS[fault]
        run, result = runs[what]
        late = 0
        for at in itertools.count(1):
            work, target = self.scene(tmp_path, state)
            before = tree(work)
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", Breaks(os.fsync, make, at, after=at % 2 == 0))
                try:
                    run(target)
                except wanted:
                    if tree(work) != before:  # it failed after the new folder had its name
                        assert same(target, result)
                        late += 1
                    assert {path.name for path in work.iterdir()} <= {"target"}
                else:
                    break
            shutil.rmtree(work)
        assert at - late > 5
        assert late <= 1
        assert same(target, result)

    @pytest.mark.parametrize("stage", STAGES)
    def test_at_every_stage(self, runs, tmp_path, monkeypatch, stage):
        owner, name = STAGES[stage]
        cases = [("absent", 1, "save", "bug", False), ("old", 2, "save", "full disk", False)]
        cases += [("old", 1, "revert", "Ctrl-C", False), ("empty", 1, "save", "Ctrl-C", False)]
        if stage != "mkdtemp":  # nobody knows the name of a folder whose making was interrupted
            cases += [("absent", 1, "save", "Ctrl-C", True), ("old", 1, "save", "Ctrl-C", True)]
            cases += [("old", 2, "save", "bug", True)]
        for state, at, what, fault, after in cases:
            make, wanted = FAULTS[fault]
            run, result = runs[what]
            work, target = self.scene(tmp_path, state)
            before = tree(work)
            breaks = Breaks(getattr(owner, name), make, at, after)
            raised = None
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, breaks)
                if stage == "rename":
                    patch.setattr(ctypes, "CDLL", no_exchange)
                try:
                    run(target)
                except wanted as error:
                    raised = error
            assert (breaks.calls >= at) == (raised is not None)
            # A fault after the last rename comes too late to undo anything: the new folder is whole.
            done = raised is None or (stage == "rename" and after and at == (1 if state == "absent" else 2))
            if done:
                assert same(target, result)
            else:
                assert tree(work) == before
            assert [path.name for path in work.iterdir()] == ([] if state == "absent" and not done else ["target"])
            shutil.rmtree(work)

    def test_the_sources_are_as_they_were(self, plain, spec, edited):
        # After the table above, in which everything failed.
        assert differing(plain, edited) == {key for layer in (0, 2) for key in out_proj(layer)}
        assert random_spec(plain) == spec == EditSpec.from_pretrained(edited)

    @pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "replace"])
    def test_the_stages_are_passed_through(self, plain, spec, tmp_path, monkeypatch, stage):
        # The control: each of them is called, so the table above does break something.
        owner, name = STAGES[stage]
        breaks = Breaks(getattr(owner, name), RuntimeError, 10**9, False)
        monkeypatch.setattr(owner, name, breaks)
        save_edited(plain, spec, tmp_path / "target")
        assert breaks.calls > 0

    def test_what_cannot_be_put_back_is_not_thrown_away(self, plain, spec, tmp_path, monkeypatch):
        work, target = self.scene(tmp_path, "old")
        breaks = Breaks(os.rename, FAULTS["full disk"][0], 2, False, forever=True)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", breaks)
            patch.setattr(ctypes, "CDLL", no_exchange)
            with pytest.raises(OutputError) as caught:
                save_edited(plain, spec, target, overwrite=True)
        (kept,) = work.rglob("mine.txt")
        assert kept.read_text() == "mine"
        assert str(kept.parent) in str(caught.value)

    def test_a_disk_that_is_full(self, plain, spec, tmp_path, monkeypatch):
        def full(self, target, replaced):
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Shard, "copy", full)
        with pytest.raises(OutputError, match="No space left on device") as caught:
            save_edited(plain, spec, tmp_path / "target")
        assert "\n" not in str(caught.value)
        assert not any(tmp_path.iterdir())


class TestRevert:
    @pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
    @pytest.mark.parametrize("kind", ["CLIPModel", "CLIPVisionModel"])
    def test_the_base_comes_back(self, checkpoints, tmp_path, kind, dtype):
        base = checkpoints.base(kind, dtype=dtype, shards=dtype == "float16")
        save_edited(base, random_spec(base), tmp_path / "edited")
        saved = revert(tmp_path / "edited", tmp_path / "back")
        touched = {key for layer in (0, 2) for key in out_proj(layer)}
        assert set(saved.changed) == touched
        assert differing(base, tmp_path / "back") <= touched
        assert tree(tmp_path / "back", without=OWN) == tree(base, without=OWN)
        assert not (tmp_path / "back" / "sith").exists()

        # Bound: base + delta is rounded once and edited - delta once more, each by half a unit of its own result.
        # Subnormal results have half of the smallest step; float64 adds no more than 2**-40 to either.
        info = torch.finfo(getattr(torch, dtype))
        old, mid, new = (torch_tensors(tmp_path / x) for x in (base, "edited", "back"))
        for key in touched:
            size = mid[key].double().abs() + new[key].double().abs()
            bound = (info.eps / 2) * size * (1 + 2**-40) + info.tiny * info.eps
            assert ((new[key].double() - old[key].double()).abs() <= bound).all()
            assert not ((mid[key].double() - old[key].double()).abs() <= bound).all()

    def test_columns_of_other_heads_are_exact(self, edited, plain, tmp_path):
        revert(edited, tmp_path / "back")
        old, new = torch_tensors(plain), torch_tensors(tmp_path / "back")
        key = out_proj(0)[0]
        assert torch.equal(old[key][:, :8], new[key][:, :8])
        assert torch.equal(old[key][:, 16:], new[key][:, 16:])

    def test_an_edit_of_an_edit(self, plain, edited, tmp_path):
        second = random_spec(edited, [(1, 2, 3, 0.0), (2, 0, 1, 2.0)], seed=7)
        save_edited(edited, second, tmp_path / "twice")
        # The card of the first edit is beside its record.
        before = {**tree(edited / "sith"), "README.md": tree(edited)["README.md"]}
        assert tree(tmp_path / "twice" / "sith" / "base") == before
        third = random_spec(tmp_path / "twice", [(2, 0, 1, 0.25)], seed=8)
        save_edited(tmp_path / "twice", third, tmp_path / "thrice")
        assert EditSpec.from_pretrained(tmp_path / "thrice" / "sith" / "base" / "base") == EditSpec.from_pretrained(
            edited
        )

        folders = [tmp_path / name for name in ("thrice", "back2", "back1", "back0")]
        for source, target in pairwise(folders):
            revert(source, target)
        assert EditSpec.from_pretrained(tmp_path / "back2") == second
        assert EditSpec.from_pretrained(tmp_path / "back1") == EditSpec.from_pretrained(edited)
        assert not (tmp_path / "back0" / "sith").exists()
        back, base = torch_tensors(tmp_path / "back0"), torch_tensors(plain)
        for key, tensor in base.items():
            # Six roundings of entries that are all below 8.
            assert torch.allclose(back[key], tensor, rtol=0, atol=6 * 8 * torch.finfo(torch.float32).eps)
        touched = {key for layer in (0, 1, 2) for key in out_proj(layer)}
        assert differing(plain, tmp_path / "back0") <= touched
        assert not torch.allclose(torch_tensors(edited)[out_proj(2)[0]], base[out_proj(2)[0]], atol=1e-2)
        with pytest.raises(ArtifactError):
            revert(tmp_path / "back0", tmp_path / "back-1")

    def test_changed_weights_are_refused(self, edited, tmp_path):
        source = shutil.copytree(edited, tmp_path / "edited")
        tensors, metadata = read_raw(source / SINGLE)
        key = out_proj(2)[1]
        flipped = bytes([tensors[key].content[0] ^ 1]) + tensors[key].content[1:]
        write_raw(source / SINGLE, {**tensors, key: tensors[key]._replace(content=flipped)}, metadata)
        with pytest.raises(BaseMismatch, match=r"layers\.2\.self_attn\.out_proj\.bias"):
            revert(source, tmp_path / "back")
        assert not (tmp_path / "back").exists()
        write_raw(source / SINGLE, tensors, metadata)
        revert(source, tmp_path / "back")

    def test_no_spec(self, plain, edited, tmp_path):
        with pytest.raises(ArtifactError, match="edit_spec"):
            revert(plain, tmp_path / "back")
        source = shutil.copytree(edited, tmp_path / "edited")
        path = source / "sith" / "edit_spec.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[:-3])
        with pytest.raises(ArtifactError, match="not a whole"):
            revert(source, tmp_path / "back")
        replace(EditSpec.from_pretrained(edited), edited_sha256=None).save_pretrained(source / "sith")
        with pytest.raises(InputError, match="only output of save-edited has them"):
            revert(source, tmp_path / "back")
        assert not (tmp_path / "back").exists()

    def test_a_spec_that_fingerprints_too_little(self, plain, edited, tmp_path):
        # A record that does not cover what the spec touches proves nothing about it.
        source = shutil.copytree(edited, tmp_path / "edited")
        spec = EditSpec.from_pretrained(edited)
        few = dict(list(spec.edited_sha256.items())[:1])
        replace(spec, edited_sha256=few).save_pretrained(source / "sith")
        with pytest.raises(InputError):
            revert(source, tmp_path / "back")
        with pytest.raises(InputError):
            save_edited(plain, replace(spec, base=BaseRef("x", None, {})), tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["edited"]
