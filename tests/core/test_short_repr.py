"""The short text form of results: no long numbers, no tensors, one line; and every public result has one."""

import dataclasses
import inspect
import re
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest
import torch

import sith_hf
from sith_hf.core.short_repr import short, short_repr

# What is no result: machinery, settings, and handles of files.
INTERNAL = {
    "BlankPage", "CachedList", "Checkpoint", "ChosenEdit", "CoefficientReader", "DictionaryIndex", "EmbeddingCache",
    "EmbeddingJudge", "End", "Entry", "FileBackedRows", "HeldRows", "HeldTask", "ImageDataset", "Keep",
    "LanguageModelJudge", "Layout", "Piece", "Place", "Proof", "Pursuit", "ResumableJob", "RowBlocks", "RunningTop",
    "Selection", "SheetJudge", "TensorChanges", "TensorFile", "TorchFile", "TowerRun", "UploadPackage",
}  # fmt: skip


@short_repr
@dataclass(frozen=True)
class Result:
    value: float
    tensor: Any
    name: str
    many: Any = ()
    nothing: None = None
    hidden: str = field(default="secret", repr=False)


CODE = short_repr.__code__
FOUND = Result(0.123456789012345678, torch.zeros(100, 3), "a\x1b[31m\n", list(range(1000)))


def test_numbers_are_rounded_and_tensors_are_shapes():
    assert repr(FOUND) == "Result(value=0.1235, tensor=[100, 3] float32, name='a\\x1b[31m\\n', many=(1000 items))"


def test_it_is_bounded():
    text = repr(replace(FOUND, name="x" * 10_000, many={str(n): FOUND for n in range(4)}))
    assert len(text) <= 400
    assert "\n" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (True, "True"),
        (3, "3"),
        (float("nan"), "nan"),
        (1e-12, "1e-12"),
        (Path("a/b"), "'a/b'"),
        ((1, 0.5), "(1, 0.5)"),
        ({"a": 1 / 3}, "{'a': 0.3333}"),
        ((FOUND, FOUND), "(2 items)"),
        (torch.nn.Linear(2, 2), "<Linear>"),
    ],
)
def test_a_value(value, text):
    assert short(value) == text


def plain(cls: type) -> bool:
    """Whether a class has the repr that dataclasses write themselves, of fields that may be long."""
    written = getattr(cls.__repr__, "__wrapped__", cls.__repr__)
    generated = "__create_fn__" in written.__qualname__ or getattr(written, "__code__", CODE).co_filename == "<string>"
    long = re.compile(r"Tensor|float|Mapping|Any|tuple\[|NDArray")
    return generated and any(f.repr and long.search(str(f.type)) for f in dataclasses.fields(cls))


def results() -> list[type]:
    """The public dataclasses of all rooms."""
    rooms = [import_module(m.name) for m in iter_modules(sith_hf.__path__, "sith_hf.") if m.name != "sith_hf.__main__"]
    public = [getattr(room, name) for room in rooms for name in getattr(room, "__all__", ())]
    return list(dict.fromkeys(item for item in public if inspect.isclass(item) and dataclasses.is_dataclass(item)))


def test_every_public_result_has_a_short_form():
    found = [cls.__name__ for cls in results() if plain(cls)]
    assert len(results()) > 60
    assert [name for name in found if name not in INTERNAL] == []


def test_a_result_without_one_is_seen():
    @dataclass
    class Newcomer:
        tensor: torch.Tensor

    assert plain(Newcomer)
    assert not plain(Result)
