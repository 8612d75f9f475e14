"""Datasets of images: sources, broken images, and one clear message for each fault."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from sith_hf.errors import InputError
from sith_hf.evaluation.plan import Plan, ZeroShot
from sith_hf.images import Columns, DatasetSettings
from sith_hf.images.datasets import open_dataset
from sith_hf.images.decode import BrokenImage, decode_image
from sith_hf.images.embed import embed_rows
from tests.support.evaluating import dataset, png, seers, text_model


def data(folder, **options) -> DatasetSettings:
    return DatasetSettings(dataset=str(folder), **options)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def seen(text):
    return seers(text, base=lambda red: red, edited=lambda red: red)


@pytest.fixture
def saved(tmp_path):
    """Six pictures, one of them damaged, written by save_to_disk."""
    rows = dataset([0, 1, 2, b"no picture", 1, 2], label=["boat", "car", "camel", "car", "car", "boat"])
    rows.save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def rows_of(source, *columns):
    return [tuple(row[name] for name in columns) for row in source.read(columns)]


def claiming(width: int, height: int) -> bytes:
    """A PNG of some bytes that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


class TestPictures:
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "LA", "RGBA", "CMYK", "I;16"])
    def test_every_mode_becomes_rgb(self, mode):
        found = decode_image({"bytes": png(255, mode=mode), "path": None})
        assert (found.mode, found.size) == ("RGB", (16, 16))

    @pytest.mark.parametrize("size", [(1, 1), (3, 3), (1, 50), (4000, 3000)])
    def test_sizes_from_tiny_to_huge(self, size):
        assert decode_image(png(7, size)).size == size

    def test_sixteen_bits_are_scaled_and_not_cut(self):
        file = io.BytesIO()
        Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)).save(file, format="PNG")
        assert decode_image(file.getvalue()).getpixel((0, 0)) == (156, 156, 156)

    def test_a_picture_is_turned_upright(self):
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (30, 10)).save(file, format="JPEG", exif=exif)
        assert decode_image(file.getvalue()).size == (10, 30)

    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            (None, "no image"),
            ({"bytes": None, "path": None}, "no image"),
            (b"no picture at all", "not an image"),
            (png(1, (64, 64))[:-30], "damaged or truncated"),
            ({"bytes": None, "path": "/no/such/file.png"}, "not found"),
            (claiming(60_000, 60_000), "too many pixels"),
            (claiming(12_000, 12_000), "too many pixels"),
            (claiming(101, 1), "strip"),
            (claiming(50, 50), "damaged or truncated"),
            (3.5, "where an image should be"),
        ],
    )
    def test_what_is_no_picture_has_a_reason(self, value, reason):
        with pytest.raises(BrokenImage, match=reason):
            decode_image(value)

    def test_it_is_opened_by_its_path_too(self, tmp_path):
        (tmp_path / "a.png").write_bytes(png(9))
        assert decode_image({"bytes": None, "path": str(tmp_path / "a.png")}).getpixel((0, 0)) == (9, 0, 0)


