"""What datasets cannot open or read is one line of ours, the same for texts and images."""

from __future__ import annotations

import gzip
import io
import sys
import tarfile

import pytest
from datasets import Dataset, DatasetDict
from datasets.exceptions import DatasetNotFoundError

from sith_hf.concepts import ConceptDictionary
from sith_hf.data import dataset_fault, open_rows
from sith_hf.errors import InputError
from sith_hf.images import DatasetSettings
from sith_hf.images.datasets import open_dataset

CONFIGS = b"---\nconfigs:\n- config_name: en\n  data_files: a.csv\n- config_name: de\n  data_files: b.csv\n---\n"

# Files of a folder named "rows", and what is said.
BROKEN = {
    "nothing": ({}, "no dataset there"),
    "a pickle": ({"train.pkl": b"x"}, "no dataset there"),
    "a script": ({"rows.py": b"import os", "train.csv": b"text\nsea\n"}, "a script.*refs/convert/parquet"),
    "no h5py": ({"train.h5": b"\x89HDF\r\n\x1a\n" + b"0" * 100}, "needs the package h5py"),
    "no parquet": ({"train.parquet": b"PAR1 not really"}, "magic bytes"),
    "no rows in JSON": ({"train.jsonl": b""}, "no rows"),
    "no rows in CSV": ({"train.csv": b""}, "no rows"),
    "a heading alone": ({"train.csv": b"text\n"}, "no rows"),
    "Latin-1": ({"train.csv": "text\ncafé\n".encode("latin-1")}, "not UTF-8"),
    "half of JSON": ({"train.jsonl": b'{"text": "a"'}, "JSON parse error"),
    "too many cells": ({"train.csv": b"a,b\n1\n1,2,3\n"}, "Expected 2 fields in line 3, saw 3"),
    "half of gzip": ({"train.csv.gz": gzip.compress(b"text\nsea\n" * 99)[:20]}, "ended before"),
    "no zip": ({"train.zip": b"PK\x03\x04xxxx"}, "not a zip file"),
    "no tar": ({"train.tar": b"xxxx" * 300}, "invalid header"),
    "a broken card": ({"README.md": b"---\na: [\n---\n", "train.csv": b"text\nsea\n"}, "could not be read"),
    "configurations": (
        {"README.md": CONFIGS, "a.csv": b"text\nsea\n", "b.csv": b"text\nsee\n"},
        "--config.*'en', 'de'",
    ),
    "splits": ({"validation.csv": b"text\nsea\n", "test.csv": b"text\nsky\n"}, "several splits, validation, test"),
    "empty tables": ({"state.json": b'{"_data_files": []}', "dataset_info.json": b"{}"}, "could not be read|no rows"),
}


@pytest.fixture(autouse=True)
def _without_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)


def written(folder, files):
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(("files", "fault"), BROKEN.values(), ids=BROKEN)
def test_one_line_for_texts_and_images(files, fault, tmp_path, capfd):
    place = written(tmp_path / "rows", files)
    said = []
    for attempt in (
        lambda: open_dataset(DatasetSettings(dataset=place)),
        lambda: ConceptDictionary.from_dataset(place, "text"),
    ):
        with pytest.raises(InputError, match=f"^rows.*{fault}") as refused:
            attempt()
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert "\n" not in said[0]
    assert str(tmp_path) not in said[0]
    assert str(tmp_path) not in capfd.readouterr().err


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", ["a script", "no h5py", "no tar", "Latin-1", "half of JSON", "no zip"])
def test_a_stream_says_the_same(kind, streaming, tmp_path):
    files, fault = BROKEN[kind]
    place = written(tmp_path / "rows", files)

    def read():
        source = open_dataset(DatasetSettings(dataset=place, streaming=streaming))
        return list(source.read(source.columns))

    with pytest.raises(InputError, match=f"^rows: .*{fault}"):
        read()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (DatasetNotFoundError("Dataset 'a/b' is a gated dataset on the Hub."), "gated.*hf auth login"),
        (DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub or cannot be accessed."), "hf auth login"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (ConnectTimeout)"), "Hub could not be reached"),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"), "HF_HUB_OFFLINE"),
        (ImportError("To support decoding audio, please install 'soundfile'."), "pip install soundfile"),
        (ModuleNotFoundError("No module named 'zarr'", name="zarr"), "pip install zarr"),
        (ValueError("Bad\n\x1b[31m hf_abcdefghijklmnopqrstuvwx /some/where/x.csv"), "Bad "),
    ],
)
def test_errors_of_the_hub_and_of_readers(error, said):
    found = dataset_fault("a/b", error)
    assert isinstance(found, InputError)
    text = str(found)
    assert text.isprintable()
    assert "/some/where" not in text
    assert "abcdefghij" not in text
    with pytest.raises(InputError, match=said):
        raise found


