"""Devices and dtypes by name: those of this machine, and one clear error for any other."""

from __future__ import annotations

import pytest
import torch

from sith_hf.core import devices
from sith_hf.core.devices import exact_device, find_device, find_dtype, pass_device
from sith_hf.editor import SithEditor
from sith_hf.errors import InputError
from tests.support.cli import refused, sith
from tests.support.tiny import save_clip


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(devices, "available_devices", lambda: ["cpu", "cuda:0", "cuda:1"])


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", torch.device("cuda:0")])
def test_a_device_of_this_machine(two_gpus, name):
    assert find_device(name) == torch.device(name)


@pytest.mark.parametrize("name", ["cuda:2", "mps", "gpu", "", "cuda:x", "meta", "cpu\x1b[31m"])
def test_no_device_of_this_machine(two_gpus, name):
    with pytest.raises(InputError, match="the devices of this machine are cpu, cuda:0, cuda:1") as caught:
        find_device(name)
    assert str(caught.value).isprintable()


def test_processes_of_a_launcher_have_a_device_each(two_gpus, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert find_device("cuda") == torch.device("cuda")
    with pytest.raises(InputError, match="name cuda without a number"):
        find_device("cuda:1")


def test_the_choice_is_left_to_each_step():
    assert find_device("auto") is find_device(None) is find_dtype("auto") is find_dtype(None) is None
    assert exact_device(torch.device("mps")) == torch.device("cpu")
    assert pass_device(torch.device("mps")) == torch.device("mps")
    assert exact_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["float32", "bfloat16", torch.float16])
def test_a_dtype(name):
    assert str(find_dtype(name)).endswith(str(name).removeprefix("torch."))


@pytest.mark.parametrize("name", ["fp16", "float64", "int8", "", "half"])
def test_no_dtype(name):
    with pytest.raises(InputError, match="the dtypes are auto, float32, bfloat16, float16"):
        find_dtype(name)


def test_a_model_in_another_dtype(tmp_path, caplog):
    save_clip(tmp_path / "clip")
    exact = SithEditor.from_pretrained(tmp_path / "clip", device="cpu", dtype="float32")
    assert (exact.loaded.device, exact.model.dtype, exact.loaded.rounded) == (torch.device("cpu"), torch.float32, False)
    assert "rounds the weights" not in caplog.text
    rounded = SithEditor.from_pretrained(tmp_path / "clip", dtype=torch.bfloat16)
    assert (rounded.model.dtype, rounded.loaded.rounded) == (torch.bfloat16, True)
    assert "rounds the weights" in caplog.text
    with pytest.raises(InputError, match="use auto or float32"):
        rounded.loaded.require_exact()
    # A wider dtype is exact: the fingerprints are those of the files.
    rounded.model.save_pretrained(tmp_path / "half")
    wide = SithEditor.from_pretrained(tmp_path / "half", dtype="float32")
    narrow = SithEditor.from_pretrained(tmp_path / "half")
    assert (wide.model.dtype, narrow.model.dtype) == (torch.float32, torch.bfloat16)
    assert wide.tower.sha256([0]) == narrow.tower.sha256([0]) != exact.tower.sha256([0])


@pytest.mark.parametrize("option", ["--device", "--dtype"])
def test_a_wrong_name_is_one_line(option, tmp_path):
    ran = sith("decompose", tmp_path, option, "cuda:99", "-o", tmp_path / "out")
    assert "cuda:99" in refused(ran)
    assert len(ran.err.splitlines()) == 1
