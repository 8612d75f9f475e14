"""A local path is that file or folder, whatever its name is."""

from __future__ import annotations

import os

import pytest
from datasets import Dataset, DatasetDict

from sith_hf.data import open_rows
from sith_hf.errors import InputError
from tests.support.evaluating import png

# Patterns, loaders of datasets, and names with a meaning to a shell, a URL or fsspec.
NAMES = [
    "[x]", "a[0-9]", "a*b", "a?b", "a**", "{a,b}", "a\nb", "imagefolder", "text", "csv", "json", "parquet",
    "webdataset", "pandas", "with space", "100%25", "hf:", "ünï", "~", "a#b", "-x", ".hidden", "__init__", "a,b",
    "train", "x.tar", "a=b",
]  # fmt: skip


def pictures(folder, *classes):
    for name in classes:
        (folder / name).mkdir(parents=True)
        (folder / name / "1.png").write_bytes(png(1))
    return folder


def table(folder, *texts, name="train.parquet"):
    folder.mkdir(parents=True)
    Dataset.from_dict({"text": list(texts)}).to_parquet(folder / name)
    return folder


@pytest.fixture
def neighbours(tmp_path, monkeypatch):
    """The current folder, with other folders that the patterns match."""
    for name in ("x", "a1", "aXb", "a", "b", "axb"):
        pictures(tmp_path / name, "other")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_images(name, neighbours):
    pictures(neighbours / name, "boat", "[car]")
    for given, streaming in ((name, False), (f"{name}/", True)):
        found = open_rows(given, streaming=streaming)
        assert found.rows.features["label"].names == ["[car]", "boat"]
        assert len(list(found.rows)) == 2
        assert "/" not in found.title


@pytest.mark.parametrize("name", ["[x]", "a?b", "csv", "a b"])
def test_every_other_kind(name, neighbours):
    for kind, place in {
        "folder": table(neighbours / "one" / name, "sea", "sky"),
        "file": table(neighbours / "two" / name, "sea", "sky") / "train.parquet",
        "saved": neighbours / "three" / name,
    }.items():
        if kind == "saved":
            Dataset.from_dict({"text": ["sea", "sky"]}).save_to_disk(place)
        assert [row["text"] for row in open_rows(str(place)).rows] == ["sea", "sky"]


def test_splits_of_a_folder_that_is_a_pattern(neighbours):
    pictures(neighbours / "[x]" / "train", "boat")
    pictures(neighbours / "[x]" / "test", "boat", "car")
    with pytest.raises(InputError, match="several splits, train, test"):
        open_rows("[x]")
    assert len(list(open_rows("[x]", split="test").rows)) == 2
    assert len(list(open_rows("[x]", split="test[:1]").rows)) == 1


def test_a_folder_changes_when_its_files_do(neighbours):
    folder = table(neighbours / "[x]", "sea", "sky")
    assert len(open_rows("[x]").rows) == 2
    Dataset.from_dict({"text": ["sea", "sky", "sand"]}).to_parquet(folder / "train.parquet")
    os.utime(folder / "train.parquet", ns=(1, 1))
    assert len(open_rows("[x]").rows) == 3


def test_a_link_is_the_folder_that_it_names(neighbours):
    table(neighbours / "real[1]", "sea", "sky")
    (neighbours / "link[2]").symlink_to(neighbours / "real[1]")
    (neighbours / "plain").symlink_to(neighbours / "real[1]")
    for name in ("link[2]", "plain"):
        found = open_rows(name)
        assert (found.title, len(found.rows)) == (name, 2)


@pytest.mark.parametrize("name", ["plain", "[x]"])
def test_links_below_a_folder_are_followed(name, neighbours):
    pictures(neighbours / "elsewhere", "car")
    folder = pictures(neighbours / name, "boat", "bus")
    assert open_rows(name).rows.features["label"].names == ["boat", "bus"]
    (folder / "car").symlink_to(neighbours / "elsewhere" / "car")
    (folder / "boat" / "2.png").symlink_to(folder / "boat" / "1.png")
    (folder / "circle").symlink_to(folder)
    found = open_rows(name)
    assert found.rows.features["label"].names == ["boat", "bus", "car"]
    assert len(found.rows) == 4


def test_the_home_folder(neighbours, monkeypatch):
    monkeypatch.setenv("HOME", str(neighbours))
    table(neighbours / "words", "sea", "sky")
    assert len(open_rows("~/words").rows) == 2
    table(neighbours / "~" / "words", "sea")  # a folder of that name comes first
    assert len(open_rows("~/words").rows) == 1


def test_a_card_with_patterns_in_a_folder_that_is_one(neighbours):
    folder = table(neighbours / "[x]", "sea", "sky")
    (folder / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: '*.parquet'\n---\n")
    with pytest.raises(InputError, match="rename it"):
        open_rows("[x]")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert len(open_rows("[x]").rows) == 2


@pytest.mark.parametrize("name", ["a::b", "zip::x"])
def test_a_chain_of_archives_is_refused(name, neighbours):
    pictures(neighbours / name, "boat")
    with pytest.raises(InputError, match=r"'::'.*rename it"):
        open_rows(name)


@pytest.mark.parametrize("name", ["imagefolder", "csv", "text", "pandas", "webdataset"])
def test_a_loader_is_no_dataset(name, neighbours):
    with pytest.raises(InputError, match=f"no folder {name} is here"):
        open_rows(name)


@pytest.mark.parametrize("name", ["./nothing", "nothing/", "a/b/c", "/no/such/folder", "~/nothing", "..nothing"])
def test_a_path_that_is_not_there_is_no_id(name, neighbours):
    with pytest.raises(InputError, match="no file or folder has this name"):
        open_rows(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_and_devices(neighbours):
    os.mkfifo("pipe.csv")
    for name in ("pipe.csv", "/dev/zero", "/dev/null"):
        with pytest.raises(InputError, match="neither a file nor a folder"):
            open_rows(name)
    (neighbours / "broken").symlink_to("nothing")
    with pytest.raises(InputError, match="broken is neither"):
        open_rows("broken")


@pytest.mark.parametrize(("name", "fault"), [("a.py", "a script"), ("a.txt", "unknown file type"), ("a", "unknown")])
def test_files_of_another_kind(name, fault, tmp_path):
    (tmp_path / name).write_text("hello")
    with pytest.raises(InputError, match=f"^{name} .*{fault}"):
        open_rows(str(tmp_path / name))


def test_a_file_has_no_configurations(tmp_path):
    (tmp_path / "a.csv").write_text("text\nsea\n")
    with pytest.raises(InputError, match="leave --config out"):
        open_rows(str(tmp_path / "a.csv"), config="en")


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_name_that_nothing_has(name):
    with pytest.raises(InputError, match="empty or has a null character"):
        open_rows(name)


def test_a_split_that_a_saved_dataset_has_not(tmp_path):
    DatasetDict(test=Dataset.from_dict({"text": ["sea"]})).save_to_disk(tmp_path / "d")
    assert open_rows(str(tmp_path / "d"), preferred="train").split == "test"
    with pytest.raises(InputError, match="d has no split train; its splits are test"):
        open_rows(str(tmp_path / "d"), split="train")
