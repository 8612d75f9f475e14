"""Checkpoints larger than memory: little is held, nothing is shared with the source, faults leave nothing behind."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

import pytest
import torch

from sith_hf.checkpoint.verify import verify
from sith_hf.checkpoint.write import revert, save_edited
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError, OutputError
from sith_hf.files import new_folder
from sith_hf.files.unchanged import UnchangedFile, stamp_of
from sith_hf.towers.weights import INDEX, SINGLE, Checkpoint, Shard
from tests.support import tiny
from tests.support.raw import Raw, out_proj, random_spec, raw_tensors, read_raw, tree, write_raw

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TERMS = [(layer, head, 0, 0.0) for layer in range(6) for head in (0, 2)]


def wait_until(folder: Path, name: str) -> None:
    """Set the time of a file far back, so that a later change is seen however coarse the clock is."""
    os.utime(folder / name, (1_000_000_000, 1_000_000_000))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A CLIPModel with six layers, in many files."""
    vision = {"num_hidden_layers": 6}
    folder = tiny.save_clip(tmp_path_factory.mktemp("base") / "model", vision=vision, max_shard_size="20KB")
    for path in folder.iterdir():
        wait_until(folder, path.name)
    return folder


@pytest.fixture(scope="module")
def spec(base):
    """An edit of all of them."""
    return random_spec(base, TERMS)