class TestSources:
    def test_save_to_disk(self, saved):
        source = open_dataset(data(saved))
        assert (source.title, source.split, len(source.rows)) == ("saved", "", 6)
        assert source.columns == ("image", "label")

    @pytest.mark.parametrize("folder", ["photos", "imagefolder"])  # the latter is also a loader of datasets
    def test_a_folder_of_images_for_each_class(self, tmp_path, monkeypatch, folder):
        monkeypatch.chdir(tmp_path)
        for name in ("boat", "car"):
            (tmp_path / folder / name).mkdir(parents=True)
            for red in (1, 2):
                (tmp_path / folder / name / f"{red}.png").write_bytes(png(red))
        source = open_dataset(data(folder))
        assert source.title == folder
        assert source.names_of("label") == ("boat", "car")
        assert sorted(source.text_of("label", value) for (value,) in rows_of(source, "label")) == [
            "boat",
            "boat",
            "car",
            "car",
        ]

    def test_bars_are_shown_when_they_are_asked_for(self, tmp_path, capfd):
        for number, progress in enumerate((False, True)):
            dataset([number], label=["boat"]).to_parquet(tmp_path / f"{number}.parquet")
            capfd.readouterr()
            open_dataset(data(tmp_path / f"{number}.parquet"), progress=progress)
            assert bool(capfd.readouterr().err) == progress

    @pytest.mark.parametrize("streaming", [False, True])
    @pytest.mark.parametrize("whole", [False, True])
    def test_parquet(self, tmp_path, streaming, whole):
        folder = tmp_path / "rows"
        folder.mkdir()
        dataset([0, 1], label=["boat", "car"]).to_parquet(folder / "test.parquet")
        place = folder if whole else folder / "test.parquet"
        source = open_dataset(data(place, streaming=streaming))
        assert rows_of(source, "label") == [("boat",), ("car",)]

    @pytest.mark.parametrize("streaming", [False, True])
    def test_splits(self, tmp_path, streaming):
        from datasets import DatasetDict

        both = DatasetDict(train=dataset([0], label=["boat"]), test=dataset([1, 2], label=["car", "car"]))
        both.save_to_disk(tmp_path / "both")
        source = open_dataset(data(tmp_path / "both", split="test", streaming=streaming))
        assert (source.split, rows_of(source, "label")) == ("test", [("car",), ("car",)])
        with pytest.raises(InputError, match="train, test"):
            open_dataset(data(tmp_path / "both", streaming=streaming))
        with pytest.raises(InputError, match=r"no split valid.*train, test"):
            open_dataset(data(tmp_path / "both", split="valid", streaming=streaming))

    def test_the_drawn_world(self):
        source = open_dataset(DatasetSettings(world="balanced", seed=3000, pictures=3))
        assert len(source.rows) == 3
        assert "3000" in source.title

    @pytest.mark.parametrize("streaming", [False, True])
    def test_rows_are_chosen_by_value_and_limited(self, saved, streaming):
        source = open_dataset(data(saved, streaming=streaming, where={"label": "car"}))
        assert len(rows_of(source, "label")) == 3
        source = open_dataset(data(saved, streaming=streaming, where={"label": ("boat", "camel")}, limit=2))
        assert rows_of(source, "label") == [("boat",), ("camel",)]

    def test_numbers_are_chosen_by_number(self, tmp_path):
        dataset([0, 1, 2], place=[0, 1, 1]).save_to_disk(tmp_path / "d")
        assert len(rows_of(open_dataset(data(tmp_path / "d", where={"place": 1})), "place")) == 2
        dataset([0, 1, 2], place=[0.0, 1.0, float("nan")]).save_to_disk(tmp_path / "f")
        for wanted, count in ((1, 1), ("1", 1), ("1.0", 1), (("0.0", 1), 2), ("nan", 0), ("1.00", 0)):
            assert len(rows_of(open_dataset(data(tmp_path / "f", where={"place": wanted})), "place")) == count

    @pytest.mark.parametrize("name", ["nobody/nothing", "nothing-of-this-name"])
    def test_what_is_not_on_this_machine_is_one_clear_line_offline(self, name):
        with pytest.raises(InputError, match=name) as refused:
            open_dataset(DatasetSettings(dataset=name))
        assert "\n" not in str(refused.value)

    def test_several_splits_on_the_hub_are_refused_before_any_is_fetched(self, monkeypatch):
        monkeypatch.setattr("datasets.get_dataset_split_names", lambda *a, **k: ["train", "test"])
        monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: pytest.fail("fetched"))
        with pytest.raises(InputError, match="train, test"):
            open_dataset(DatasetSettings(dataset="somebody/images"))

    def test_an_empty_folder_and_another_file(self, tmp_path):
        with pytest.raises(InputError, match="no dataset"):
            open_dataset(data(tmp_path))
        (tmp_path / "notes.txt").write_text("hello")
        with pytest.raises(InputError, match=r"notes\.txt"):
            open_dataset(data(tmp_path / "notes.txt"))

    def test_no_message_names_a_local_folder(self, tmp_path):
        (tmp_path / "broken.parquet").write_bytes(b"nonsense")
        with pytest.raises(InputError) as refused:
            open_dataset(data(tmp_path / "broken.parquet"))
        assert str(tmp_path) not in str(refused.value)

    def test_a_folder_has_no_revision(self, saved):
        with pytest.raises(InputError, match="revision"):
            open_dataset(data(saved, revision="main"))


