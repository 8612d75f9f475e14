"""The same run again is already done; after any change of its inputs or results it is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sith_hf.errors import InputError
from sith_hf.recipe import run_recipe
from sith_hf.recipe.result import REQUEST, RunResult
from tests.support.checkpoints import Checkpoints
from tests.support.evaluating import png
from tests.support.made import WORDS
from tests.support.raw import tree
from tests.support.tiny import image_processor, save_clip

RECIPE = """title: t
base: {model: base}
dictionary: {file: concepts.txt}
decompose: {layers: [2], rank: 3, image_mean: mean}
edits: [{rule: share, concepts: [red], threshold: 0.2, near: 0.3}]
large_edit: true
evaluate:
  tasks:
    - {kind: zero-shot, name: p, data: {dataset: pictures}, classes: {a: boat, b: car}}
  resamples: 100
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and everything that it names, and its results in ``out``."""
    folder = tmp_path_factory.mktemp("home") / "home"
    save_clip(folder / "base")
    image_processor().save_pretrained(folder / "base")
    (folder / "base" / "LICENSE").write_text("mit")
    (folder / "concepts.txt").write_text("\n".join(WORDS), encoding="utf-8")
    (folder / "mean").mkdir()
    save_file({"image_mean": torch.full((24,), 0.1)}, folder / "mean" / "image_mean.safetensors")
    for name in ("a", "b"):
        (folder / "pictures" / name).mkdir(parents=True)
        for red in (50, 60):
            (folder / "pictures" / name / f"{red}.png").write_bytes(png(red))
    (folder / "mine.yaml").write_text(RECIPE)
    run_recipe(folder / "mine.yaml", folder / "out")
    return folder


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """The same folder for one test, in the same place: its full path is part of the request."""
    kept = shutil.copytree(made, tmp_path / "kept", copy_function=shutil.copy2)
    yield made
    shutil.rmtree(made)
    shutil.copytree(kept, made, copy_function=shutil.copy2)


def again(home: Path) -> RunResult:
    said: list[str] = []
    found = run_recipe(home / "mine.yaml", home / "out", say=said.append)
    assert "already has the results" in said[-1]
    return found


def scaled(part: str) -> Callable[[Path], object]:
    def change(home: Path) -> None:
        path = home / "base" / "model.safetensors"
        tensors = load_file(path)
        save_file(tensors | {part: tensors[part] * 1.5}, path, {"format": "pt"})

    return change


def later(home: Path) -> None:
    os.utime(home / "pictures" / "a" / "50.png", (1, 1))


INPUTS = {
    "vision": scaled("vision_model.encoder.layers.0.mlp.fc1.weight"),
    "text": scaled("text_model.encoder.layers.0.mlp.fc1.weight"),
    "projection of texts": scaled("text_projection.weight"),
    "processor": lambda home: (home / "base" / "preprocessor_config.json").write_text(
        (home / "base" / "preprocessor_config.json").read_text().replace("0.48145466", "0.5")
    ),
    "licence": lambda home: (home / "base" / "LICENSE").write_text("other"),
    "card": lambda home: (home / "base" / "README.md").write_text("new"),
    "concepts": lambda home: (home / "concepts.txt").write_text("\n".join(WORDS[1:]), encoding="utf-8"),
    "mean": lambda home: save_file(
        {"image_mean": torch.full((24,), 0.11)}, home / "mean" / "image_mean.safetensors"
    ),
    "a picture": lambda home: (home / "pictures" / "a" / "50.png").write_bytes(png(51)),
    "a new picture": lambda home: (home / "pictures" / "a" / "70.png").write_bytes(png(70)),
    "a time": later,
    "recipe": lambda home: (home / "mine.yaml").write_text(RECIPE.replace("0.2", "0.21")),
}  # fmt: skip


@pytest.mark.parametrize("change", INPUTS.values(), ids=INPUTS)
def test_a_changed_input_is_not_taken_for_done(home: Path, change: Callable[[Path], object]) -> None:
    assert len(again(home).spec)
    before = tree(home / "out")
    change(home)
    with pytest.raises(InputError, match="is not empty"):
        run_recipe(home / "mine.yaml", home / "out")
    assert tree(home / "out") == before


def test_each_result_is_checked(home: Path) -> None:
    before = tree(home / "out")
    for name in before:
        if name == REQUEST:
            continue
        path = home / "out" / name
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(InputError, match=f"has the results of this run, but {name} was changed"):
            again(home)
        path.unlink()
        # Without its recipe, the folder may be anyone's.
        removed = "was not written by an earlier run" if name == "recipe.yaml" else f"but {name} was changed or removed"
        with pytest.raises(InputError, match=removed):
            again(home)
        path.write_bytes(content)
    again(home)


def test_a_flipped_bit_of_the_request_is_noticed(home: Path) -> None:
    path = home / "out" / REQUEST
    content = path.read_bytes()
    assert json.loads(content)["files"].keys() | {REQUEST} == tree(home / "out").keys()
    for at in range(0, len(content), 97):
        flipped = bytearray(content)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="is not empty"):
            run_recipe(home / "mine.yaml", home / "out")


def test_another_way_to_the_same_folder_is_the_same_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(home / "out")
    monkeypatch.chdir(home / "pictures")
    run_recipe("../mine.yaml", "../out/")
    assert tree(home / "out") == before


@pytest.mark.parametrize("key", ["file", "image_mean", "from"])
@pytest.mark.parametrize("name", ["pipe", "/dev/zero"])
def test_a_file_without_end_is_named(tmp_path: Path, checkpoints: Checkpoints, key: str, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    step = f"dictionary: {{file: {name}}}" if key == "file" else f"decompose: {{{key}: {name}}}"
    recipe = f"title: t\nbase: {{model: {checkpoints.base()}}}\n{step}\nedits: [{{concepts: [red]}}]\n"
    (tmp_path / "r.yaml").write_text(recipe)
    with pytest.raises(InputError, match=rf"{name}: could not be read \(not a regular file\)"):
        run_recipe(tmp_path / "r.yaml", tmp_path / "out")
    assert not (tmp_path / "out").exists()