@pytest.fixture(scope="module")
def edited(base, spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edited") / "model"
    save_edited(base, spec, folder)
    return folder


@pytest.fixture
def source(base, tmp_path):
    """A copy of the base to damage."""
    folder = shutil.copytree(base, tmp_path / "source")
    for path in folder.iterdir():
        wait_until(folder, path.name)
    return folder


class Live:
    """How many bytes of tensors that were read or made are alive, now and at most."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def seen(self, tensor: torch.Tensor) -> torch.Tensor:
        size = tensor.nbytes
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(tensor, self.gone, size)
        return tensor

    def gone(self, size: int) -> None:
        self.now -= size


@pytest.fixture
def live(monkeypatch):
    """Counts what is read from shards and what an edit makes of it."""
    found = Live()
    read, apply = Shard.tensor, EditSpec.apply
    monkeypatch.setattr(Shard, "tensor", lambda self, key: found.seen(read(self, key)))
    monkeypatch.setattr(EditSpec, "apply", lambda *args: tuple(found.seen(tensor) for tensor in apply(*args)))
    return found


LAYER = 4 * (32 * 32 + 32)  # bytes of out_proj of one layer


class TestMemory:
    @pytest.mark.parametrize("what", ["save", "verify", "revert"])
    def test_one_layer_at_a_time(self, base, spec, edited, live, tmp_path, what):
        call = {
            "save": lambda: save_edited(base, spec, tmp_path / "out"),
            "verify": lambda: verify(edited, base),
            "revert": lambda: revert(edited, tmp_path / "out"),
        }[what]
        call()
        # One layer before and after the edit, and the tensor that it is compared with.
        assert LAYER < live.most <= 3 * LAYER
        assert live.now == 0

    def test_what_keeps_all_of_them_is_noticed(self, base, spec, live):
        # The control: this is how it was done once.
        checkpoint = Checkpoint.read(base)
        kept = [spec.apply(n, *(checkpoint.tensor(key) for key in out_proj(n))) for n in range(6)]
        assert live.most >= 6 * LAYER
        del kept

    def test_resident_memory_of_a_process(self, tmp_path):
        """On 160 MB, of which 96 MB are edited; the control maps the file and touches all of it."""
        done = subprocess.run(
            [sys.executable, "-c", RESIDENT, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        grown = json.loads(done.stdout)
        # Some 4 MB tensors, in float64 where they are compared.
        assert max(grown["save"], grown["verify"], grown["revert"]) < 80e6, grown
        assert grown["mapped"] > 128e6, grown


RESIDENT = """
import json, sys
from pathlib import Path
import torch
from safetensors import safe_open
from sith_hf.checkpoint.write import revert, save_edited
from sith_hf.edits.spec import EditSpec
from sith_hf.core.fingerprint import BaseRef, tensor_sha256
from sith_hf.towers.weights import Checkpoint
from sith_hf.checkpoint.verify import verify
from transformers import CLIPModel, CLIPTokenizer, PreTrainedTokenizerFast  # libraries are not counted

def peak():
    # Of this program alone: ru_maxrss would begin with the memory of the process that started it.
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

root, size, layers = Path(sys.argv[1]), 1024, 24
shapes = {}
for n in range(layers):
    stem = f"vision_model.encoder.layers.{n}.self_attn.out_proj."
    shapes |= {stem + "weight": [size, size], stem + "bias": [size]}
shapes["text_model.embeddings.token_embedding.weight"] = [16384, size]
header, at = {}, 0
for name, shape in shapes.items():
    stop = at + 4 * shape[0] * (shape[1] if len(shape) > 1 else 1)
    header[name], at = {"dtype": "F32", "shape": shape, "data_offsets": [at, stop]}, stop
head = json.dumps(header).encode()
head += b" " * (-len(head) % 8)
(root / "base").mkdir()
config = {"model_type": "clip", "architectures": ["CLIPModel"], "vision_config": {"num_hidden_layers": layers}}
(root / "base" / "config.json").write_text(json.dumps(config))
with open(root / "base" / "model.safetensors", "wb") as file:
    file.write(len(head).to_bytes(8, "little") + head)
    row = torch.arange(size, dtype=torch.float32).numpy().tobytes()
    for _ in range(at // len(row)):
        file.write(row)
checkpoint = Checkpoint.read(root / "base")
index = torch.arange(layers)
spec = EditSpec.from_terms(
    layer=index, head=torch.zeros_like(index), vector=torch.zeros_like(index),
    gain=torch.zeros(layers, dtype=torch.float64), write=torch.eye(layers, size),
    row=torch.ones(layers, 64), constant=torch.ones(layers), labels=["sea"] * layers,
    base=BaseRef(str(root / "base"), None, {k: tensor_sha256(checkpoint.tensor(k)) for k in shapes if "out_" in k}),
    settings={"fold": True, "centre": True},
)
grown, before = {}, peak()
assert len(save_edited(root / "base", spec, root / "edited").changed) == 2 * layers
grown["save"] = peak() - before
assert verify(root / "edited").edited == 2 * layers
grown["verify"] = peak() - before
revert(root / "edited", root / "back")
grown["revert"] = peak() - before
with safe_open(root / "base" / "model.safetensors", framework="pt") as file:
    kept = [file.get_tensor(name) for name in file.keys()]
    total = sum(float(tensor.sum()) for tensor in kept)
grown["mapped"] = peak() - before
print(json.dumps(grown))
"""


class TestCopies:
    def test_they_share_no_file_with_the_source(self, base, edited, tmp_path):
        for path in edited.rglob("*"):
            assert path.is_dir() or path.stat().st_nlink == 1
        whole = {path.name for path in base.glob("*.safetensors")} & {
            path.name for path in edited.glob("*.safetensors") if path.read_bytes() == (base / path.name).read_bytes()
        }
        assert whole, "no shard without an edit: the test shows nothing"
        before = tree(base)
        copy = shutil.copytree(edited, tmp_path / "copy")
        save_edited(base, random_spec(base, TERMS), tmp_path / "out")
        # As a program does that saves into the same name in place.
        for name in whole:
            with (tmp_path / "out" / name).open("r+b") as file:
                file.write(b"\xff" * 100)
        assert tree(base) == before
        (copy / min(whole)).unlink()
        os.link(base / min(whole), copy / min(whole))
        assert (copy / min(whole)).stat().st_nlink == 2  # the control

    @pytest.mark.parametrize("way", ["missing", "refused", "short", "nothing", "gives up"])
    def test_every_way_of_copying_gives_the_same_bytes(self, base, spec, edited, tmp_path, monkeypatch, way):
        real, calls = os.copy_file_range, []

        def copy_file_range(source, target, count):
            calls.append(count)
            if way == "refused":
                raise OSError(errno.EXDEV, "two file systems")
            if way == "nothing":
                return 0
            if way == "gives up" and len(calls) % 2 == 0:
                raise OSError(errno.EINVAL, "not here")
            return real(source, target, min(count, 1000))

        if way == "missing":
            monkeypatch.delattr(os, "copy_file_range")
        else:
            monkeypatch.setattr(os, "copy_file_range", copy_file_range)
        save_edited(base, spec, tmp_path / "out")
        assert tree(tmp_path / "out") == tree(edited)
        assert bool(calls) == (way != "missing")
        save_edited(base, spec * 0.5, tmp_path / "other")
        assert tree(tmp_path / "other") != tree(edited)

    def test_a_file_of_several_pieces_is_copied_whole(self, tmp_path, monkeypatch):
        monkeypatch.delattr(os, "copy_file_range")
        content = random.Random(0).randbytes(2**20 + 7)  # read in pieces of 2**18 bytes
        (tmp_path / "source").write_bytes(content)
        with FileIO(tmp_path / "source") as file:
            source = UnchangedFile(tmp_path / "source", stamp_of(file))
        with FileIO(tmp_path / "copy", "w") as target:
            source.copy_into(target, start=5)
        assert (tmp_path / "copy").read_bytes() == content[5:]
        with source.opened() as file:
            assert len(list(source.pieces(file, 0, len(content)))) == 5

    def test_a_tower_without_the_prefix_too(self, tmp_path, monkeypatch):
        tiny.vision_model().save_pretrained(tmp_path / "base")
        save_edited(tmp_path / "base", random_spec(tmp_path / "base"), tmp_path / "one")
        monkeypatch.delattr(os, "copy_file_range")
        save_edited(tmp_path / "base", random_spec(tmp_path / "base"), tmp_path / "two")
        assert tree(tmp_path / "one") == tree(tmp_path / "two")


def shard_of(folder: Path, key: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][key]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def write_into(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\xff\xff\xff\xff")


def replace(path: Path) -> None:
    path.with_name("other").write_bytes(path.read_bytes())
    os.replace(path.with_name("other"), path)


CHANGES = {"cut": cut, "written to": write_into, "replaced": replace, "removed": Path.unlink}


class TestChangesMeanwhile:
    """A shard that is another than the one whose header was read is noticed, and nothing is left."""

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_before_it_is_copied(self, source, spec, tmp_path, monkeypatch, change):
        real = Shard.copy
        last = sorted(source.glob("*.safetensors"))[-1]

        def copy(self, target, replaced):
            if last.exists() and not done:
                done.append(change(last))
            real(self, target, replaced)

        done: list[object] = []
        with monkeypatch.context() as patch:
            patch.setattr(Shard, "copy", copy)
            with pytest.raises(InputError, match=last.name):
                save_edited(source, spec, tmp_path / "a" / "out")
        assert done
        assert [path.name for path in tmp_path.iterdir()] == ["source"]

    @pytest.mark.parametrize("change", [cut, write_into], ids=["cut", "written to"])
    @pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "pieces"])
    def test_while_it_is_copied(self, source, spec, tmp_path, monkeypatch, change, kernel):
        first = sorted(source.glob("*.safetensors"))[0]
        real, done = os.copy_file_range, []

        def copy_file_range(source, target, count):
            copied = real(source, target, min(count, 1000)) if kernel else 0
            if not done:
                done.append(change(first))
            return copied

        with monkeypatch.context() as patch:
            patch.setattr(os, "copy_file_range", copy_file_range)
            with pytest.raises(InputError, match=first.name):
                save_edited(source, spec, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["source"]
        assert done

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_while_it_is_verified(self, source, spec, tmp_path, monkeypatch, change):
        # Without a look at what was read, a file that is cut short would be read for ever.
        save_edited(source, spec, tmp_path / "out")
        shard = shard_of(tmp_path / "out", "vision_model.post_layernorm.weight")
        real, done = Shard.chunks, []

        def chunks(self, key):
            if not done:
                done.append(change(shard))
            return real(self, key)

        assert verify(tmp_path / "out", source).ok
        wait_until(shard.parent, shard.name)
        monkeypatch.setattr(Shard, "chunks", chunks)
        with pytest.raises(InputError, match=shard.name):
            verify(tmp_path / "out", source)

    def test_a_file_that_ends_early_is_not_read_for_ever(self, source):
        shard = Checkpoint.read(source).shards[0]
        key = max(shard.entries, key=lambda name: shard.entries[name].stop)
        assert b"".join(shard.chunks(key))
        os.truncate(shard.path, shard.entries[key].stop - 1)
        for read in (lambda: list(shard.chunks(key)), lambda: shard.tensor(key)):
            with pytest.raises(InputError, match=shard.path.name):
                read()

    def test_a_touch_of_another_file_is_none(self, source, spec, tmp_path):
        checkpoint = Checkpoint.read(source)
        os.utime(source / "config.json")
        assert checkpoint.tensor(out_proj(0)[0]).shape == (32, 32)


class TestFullDisk:
    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("run", ["save", "revert"])
    def test_a_limit_of_the_system_half_way(self, base, spec, edited, tmp_path, run, overwrite):
        target = tmp_path / "deep" / "out"
        if overwrite:
            target.mkdir(parents=True)
            (target / "mine.txt").write_text("mine")
            (target / "config.json").write_text("{}")
        before = tree(tmp_path)
        largest = max(path.stat().st_size for path in base.glob("*.safetensors"))
        call = {"save": lambda: save_edited(base, spec, target, overwrite=overwrite)}
        call["revert"] = lambda: revert(edited, target, overwrite=overwrite)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, hard))
        try:
            with pytest.raises(OutputError):
                call[run]()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert tree(tmp_path) == before
        assert [path.name for path in tmp_path.iterdir()] == (["deep"] if overwrite else [])
        call[run]()
        assert (target / INDEX).is_file()

    def test_no_space_for_a_stretch(self, base, spec, tmp_path, monkeypatch):
        real, calls = os.copy_file_range, []

        def copy_file_range(source, target, count):
            calls.append(count)
            if len(calls) == 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(source, target, count)

        monkeypatch.setattr(os, "copy_file_range", copy_file_range)
        with pytest.raises(OutputError, match="No space left"):
            save_edited(base, spec, tmp_path / "out")
        assert not list(tmp_path.iterdir())


@contextmanager
def child(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a script up to its word ``here``."""
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
        yield process
    finally:
        process.kill()
        process.communicate()


INSIDE = """
import sys
from pathlib import Path
from sith_hf.files import new_folder
with new_folder(Path(sys.argv[1]), overwrite=True) as work:
    (work / "half.txt").write_text("half")
    print("here", flush=True)
    sys.stdin.read()
"""
BETWEEN = """
import ctypes, os, sys
from pathlib import Path
from sith_hf.files import new_folder
real = os.rename
def none(*args, **kwargs):
    raise OSError("no C library: two renames instead of an exchange")
ctypes.CDLL = none
def rename(old, new):
    real(old, new)
    print("here", flush=True)
    sys.stdin.read()
os.rename = rename
with new_folder(Path(sys.argv[1]), overwrite=True) as work:
    (work / "new.txt").write_text("new")
"""


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def dead(parent: Path) -> None:
    """The working folder of a killed process."""
    (parent / ".sith-hf-work.dead.partial").mkdir()
    (parent / ".sith-hf-work.dead.partial" / "lock").touch()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestKilled:
    def test_the_next_run_clears_away_what_the_dead_left_and_not_what_the_living_have(self, base, spec, tmp_path):
        with child(INSIDE, tmp_path / "out") as process:
            (left,) = names(tmp_path)
            assert left.endswith(".partial")
            save_edited(base, spec, tmp_path / "other")
            assert names(tmp_path) == sorted([left, "other"])
            kill(process)
        assert names(tmp_path) == sorted([left, "other"])
        save_edited(base, spec, tmp_path / "out")
        assert names(tmp_path) == ["other", "out"]

    def test_the_living_one_ends_well(self, base, spec, tmp_path):
        with child(INSIDE, tmp_path / "out") as process:
            save_edited(base, spec, tmp_path / "other")
            process.communicate("")
        assert names(tmp_path) == ["other", "out"]
        assert (tmp_path / "out" / "half.txt").read_text() == "half"

    def test_between_the_two_renames_the_old_folder_comes_back(self, base, spec, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        (tmp_path / "out" / "config.json").write_text("{}")
        with child(BETWEEN, tmp_path / "out") as process:
            kill(process)
        assert "out" not in names(tmp_path)
        save_edited(base, spec, tmp_path / "other")
        assert names(tmp_path) == ["other", "out"]
        assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
        with pytest.raises(InputError, match="not empty"):
            save_edited(base, spec, tmp_path / "out")

    def test_an_old_folder_that_has_a_successor_is_kept(self, base, spec, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine.txt").write_text("mine")
        (tmp_path / "out" / "config.json").write_text("{}")
        with child(BETWEEN, tmp_path / "out") as process:
            kill(process)
        (tmp_path / "out").mkdir()
        save_edited(base, spec, tmp_path / "out")
        (kept,) = tmp_path.rglob("mine.txt")
        assert kept.read_text() == "mine"
        assert not list(tmp_path.rglob("new.txt"))

    def test_what_only_looks_like_ours_is_left_alone(self, base, spec, tmp_path):
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "mine.txt").write_text("mine")
        work = tmp_path / "work"
        work.mkdir()
        (work / ".sith-hf-work.link.partial").symlink_to(outside)
        (work / ".sith-hf-work.file.partial").write_text("mine")
        os.mkfifo(work / ".sith-hf-work.pipe.partial")
        (work / ".sith-hf.staged.partial").mkdir()
        before = names(work)
        save_edited(base, spec, work / "out")
        assert names(work) == sorted([*before, "out"])
        assert (outside / "mine.txt").exists()
        dead(work)
        save_edited(base, spec, work / "out", overwrite=True)
        assert names(work) == sorted([*before, "out"])

    def test_where_nothing_can_be_locked_nothing_is_cleared_away(self, base, spec, tmp_path, monkeypatch):
        import fcntl

        def flock(descriptor, operation):
            raise OSError(errno.ENOLCK, "no locks")

        dead(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", flock)
            save_edited(base, spec, tmp_path / "out")
            assert names(tmp_path) == [".sith-hf-work.dead.partial", "out"]
        save_edited(base, spec, tmp_path / "again")
        assert names(tmp_path) == ["again", "out"]

    def test_a_folder_that_is_taken_before_it_is_locked(self, tmp_path, monkeypatch):
        # Another process took it for left over in between: a fresh one is made.
        import fcntl

        real, taken = fcntl.flock, []

        def flock(descriptor, operation):
            if not taken:
                taken.extend(tmp_path.glob("*.partial"))
                shutil.rmtree(taken[0])
            real(descriptor, operation)

        monkeypatch.setattr(fcntl, "flock", flock)
        with new_folder(tmp_path / "out") as work:
            (work / "x").write_text("x")
        assert len(taken) == 1
        assert names(tmp_path) == ["out"]
        assert names(tmp_path / "out") == ["x"]


class TestNaN:
    @pytest.mark.parametrize("value", [b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff"], ids=["NaN", "-infinity"])
    @pytest.mark.parametrize("part", [0, 1], ids=["weight", "bias"])
    def test_in_an_edited_weight_it_is_refused(self, tmp_path, value, part):
        tiny.clip_model().save_pretrained(tmp_path / "base")
        path, key = tmp_path / "base" / SINGLE, out_proj(2)[part]
        tensors, metadata = read_raw(path)
        raw = tensors[key]
        # In the last column, which belongs to a head that the edit does not touch.
        write_raw(path, {**tensors, key: Raw(raw.dtype, raw.shape, raw.content[:-4] + value)}, metadata)
        spec = random_spec(tmp_path / "base", [(2, 0, 0, 0.0)])
        with pytest.raises(InputError, match=f"{key}.* NaN or infinity"):
            save_edited(tmp_path / "base", spec, tmp_path / "a" / "out")
        assert names(tmp_path) == ["base"]
        # Elsewhere it is allowed and kept.
        save_edited(tmp_path / "base", random_spec(tmp_path / "base", [(1, 0, 0, 0.0)]), tmp_path / "out")
        assert raw_tensors(tmp_path / "out")[key].content.endswith(value)