def test_cells_that_no_comma_separates(tmp_path):
    place = written(tmp_path / "rows", {"train.csv": b"text;label\nsea;1\nsky;2\n"})
    for attempt in (
        lambda: ConceptDictionary.from_dataset(place, "text"),
        lambda: open_dataset(DatasetSettings(dataset=place)).check(["image"]),
    ):
        with pytest.raises(InputError, match="separated by ;"):
            attempt()
    tabs = written(tmp_path / "tabs", {"train.tsv": b"\xef\xbb\xbftext\tlabel\nsea\t1\nsky\t2\n"})
    assert ConceptDictionary.from_dataset(tabs, "text").texts == ("sea", "sky")


def test_a_column_of_mixed_types_is_refused_by_its_row(tmp_path):
    place = written(tmp_path / "rows", {"train.jsonl": b'{"text": "a"}\n{"text": 1}\n{"text": "b"}\n'})
    with pytest.raises(InputError, match=r"rows: concept 2 must be a text; got int"):
        ConceptDictionary.from_dataset(place, "text")


def test_one_split_of_another_name_is_used(tmp_path):
    place = written(tmp_path / "rows", {"test.csv": b"text\nsea\nsky\n"})
    assert ConceptDictionary.from_dataset(place, "text").texts == ("sea", "sky")
    (tmp_path / "rows" / "train.csv").write_bytes(b"text\nred\nblue\n")
    assert ConceptDictionary.from_dataset(place, "text").texts == ("red", "blue")
    assert ConceptDictionary.from_dataset(place, "text", split="test").texts == ("sea", "sky")


def test_configurations_are_chosen(tmp_path):
    files, _ = BROKEN["configurations"]
    place = written(tmp_path / "rows", {**files, "b.csv": b"text\nsee\nhimmel\n"})
    assert ConceptDictionary.from_dataset(place, "text", config="de").texts == ("see", "himmel")
    with pytest.raises(InputError, match="no such configuration"):
        open_rows(place, config="fr")


def test_webdataset(tmp_path):
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for number, text in enumerate((b"sea", b"sky")):
            for name, content in ((f"{number}.txt", text), (f"{number}.json", b"{}")):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    assert ConceptDictionary.from_dataset(str(tmp_path / "shard.tar"), "txt").texts == ("sea", "sky")


def test_saved_splits_of_concepts(tmp_path):
    DatasetDict(test=Dataset.from_dict({"text": ["sea", "sky"]})).save_to_disk(tmp_path / "d")
    assert len(ConceptDictionary.from_dataset(tmp_path / "d", "text")) == 2


@pytest.mark.parametrize(
    "files",
    [
        {"a.csv": b"text\n" + b"1\n" * 200_000 + b"hunter2\n" * 3, "b.csv": b"text\n1\n"},
        {"a.csv": b"text\nx\n", "b.csv": b"hunter2\nx\n"},
        {"a.csv": b"text\nx\n", "README.md": b"---\nconfigs: [hunter2\n: :\n---\n"},
        {"a.jsonl": b'{"text": "a"}\nhunter2\n'},
    ],
)
def test_no_cell_of_a_file_is_shown(files, tmp_path):
    """A recipe of somebody else can name any file."""
    with pytest.raises(InputError, match="could not be read") as refused:
        list(open_rows(written(tmp_path / "rows", files)).rows)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("end", ["csv", "tsv", "json", "jsonl"])
def test_a_sparse_file_is_refused_at_once(end, tmp_path):
    (tmp_path / "rows").mkdir()
    path = tmp_path / "rows" / f"a.{end}"
    with path.open("wb") as file:
        file.truncate(5 * 2**30)
    for name in (path, path.parent):
        with pytest.raises(InputError, match="zero bytes"):
            open_rows(str(name))
