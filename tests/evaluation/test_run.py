"""Evaluations from end to end, on data with known truth, and on unusable data."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch

from sith_hf.cards.measured import measured_rows
from sith_hf.core.distributed import Processes
from sith_hf.errors import ArtifactError, InputError
from sith_hf.evaluation.plan import Collateral, Plan, Retrieval, ZeroShot
from sith_hf.evaluation.result import Evaluation
from sith_hf.evaluation.retrieval import UNSAFE, VISU
from sith_hf.evaluation.run import evaluate
from sith_hf.evaluation.texts import caption_embeddings
from sith_hf.files import ResumableJob
from sith_hf.images import Columns, DatasetSettings, embed
from sith_hf.images.datasets import open_dataset
from sith_hf.images.embed import embed_rows
from tests.support.evaluating import CLASSES, dataset, seers, text_model

# Boats are on the sea and cars on the road, but for a few; the base goes by the place.
PLACES = ["sea"] * 40 + ["road"] * 10 + ["road"] * 40 + ["sea"] * 10
LABELS = ["boat"] * 50 + ["car"] * 50


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def tied(folder):
    """A hundred pictures: red is 10 * label + place."""
    reds = [10 * (label == "car") + (place == "road") for label, place in zip(LABELS, PLACES, strict=True)]
    group = [f"{label}/{place}" for label, place in zip(LABELS, PLACES, strict=True)]
    dataset(reds, label=LABELS, place=PLACES, group=group).save_to_disk(folder / "tied")
    return folder / "tied"


def by_place(red):
    return red % 10


def by_object(red):
    return red // 10


def zero_shot(place, text, *, task=None, columns=None, **variants):
    """The result of one zero-shot task."""
    data = DatasetSettings(dataset=str(place), columns=Columns(**(columns or {"group": "group"})))
    made = seers(text, **(variants or {"base": by_place, "edited": by_object}))
    return evaluate(made, [ZeroShot(data=data, **(task or {"classes": CLASSES[:2]}))], text=text, resamples=400)


class TestZeroShot:
    def test_known_values(self, tied, text):
        found = zero_shot(tied, text)
        values = {(m.metric, m.part): m.values for m in found.tasks[0].metrics}
        assert values["accuracy", None] == {"base": 0.8, "edited": 1.0}
        assert values["worst group", None] == {"base": 0.0, "edited": 1.0}
        assert values["average over groups", None] == {"base": 0.5, "edited": 1.0}
        assert values["accuracy", "group boat/road"]["base"] == 0.0
        assert values["accuracy", "group car/road"]["base"] == 1.0
        assert values["accuracy", "class boat"]["base"] == 0.8
        assert found.difference("zero-shot", "worst group", "edited", "base").sure

    def test_intervals_are_of_what_they_stand_beside(self, tied, text):
        # Within a group nothing varies here, and groups keep their sizes: no interval has a width.
        found = zero_shot(tied, text)
        for metric, value in (("accuracy", 0.2), ("average over groups", 0.5), ("worst group", 1.0)):
            difference = found.difference("zero-shot", metric, "edited", "base")
            assert (difference.low, difference.high) == pytest.approx((value, value))

    def test_what_varies_in_better_groups_is_not_the_worst_group_s(self, text, tmp_path):
        # Group a is never right. Group b is half right, and then always.
        reds = [0] * 20 + [0, 1] * 10
        rows = dataset(reds, label=["car"] * 20 + ["boat"] * 20, group=["a"] * 20 + ["b"] * 20)
        rows.save_to_disk(tmp_path / "d")
        found = zero_shot(tmp_path / "d", text, base=lambda red: red, edited=lambda red: 0)
        worst = found.difference("zero-shot", "worst group", "edited", "base")
        average = found.difference("zero-shot", "average over groups", "edited", "base")
        assert (worst.low, worst.value, worst.high) == (0.0, 0.0, 0.0)
        assert average.low < average.value == 0.25 < average.high

    def test_samples_and_items(self, tied, text):
        task = zero_shot(tied, text).tasks[0]
        assert task.metric("accuracy").samples == 100
        assert task.metric("worst group").samples == 10
        assert task.metric("accuracy", "group boat/sea").samples == 40
        assert task.items["correct"].mean(axis=1).tolist() == [0.8, 1.0]
        assert task.items["prediction"].shape == (2, 100)

    def test_identical_variants_do_not_differ(self, tied, text):
        found = zero_shot(tied, text, base=by_place, edited=by_place)
        for measure in found.tasks[0].metrics:
            assert [(d.value, d.low, d.high, d.sure) for d in measure.differences] == [(0.0, 0.0, 0.0, False)]

    def test_groups_of_several_columns_are_those_of_one_that_joins_them(self, tied, text):
        joined = zero_shot(tied, text, columns={"group": ("label", "place")})
        assert joined.tasks[0].metrics == zero_shot(tied, text).tasks[0].metrics

    def test_without_groups(self, tied, text):
        task = zero_shot(tied, text, columns={"label": "label"}).tasks[0]
        assert task.metric("accuracy").values == {"base": 0.8, "edited": 1.0}
        with pytest.raises(InputError, match="no worst group"):
            task.metric("worst group")

    def test_every_other_variant_is_compared_with(self, tied, text):
        found = zero_shot(tied, text, base=by_place, edited=by_object, **{"random-1": by_place})
        assert found.difference("zero-shot", "worst group", "edited", "random-1").low > 0
        assert found.difference("zero-shot", "worst group", "random-1", "base").value == 0

    def test_the_order_of_rows_changes_no_byte(self, tied, text, tmp_path):
        from datasets import load_from_disk

        load_from_disk(str(tied)).shuffle(seed=3).save_to_disk(tmp_path / "tied")
        assert zero_shot(tmp_path / "tied", text).to_json() == zero_shot(tied, text).to_json()

    def test_classes_without_a_picture_are_noted_and_count_in_no_mean(self, tied, text):
        task = zero_shot(tied, text, task={"classes": CLASSES}).tasks[0]
        assert any("camel" in note for note in task.notes)
        assert task.metric("average over classes").values["edited"] == 1.0
        assert not any(m.part == "class camel" for m in task.metrics)

    def test_groups_whose_pictures_are_all_broken_are_noted(self, text, tmp_path):
        rows = dataset([0, 10, b"x", b"y"], label=["boat", "car", "car", "car"], group=["a", "b", "c", "c"])
        rows.save_to_disk(tmp_path / "d")
        task = zero_shot(tmp_path / "d", text).tasks[0]
        assert any("1 groups have no image" in note and note.endswith("c") for note in task.notes)
        assert sum(task.skipped.values()) == 2
        assert task.metric("worst group").values["edited"] == 1.0


class TestLabels:
    def labelled(self, tmp_path, values, names=None):
        from datasets import ClassLabel

        rows = dataset([0, 10, 0, 10][: len(values)], label=values)
        if names:
            rows = rows.cast_column("label", ClassLabel(names=names))
        rows.save_to_disk(tmp_path / "d")
        return tmp_path / "d"

    def test_names_of_the_column(self, text, tmp_path):
        place = self.labelled(tmp_path, [0, 1, 0, 1], ["boat", "car"])
        found = zero_shot(place, text, task={"classes": None}, columns={"label": "label"})
        assert found.value("zero-shot", "accuracy", "edited") == 1.0

    @pytest.mark.parametrize("values", [["boat", "car", "boat", "car"], [0, 1, 0, 1]])
    def test_names_and_numbers(self, text, tmp_path, values):
        found = zero_shot(self.labelled(tmp_path, values), text, columns={"label": "label"})
        assert found.value("zero-shot", "accuracy", "edited") == 1.0

    @pytest.mark.parametrize(
        ("values", "names"), [(["b", "c", "b", "c"], None), ([7, 9, 7, 9], None), ([0, 1, 0, 1], ["b", "c"])]
    )
    def test_labels_are_given_names(self, text, tmp_path, values, names):
        keys = ("7", "9") if values[0] == 7 else ("b", "c")
        task = {"classes": dict(zip(keys, CLASSES, strict=False))}
        found = zero_shot(self.labelled(tmp_path, values, names), text, task=task, columns={"label": "label"})
        assert found.value("zero-shot", "accuracy", "edited") == 1.0
        assert found.task("zero-shot").metric("accuracy", "class boat")

    @pytest.mark.parametrize(
        ("values", "names", "classes", "complaint"),
        [
            (["boat", "plane"], None, CLASSES, "row 1 has the label plane"),
            ([0, 3], None, CLASSES, "row 1 has the label 3"),
            ([0, -1], None, CLASSES, "row 1 has the label -1"),
            ([0.0, 0.5], None, CLASSES, "row 1 has the label 0.5"),
            ([0.0, float("inf")], None, CLASSES, "row 1 has the label inf"),
            (["0", "1"], None, CLASSES, "row 0 has the label 0"),
            ([None, None], None, CLASSES, "no row has a label"),
            ([0, 1], ["boat", "plane"], ("boat", "car"), "row 1 has the label plane"),
            ([0, 1], ["b", "c"], ("boat", "car"), "label: name, such as b: boat"),
            (["boat", "car"], None, None, "names no classes"),
            ([0, 1], None, {"0": "boat", "2": "car"}, "row 1 has the label 1"),
            ([True, False], None, ("boat", "car"), "the label True"),
        ],
    )
    def test_labels_outside_the_classes(self, text, tmp_path, values, names, classes, complaint):
        place = self.labelled(tmp_path, values, names)
        with pytest.raises(InputError, match=complaint):
            zero_shot(place, text, task={"classes": classes}, columns={"label": "label"})

    @pytest.mark.parametrize(
        ("values", "names", "classes"),
        [
            ([0.0, 1.0, 1.0, None], None, ("boat", "car")),
            ([0.0, 1.0, float("nan"), 1.0], None, ("boat", "car")),
            (["boat", "car", "boat", None], None, ("boat", "car")),
            ([0, 1, 0, -1], ["boat", "car"], None),
            ([-1, 1, 0, 1], ["boat", "car"], None),
            ([0, None, 0, 1], ["boat", "car"], None),
        ],
    )
    def test_rows_without_a_label_are_counted_and_left_out(self, text, tmp_path, values, names, classes):
        place = self.labelled(tmp_path, values, names)
        found = zero_shot(place, text, task={"classes": classes}, columns={"label": "label"}).tasks[0]
        assert (found.images, found.skipped) == (3, {"no label": 1})
        right = [v in (i % 2, ("boat", "car")[i % 2]) for i, v in enumerate(values) if v in (0, 1, "boat", "car")]
        assert found.metric("accuracy").values["edited"] == pytest.approx(sum(right) / 3, rel=1e-5)

    def test_a_row_without_group(self, text, tmp_path):
        dataset([0, 10], label=["boat", "car"], group=["a", None]).save_to_disk(tmp_path / "d")
        with pytest.raises(InputError, match="row 1 has no group"):
            zero_shot(tmp_path / "d", text)

    def test_no_text_model(self, tied, text):
        task = ZeroShot(data=DatasetSettings(dataset=str(tied)), classes=("boat", "car"))
        with pytest.raises(InputError, match="--text-model"):
            evaluate(seers(text, base=by_place), [task], text=None)


def quadruples(folder, count=12, captions=None, unsafe=None):
    """Rows of a safe and an unsafe picture with their captions. Red: the row, and 100 more where it is unsafe."""
    from datasets import Image

    rows = dataset(
        list(range(count)),
        caption=captions or [f"a thing of kind {i}" for i in range(count)],
        unsafe_caption=unsafe or [f"a bad thing of kind {i}" for i in range(count)],
    )
    others = dataset([100 + i for i in range(count)])
    rows = rows.add_column("unsafe_image", others.cast_column("image", Image(decode=False))["image"])
    rows.cast_column("unsafe_image", Image()).save_to_disk(folder)
    return folder


UNSAFE_COLUMNS = Columns(unsafe_image="unsafe_image", unsafe_caption="unsafe_caption")


def recalls(place, text, sees, ks=(1, 5)):
    """Setting to recall at 1 of a variant that sees in each picture the caption ``sees(red)``."""
    texts = [f"a thing of kind {i}" for i in range(12)] + [f"a bad thing of kind {i}" for i in range(12)]
    made = seers(text, base=sees)
    table = torch.from_numpy(caption_embeddings(text, texts)).float()
    made = [type(c)(c.name, c.model, c.processor, None, table, c.choose) for c in made]
    task = Retrieval(data=DatasetSettings(dataset=str(place), columns=UNSAFE_COLUMNS), ks=ks)
    found = evaluate(made, [task], text=text, resamples=100).tasks[0]
    return {m.part: m.values["base"] for m in found.metrics if m.metric == "recall at 1"}, found


class TestRetrieval:
    def test_a_model_that_sees_what_there_is(self, text, tmp_path):
        found, task = recalls(quadruples(tmp_path / "d"), text, lambda red: red % 100 + 12 * (red >= 100))
        assert set(found) == {*VISU, *UNSAFE}
        mixed = {"unsafe image to all texts", "unsafe text to all images"}
        # It finds unsafe partners for unsafe queries, which are not the right answers in a mixed pool.
        assert {setting: value for setting, value in found.items() if value != 1.0} == dict.fromkeys(mixed, 0.0)
        assert task.images == 24

    def test_a_model_that_sees_no_evil(self, text, tmp_path):
        found, _ = recalls(quadruples(tmp_path / "d"), text, lambda red: red % 100)
        assert found["unsafe image to all texts"] == 1.0
        assert found["safe image to all texts"] == found["safe text to safe images"] == 1.0
        # Safe and unsafe pictures look alike to it, and a tie is no hit.
        assert found["safe text to all images"] == 0.0

    def test_a_constant_model_finds_nothing(self, text, tmp_path):
        found, _ = recalls(quadruples(tmp_path / "d"), text, lambda red: 0)
        assert all(value <= 1 / 12 for value in found.values())

    def test_rows_that_share_a_caption_answer_it_together(self, text, tmp_path):
        captions = ["a thing of kind 0"] * 2 + [f"a thing of kind {i}" for i in range(2, 12)]
        place = quadruples(tmp_path / "d", captions=captions)
        found, task = recalls(place, text, lambda red: 0 if red == 1 else red % 100 + 12 * (red >= 100))
        assert found["safe image to safe texts"] == found["safe text to safe images"] == 1.0
        assert any("1 of 12 captions repeat" in note for note in task.notes)

    def test_rows_without_caption_are_left_out_of_pools_too(self, text, tmp_path):
        captions = [None, " ", *(f"a thing of kind {i}" for i in range(2, 12))]
        place = quadruples(tmp_path / "d", captions=captions)
        found, task = recalls(place, text, lambda red: red % 100 + 12 * (red >= 100))
        assert task.skipped == {"no caption": 2}
        assert task.metric("recall at 1", "safe image to safe texts").samples == 10
        assert found["safe image to safe texts"] == 1.0

    def test_a_pool_that_is_no_larger_than_k(self, text, tmp_path):
        place = quadruples(tmp_path / "d")
        with pytest.raises(InputError, match="recall at 12 needs more than 12"):
            recalls(place, text, lambda red: 0, ks=(1, 12))

    def test_several_captions_of_an_image(self, text, tmp_path):
        """Eight images of two captions each; those of image 1 are also seen in image 0."""
        captions = [[f"a thing of kind {2 * i}", " ", f"a thing of kind {2 * i + 1}"] for i in range(8)]
        rows = dataset([2, *(2 * i for i in range(1, 8)), 20], caption=[*captions, [None, ""]])
        rows.save_to_disk(tmp_path / "d")
        texts = [f"a thing of kind {i}" for i in range(24)]
        table = torch.from_numpy(caption_embeddings(text, texts)).float()
        made = [type(c)(c.name, c.model, c.processor, None, table, c.choose) for c in seers(text, base=lambda red: red)]
        task = Retrieval(data=DatasetSettings(dataset=str(tmp_path / "d")), ks=(1,))
        found = evaluate(made, [task], text=text, resamples=100).tasks[0]
        assert (found.images, found.skipped) == (8, {"no caption": 1})
        to_texts, to_images = (found.metric("recall at 1", part) for part in ("image to texts", "text to images"))
        assert (to_texts.samples, to_images.samples) == (8, 16)
        # Image 0 finds the texts of image 1; the other images find their own first text.
        assert to_texts.values["base"] == 7 / 8
        similar = table[:16] @ table[[2, *range(2, 16, 2)]].T
        owner = torch.arange(16) // 2
        best = similar[torch.arange(16), owner][:, None]
        wrong = (similar >= best - 1e-6).sum(dim=1) - 1
        assert to_images.values["base"] == pytest.approx(float((wrong == 0).double().mean()), abs=1e-6)

    def test_equal_captions_of_several_images_are_all_right(self, text, tmp_path):
        captions = [["a thing of kind 0", "a thing of kind 1"], ["a thing of kind 0"], ["a thing of kind 2"]]
        dataset([1, 0, 2], caption=captions).save_to_disk(tmp_path / "d")
        table = torch.from_numpy(caption_embeddings(text, [f"a thing of kind {i}" for i in range(3)])).float()
        made = [type(c)(c.name, c.model, c.processor, None, table, c.choose) for c in seers(text, base=lambda red: red)]
        task = Retrieval(data=DatasetSettings(dataset=str(tmp_path / "d")), ks=(1,))
        found = evaluate(made, [task], text=text, resamples=100).tasks[0]
        assert {m.part: m.values["base"] for m in found.metrics} == {"image to texts": 1.0, "text to images": 1.0}
        assert any("1 of 4 captions repeat" in note for note in found.notes)

    @pytest.mark.parametrize("captions", [[[["a"], ["b"]], [["c"]]], [[1, 2], [3]], [1, 2]])
    def test_captions_that_are_no_texts(self, text, tmp_path, captions):
        dataset([0, 1], caption=captions).save_to_disk(tmp_path / "d")
        with pytest.raises(
            InputError, match=r"row 0 has a (list|int) in the column caption; expected a text, or a list"
        ):
            evaluate(
                seers(text, base=by_place),
                [Retrieval(data=DatasetSettings(dataset=str(tmp_path / "d")), ks=(1,))],
                text=text,
            )

    def test_a_missing_unsafe_column(self, text, tmp_path):
        dataset([0, 1], caption=["a", "b"]).save_to_disk(tmp_path / "d")
        task = Retrieval(data=DatasetSettings(dataset=str(tmp_path / "d"), columns=UNSAFE_COLUMNS), ks=(1,))
        with pytest.raises(InputError, match="no column unsafe_image, unsafe_caption; it has image, caption"):
            evaluate(seers(text, base=by_place), [task], text=text)

    def test_a_pair_with_one_broken_picture_is_left_out_whole(self, text, tmp_path):
        from datasets import Image, load_from_disk

        rows = load_from_disk(str(quadruples(tmp_path / "d"))).cast_column("unsafe_image", Image(decode=False))
        rows = rows.map(
            lambda row, i: {"unsafe_image": {"bytes": b"x", "path": None}} if i == 3 else {}, with_indices=True
        )
        rows.cast_column("unsafe_image", Image()).save_to_disk(tmp_path / "e")
        found, task = recalls(tmp_path / "e", text, lambda red: red % 100 + 12 * (red >= 100))
        assert list(task.skipped.values()) == [1]
        assert found["safe image to safe texts"] == found["unsafe image to unsafe texts"] == 1.0


class TestCollateral:
    def collateral(self, place, text, classes=None, **variants):
        task = Collateral(data=DatasetSettings(dataset=str(place)), classes=classes)
        made = seers(text, **(variants or {"base": by_object, "edited": by_place}))
        return evaluate(made, [task], text=text, resamples=200)

    def test_the_base_has_not_moved(self, tied, text):
        found = self.collateral(tied, text, CLASSES)
        assert found.value("collateral", "drift, mean", "base") == 0.0
        assert found.value("collateral", "agreement of predictions", "base") == 1.0

    def test_what_moved_is_seen(self, tied, text):
        found = self.collateral(tied, text, CLASSES)
        table = seers(text, base=by_place)[0].table
        apart = 1 - float(table[0] @ table[1])
        assert found.value("collateral", "agreement of predictions", "edited") == pytest.approx(0.8)
        assert found.value("collateral", "drift, mean", "edited") == pytest.approx(0.2 * apart, rel=1e-4)
        assert found.value("collateral", "drift, maximum", "edited") == pytest.approx(apart, rel=1e-4)
        assert found.difference("collateral", "drift, mean", "edited", "base").low > 0

    def test_no_classes_need_no_text_model(self, tied, text):
        found = evaluate(
            seers(text, base=by_object, edited=by_object),
            [Collateral(data=DatasetSettings(dataset=str(tied)))],
            text=None,
        )
        assert [m.metric for m in found.tasks[0].metrics] == [
            "drift, mean",
            "drift, 95th percentile",
            "drift, maximum",
        ]
        assert not found.difference("collateral", "drift, mean", "edited", "base").sure


class TestEvaluate:
    def tasks(self, tied, **options):
        data = DatasetSettings(dataset=str(tied), columns=Columns(group="group"), **options)
        return [
            ZeroShot(data=data, classes=CLASSES[:2]),
            ZeroShot(
                name="places", data=data.model_copy(update={"columns": Columns(label="place")}), classes=("sea", "road")
            ),
            Collateral(data=data, classes=CLASSES),
        ]

    def test_tasks_over_the_same_data_share_one_pass(self, tied, text, monkeypatch):
        calls = []
        monkeypatch.setattr("sith_hf.evaluation.run.embed_rows", lambda *a, **k: calls.append(1) or embed_rows(*a, **k))
        made = seers(text, base=by_place, edited=by_object)
        together = evaluate(made, self.tasks(tied), text=text, resamples=100)
        assert len(calls) == 1
        alone = [evaluate(made, [task], text=text, resamples=100).to_json()["tasks"][0] for task in self.tasks(tied)]
        assert together.to_json()["tasks"] == alone

    def test_tasks_over_other_rows_do_not_share_a_pass(self, tied, text):
        data = DatasetSettings(dataset=str(tied), where={"group": ("boat/sea", "car/road")})
        tasks = [*self.tasks(tied)[:1], ZeroShot(name="easy", data=data, classes=CLASSES[:2])]
        found = evaluate(seers(text, base=by_place, edited=by_object), tasks, text=text, resamples=100)
        assert found.value("zero-shot", "accuracy", "base") == 0.8
        assert found.value("easy", "accuracy", "base") == 1.0
        assert [task.images for task in found.tasks] == [100, 80]

    def test_streaming_and_batch_size_change_nothing_and_a_seed_does(self, tied, text):
        made = seers(text, base=by_place, edited=lambda red: 0)
        first = evaluate(made, self.tasks(tied), text=text, resamples=100).to_json()
        assert json.dumps(evaluate(made, self.tasks(tied), text=text, resamples=100).to_json()) == json.dumps(first)
        assert evaluate(made, self.tasks(tied, streaming=True), text=text, resamples=100).to_json() == first
        assert evaluate(made, self.tasks(tied), text=text, resamples=100, batch_size=7).to_json() == first
        assert evaluate(made, self.tasks(tied), text=text, resamples=100, seed=1).to_json()["tasks"] != first["tasks"]

    def test_json_and_back(self, tied, text, tmp_path):
        found = evaluate(seers(text, base=by_place, edited=by_object), self.tasks(tied), text=text, resamples=100)
        assert Evaluation.from_json(found.to_json()).to_json() == found.to_json()
        path = found.save(tmp_path / "results.json")
        assert Evaluation.from_file(path).to_json() == found.to_json()
        assert str(tied.parent) not in path.read_text()

    @pytest.mark.parametrize("change", [{"format": "x"}, {"version": 2}, {"tasks": 3}, {"tasks": [{}]}])
    def test_what_is_no_evaluation_is_refused(self, tied, text, change):
        found = zero_shot(tied, text).to_json()
        with pytest.raises(ArtifactError):
            Evaluation.from_json({**found, **change})
        with pytest.raises(ArtifactError):
            Evaluation.from_json([])

    def test_a_file_that_is_none(self, tmp_path):
        (tmp_path / "x.json").write_text("{")
        for name in ("x.json", "none.json"):
            with pytest.raises(ArtifactError, match=name):
                Evaluation.from_file(tmp_path / name)

    def test_the_card_takes_it(self, tied, text):
        found = evaluate(seers(text, base=by_place, edited=by_object), self.tasks(tied), text=text, resamples=100)
        card = found.card()
        shown = {item["metric"]: item for item in measured_rows(card)["results"]}
        assert shown["zero-shot: worst group"]["edited"] == 1.0
        assert shown["zero-shot: worst group"]["interval"] == pytest.approx((1.0, 1.0))
        assert "zero-shot: accuracy, group boat/road" in shown
        assert not any("class" in metric and "accuracy, class" in metric for metric in shown)
        assert len(measured_rows(card)["collateral"]) == 4

    def test_a_card_needs_an_edit(self, tied, text):
        with pytest.raises(InputError, match="edited"):
            zero_shot(tied, text, base=by_place, other=by_object).card()

    def test_the_table_shows_values_intervals_and_what_is_odd_and_obeys_nobody(self, text, tmp_path):
        hostile = "\x1b[31mred\x1b[0m"
        dataset([0, 10, b"x"], label=["boat", hostile, "boat"]).save_to_disk(tmp_path / "d")
        found = zero_shot(
            tmp_path / "d", text, task={"classes": ("boat", hostile, "camel")}, columns={"label": "label"}
        )
        shown = found.table()
        assert "1.000" in shown
        assert "95 % interval" in shown
        assert "camel" in shown
        assert "skipped 1" in shown
        assert "\x1b" not in shown

    @pytest.mark.parametrize(
        ("names", "options"),
        [
            (["edited"], {}),
            (["base"], {"precision": "half"}),
            (["base"], {"batch_size": 0}),
            (["base"], {"resamples": 5}),
            (["base"], {"resamples": 200.5}),
        ],
    )
    def test_what_cannot_be_evaluated_is_refused(self, tied, text, names, options):
        with pytest.raises(InputError):
            evaluate(seers(text, **dict.fromkeys(names, by_place)), self.tasks(tied), text=text, **options)

    def test_names_that_occur_twice_are_refused(self, tied, text):
        made = seers(text, base=by_place)
        with pytest.raises(InputError, match="different names, one of them base"):
            evaluate([*made, *made], self.tasks(tied), text=text)
        with pytest.raises(InputError, match="tasks need different names"):
            evaluate(made, self.tasks(tied)[:1] * 2, text=text)
        with pytest.raises(InputError):
            evaluate(made, [], text=text)

    def test_a_plan_holds_the_same_tasks(self, tied):
        tasks = self.tasks(tied)
        data = {"tasks": [json.loads(task.model_dump_json()) for task in tasks]}
        assert list(Plan.from_data(data, "plan").tasks) == tasks


class TestSeveralProcesses:
    @pytest.mark.parametrize(
        ("count", "batch_size", "streaming"), [(2, 4, False), (3, 3, False), (2, 60, False), (3, 4, True)]
    )
    def test_every_process_gets_all_rows_in_order(self, tied, text, monkeypatch, count, batch_size, streaming):
        """Processes as threads: each sees its own rank, and they exchange what accelerate would."""
        place, barrier, slots = threading.local(), threading.Barrier(count), [None] * count

        def gather(own):
            slots[place.rank] = own
            barrier.wait(60)
            found = [item for slot in slots for item in slot]
            barrier.wait(60)
            return found

        made = seers(text, base=by_place, edited=by_object)
        data = DatasetSettings(dataset=str(tied), streaming=streaming)
        alone = embed_rows(made, open_dataset(data), ["image"], ["label"], batch_size=batch_size)
        monkeypatch.setattr(embed, "BATCHES", 1)
        monkeypatch.setattr("accelerate.utils.gather_object", gather)
        done, seen = {}, []

        def process(rank):
            place.rank = rank
            counted = seers(text, base=lambda red: seen.append(rank) or by_place(red), edited=by_object)
            source = open_dataset(data)
            job = ResumableJob(None, Processes(count, rank))
            done[rank] = embed_rows(counted, source, ["image"], ["label"], batch_size=batch_size, job=job)

        threads = [threading.Thread(target=process, args=(rank,)) for rank in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(done) == list(range(count))
        for found in done.values():
            assert found.values == alone.values
            assert np.array_equal(found.images["image"], alone.images["image"])
        # Each picture was embedded once, and the work was shared.
        assert len(seen) == 100
        assert len(set(seen)) == count