class TestEmbedding:
    @pytest.mark.parametrize("streaming", [False, True])
    def test_broken_images_are_counted_and_left_out_and_rows_stay_together(self, saved, seen, streaming):
        found = embed_rows(seen, open_dataset(data(saved, streaming=streaming)), ["image"], ["label"], batch_size=2)
        assert found.values["label"] == ("boat", "car", "camel", "car", "boat")
        assert list(found.skipped.values()) == [1]
        assert found.left_out["label"] == ("car",)
        assert (found.images["image"][0] == seen[0].table[[0, 1, 2, 1, 2]].numpy()).all()

    @pytest.mark.parametrize("batch_size", [1, 3, 100])
    def test_the_batch_size_changes_nothing(self, saved, seen, batch_size):
        found = embed_rows(seen, open_dataset(data(saved)), ["image"], [], batch_size=batch_size)
        assert (found.images["image"][1] == seen[1].table[[0, 1, 2, 1, 2]].numpy()).all()

    @pytest.mark.parametrize("streaming", [False, True])
    def test_a_missing_column_is_refused_with_a_list_of_the_existing_ones(self, saved, seen, streaming):
        source = open_dataset(data(saved, streaming=streaming))
        with pytest.raises(InputError, match=r"no column picture; it has image, label"):
            embed_rows(seen, source, ["picture"], [])
        with pytest.raises(InputError, match=r"no column place"):
            embed_rows(seen, source, ["image"], ["place"])
        with pytest.raises(InputError, match=r"no column colour"):
            embed_rows(seen, open_dataset(data(saved, streaming=streaming, where={"colour": "red"})), ["image"], [])

    def test_no_rows_and_no_picture(self, tmp_path, saved, seen):
        with pytest.raises(InputError, match="no rows"):
            embed_rows(seen, open_dataset(data(saved, where={"label": "plane"})), ["image"], [])
        dataset([None, b"x"], label=["a", "b"]).save_to_disk(tmp_path / "none")
        with pytest.raises(InputError, match=r"none of 2 rows .*1: no image"):
            embed_rows(seen, open_dataset(data(tmp_path / "none")), ["image"], [])

    def test_a_column_without_pictures(self, saved, seen):
        with pytest.raises(InputError, match="none of 6 rows"):
            embed_rows(seen, open_dataset(data(saved)), ["label"], [])

    def test_a_row_that_does_not_fit_is_refused_before_anything_is_embedded(self, saved, text):
        def never(red):
            raise AssertionError

        def check(row, number):
            if number == 5:
                raise InputError("row 5")

        source = open_dataset(data(saved))
        with pytest.raises(InputError, match="row 5"):
            embed_rows(seers(text, base=never), source, ["image"], ["label"], check=check, batch_size=2)

    def test_half_precision_needs_a_gpu(self, saved, seen):
        from accelerate import PartialState

        if PartialState().device.type == "cpu":
            with pytest.raises(InputError, match="fp16"):
                embed_rows(seen, open_dataset(data(saved)), ["image"], [], precision="fp16")

    def test_embeddings_that_are_not_finite_are_refused(self, saved, text):
        (bad,) = seers(text, base=lambda red: red)
        bad.table[0] = float("nan")
        with pytest.raises(InputError, match="not finite"):
            embed_rows([bad], open_dataset(data(saved)), ["image"], [])


TASK = {"kind": "zero-shot", "data": {"dataset": "d"}}


class TestPlan:
    @pytest.mark.parametrize(
        ("change", "complaint"),
        [
            ({"kind": "zeroshot"}, "zero-shot, retrieval or collateral"),
            ({"clases": ["a", "b"]}, "did you mean classes"),
            ({"data": {"dataset": "d", "spilt": "test"}}, "did you mean split"),
            ({"data": {"dataset": "d", "columns": {"lable": "y"}}}, "did you mean label"),
            ({"data": {}}, "one source"),
            ({"data": {"dataset": "d", "world": "groups", "seed": 1, "pictures": 2}}, "one source"),
            ({"data": {"world": "groups"}}, "seed and pictures"),
            ({"data": {"world": "cities", "seed": 1, "pictures": 2}}, "groups"),
            ({"data": {"dataset": "d", "seed": 1}}, "belong to world"),
            ({"data": {"dataset": "d", "columns": {"unsafe_image": "u"}}}, "go together"),
            ({"classes": ["boat", "boat"]}, "boat occurs more than once"),
            ({"classes": {"0": "boat", "1": "boat"}}, "boat occurs more than once"),
            ({"classes": ["boat"]}, "plan.yaml: tasks.0.classes: a classification needs at least two classes; got 1"),
            ({"classes": 3}, "plan.yaml: tasks.0.classes: Input should be a valid array; tasks.0.classes: Input"),
            ({"templates": ["a photo"]}, "exactly one {}"),
            ({"templates": ["{} and {}"]}, "exactly one {}"),
            ({"templates": []}, "at least 1"),
            ({"kind": "retrieval", "ks": [0]}, "greater than or equal to 1"),
            ({"data": {"dataset": "d", "limit": 0}}, "greater than or equal to 1"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, change, complaint):
        with pytest.raises(InputError) as refused:
            Plan.from_data({"tasks": [{**TASK, **change}]}, "plan.yaml")
        assert complaint in str(refused.value)
        assert str(refused.value).startswith("plan.yaml: ")

    def test_what_fits(self):
        plan = Plan.from_data({"tasks": [TASK, {**TASK, "name": "second", "classes": {"0": "a", "1": "b"}}]}, "x")
        assert plan.tasks[0] == ZeroShot(data=DatasetSettings(dataset="d"))
        assert Plan.model_validate_json(plan.model_dump_json()) == plan

    def test_a_bare_no_of_yaml_is_the_precision(self):
        assert Plan.from_data({"tasks": [TASK], "precision": False}, "x").precision == "no"
        with pytest.raises(InputError):
            Plan.from_data({"tasks": [TASK], "precision": True}, "x")

    def test_two_tasks_of_one_name(self):
        with pytest.raises(InputError, match="same name"):
            Plan.from_data({"tasks": [TASK, TASK]}, "x")

    def test_settings_are_frozen(self):
        columns = Columns()
        with pytest.raises(ValidationError):
            columns.image = "other"
