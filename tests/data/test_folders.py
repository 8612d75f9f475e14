"""Folders of a local folder are classes or splits, and no file is left out without a word."""

from __future__ import annotations

import os

import datasets
import pytest

from sith_hf.data import open_rows
from sith_hf.errors import InputError
from tests.support.evaluating import png

TEXTS = {
    ".csv": "text\nsea\n", ".tsv": "text\tx\nsea\t1\n", ".json": '[{"text": "sea"}]', ".jsonl": '{"text": "sea"}\n',
    ".txt": "hello\n", ".md": "hello\n", ".toml": "hello\n",
}  # fmt: skip


def folder(place, *files):
    for name in files:
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in TEXTS:
            path.write_text(TEXTS[path.suffix])
        else:
            path.write_bytes(png(1))
    return str(place)


def classes(found):
    names = found.rows.features["label"].names
    return sorted((os.path.basename(row["image"].filename), names[row["label"]]) for row in found.rows)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["test tube/1.png", "train/2.png", "mug/3.png"], ["test tube", "train", "mug"]),
        (["test tube/1.png", "train/2.png"], ["test tube", "train"]),
        (["dev board/1.png", "mug/2.png"], ["dev board", "mug"]),
        (["validation/1.png", "mug/2.png"], ["validation", "mug"]),
        (["train/1.png", "training/2.png"], ["train", "training"]),
        (["boat/1.png", "car/test_2.png"], ["boat", "car"]),
        (["boat/1.png", "car/old/2.png"], ["boat", "car"]),
        (["boat/1.png", "boat/2.png"], ["boat", "boat"]),
        (["data/boat/1.png", "data/test tube/2.png"], ["boat", "test tube"]),
        (["photo/dog/1.png", "photo/cat/2.png", "sketch/dog/3.png"], ["dog", "cat", "dog"]),
        (["boat/day/1.png", "car/day/2.png"], ["boat", "car"]),
        (["boat/1.PNG", "car/2.JPG", "car/task.toml", "__MACOSX/boat/3.png", ".x/4.png"], ["boat", "car"]),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_classes(files, expected, streaming, tmp_path):
    found = open_rows(folder(tmp_path / "things", *files), streaming=streaming)
    assert [name for _, name in classes(found)] == expected
    assert found.split == "train"


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["train/test tube/1.png", "train/validation/2.png", "test/test tube/3.png"], {"train": 2, "test": 1}),
        (["train/a/1.png", "train/b/2.png", "val/a/3.png", "test/4.png"], {"train": 2, "validation": 1, "test": 1}),
        (["Train/a/1.png", "Test/a/2.png", "Test/b/3.png"], {"train": 1, "test": 2}),
        (["train2017/1.png", "val2017/2.png"], {"train": 1, "validation": 1}),
        (["train_data/a/1.png", "test_images/a/2.png"], {"train": 1, "test": 1}),
        (["imagenet-train/a/1.png", "imagenet-val/a/2.png"], {"train": 1, "validation": 1}),
        (["train/1.png", "test/2.png", "test/3.png"], {"train": 1, "test": 2}),
        (["train_1.png", "test_2.png"], {"train": 1, "test": 1}),
        (["train.csv", "test.csv"], {"train": 1, "test": 1}),
        (["train/1.png"], {"train": 1}),
    ],
)
def test_splits(files, splits, tmp_path):
    name = folder(tmp_path / "things", *files)
    for split, count in splits.items():
        assert len(list(open_rows(name, split=split).rows)) == count
    if len(splits) > 1:
        with pytest.raises(InputError, match=f"several splits, {', '.join(splits)};"):
            open_rows(name)


@pytest.mark.parametrize("streaming", [False, True])
def test_slices(streaming, tmp_path):
    files = [f"{split}/{name}/{number}.png" for split in ("train", "test") for name in "ab" for number in range(2)]
    pictures = folder(tmp_path / "things", *files)
    saved = str(tmp_path / "saved")
    open_rows(pictures, split="train").rows.save_to_disk(saved)
    table = str(tmp_path / "rows.csv")
    (tmp_path / "rows.csv").write_text("text\na\nb\nc\nd\n")
    for name in (pictures, saved, table):
        for spec, count in (("train[:3]", 3), ("train[50%:]", 2), ("train[1:2]+train[3:]", 2)):
            assert len(list(open_rows(name, split=spec, streaming=streaming).rows)) == count
        with pytest.raises(InputError, match=r"no split nothing|Unknown split|could not be read"):
            open_rows(name, split="nothing[:1]", streaming=streaming)


@pytest.mark.parametrize("streaming", [False, True])
def test_one_saved_split_is_no_other_split(streaming, tmp_path):
    (tmp_path / "rows.csv").write_text("text\na\nb\n")
    saved = str(tmp_path / "saved")
    datasets.load_dataset("csv", data_files={"test": str(tmp_path / "rows.csv")}, split="test").save_to_disk(saved)
    for spec, count in ((None, 2), ("test", 2), ("test[1:]", 1)):
        assert len(list(open_rows(saved, split=spec, streaming=streaming).rows)) == count
    for spec in ("train", "train[1:]"):
        with pytest.raises(InputError, match="no split train"):
            open_rows(saved, split=spec, streaming=streaming)


def test_what_is_not_read_is_said(tmp_path):
    found = open_rows(folder(tmp_path / "a", "logo.png", "boat/1.png", "car/2.png", "labels.csv"))
    assert len(classes(found)) == 2
    assert [note.split()[0] for note in found.notes] == ["not", "1"]
    assert open_rows(folder(tmp_path / "b", "boat/1.png", "car/2.png")).notes == ()
    (note,) = open_rows(folder(tmp_path / "c", "photo/dog/1.png", "photo/cat/2.png", "art/dog/2.png")).notes
    assert "(dog), not those above (art)" in note or "(dog), not those above (photo)" in note


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (["a.csv", "b.csv", "c.jsonl"], "2 .csv and 1 .jsonl"),
        (["a.csv", "c.tsv"], "1 .csv and 1 .tsv"),
        (["a.csv", "figures/1.png", "figures/2.png"], "1 .csv and 2 images"),
        (["train/1.png", "annotations/a.json"], "1 .json and 1 images"),
        (["train.csv", "extra.csv"], "1 of its 2 files are in no split"),
    ],
)
def test_files_of_several_kinds(files, fault, tmp_path):
    with pytest.raises(InputError, match=f"things.*{fault}.*name a file"):
        open_rows(folder(tmp_path / "things", *files))


def test_texts_beside_rows_are_no_rows(tmp_path):
    found = open_rows(folder(tmp_path / "things", "data.csv", "LICENSE.txt", "NOTES.txt", "README.md"))
    assert [row["text"] for row in found.rows] == ["sea"]


def test_metadata_beside_classes(tmp_path):
    name = folder(tmp_path / "things", "test tube/1.png", "mug/2.png")
    (tmp_path / "things" / "metadata.csv").write_text("file_name,kind\ntest tube/1.png,a\nmug/2.png,b\n")
    assert [row["kind"] for row in open_rows(name).rows] == ["a", "b"]


def test_changed_pictures_are_other_rows(tmp_path):
    name = folder(tmp_path / "things", "boat/1.png", "car/2.png")
    marks = [open_rows(name).rows._fingerprint for _ in range(2)]
    (tmp_path / "things" / "boat" / "1.png").write_bytes(png(200, (17, 17)))
    assert marks[0] == marks[1] != open_rows(name).rows._fingerprint
