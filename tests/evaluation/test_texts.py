"""Variants with text towers of their own: each predicts with its own texts, and each tower is asked once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sith_hf.errors import InputError
from sith_hf.evaluation import texts as texts_module
from sith_hf.evaluation.plan import Collateral, Retrieval, ZeroShot
from sith_hf.evaluation.run import evaluate
from sith_hf.evaluation.texts import caption_embeddings, class_embeddings, moved_classes
from sith_hf.images import Columns, DatasetSettings
from sith_hf.towers.loading import LoadedModel
from tests.support.evaluating import CLASSES, dataset, seers, text_model
from tests.support.tiny import clip_model

TEMPLATES = ("a photo of a {}",)
IMAGE_DRIFTS = {"drift, mean", "drift, 95th percentile", "drift, maximum"}
LABELS = [CLASSES[i % 3] for i in range(24)]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def other(text):
    """Another text tower with the same tokenizer."""
    return LoadedModel(clip_model(seed=5), text.tokenizer, "other", None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures whose red is the number of their class, with a caption and an unsafe twin."""
    folder = tmp_path_factory.mktemp("data") / "d"
    reds = [i % 3 for i in range(24)]
    dataset(reds, label=LABELS, caption=[f"{name} {i}" for i, name in enumerate(LABELS)]).save_to_disk(folder)
    return folder


def variants(text, other):
    """Two with the common text tower, two with another; all see the right class in every picture."""
    made = seers(text, **{"base": int, "vision only": int, "text only": int, "edited": int})
    return (*made[:2], *(replace(item, text=other) for item in made[2:]))


def test_a_variant_predicts_with_the_classes_of_its_own_text_tower(data, text, other):
    task = ZeroShot(data=DatasetSettings(dataset=str(data)), classes=CLASSES)
    found = evaluate(variants(text, other), [task], text=text, resamples=100).tasks[0]
    seen = class_embeddings(text, CLASSES, TEMPLATES)[[i % 3 for i in range(24)]]
    own = class_embeddings(other, CLASSES, TEMPLATES)
    wanted = (seen @ own.T).argmax(axis=1)
    assert found.items["prediction"][:2].tolist() == [[i % 3 for i in range(24)]] * 2
    assert found.items["prediction"][2:].tolist() == [wanted.tolist()] * 2
    assert wanted.tolist() != [i % 3 for i in range(24)]  # the control: another tower answers otherwise
    moved = 1 - (class_embeddings(text, CLASSES, TEMPLATES) * own).sum(axis=1)
    for k, name in enumerate(CLASSES):
        drift = found.metric("drift", f"class {name}")
        assert drift.values["edited"] == pytest.approx(moved[k], rel=1e-5)
        assert drift.values["vision only"] == drift.values["base"] == 0
    assert any("no longer mean" in note for note in found.notes)


def test_one_text_tower_adds_no_drift_of_classes(data, text):
    tasks = [
        ZeroShot(data=DatasetSettings(dataset=str(data)), classes=CLASSES),
        Collateral(data=DatasetSettings(dataset=str(data)), classes=CLASSES),
    ]
    made = seers(text, base=int, edited=int)
    for task in evaluate([made[0], replace(made[1], text=text)], tasks, text=text, resamples=100).tasks:
        assert {item.metric for item in task.metrics if item.metric.startswith("drift")} <= IMAGE_DRIFTS
        assert not [note for note in task.notes if "text tower" in note]


def test_side_effects_of_a_text_edit(data, text, other):
    task = Collateral(data=DatasetSettings(dataset=str(data)), classes=CLASSES)
    found = evaluate(variants(text, other), [task], text=text, resamples=100).tasks[0]
    agreement, moved = found.metric("agreement of predictions"), found.metric("drift of classes, mean")
    assert found.metric("drift, mean").values["edited"] == 0  # the pictures are the same
    assert agreement.values["vision only"] == 1
    assert agreement.values["edited"] < 1
    assert moved.values["vision only"] == 0
    assert moved.values["edited"] == moved.values["text only"] > 0.01
    assert found.metric("drift of classes, maximum").values["edited"] >= moved.values["edited"]


def test_captions_are_those_of_the_variant(data, text, other):
    columns = Columns(caption="caption")
    task = Retrieval(data=DatasetSettings(dataset=str(data), columns=columns), ks=(1,))
    found = evaluate(variants(text, other), [task], text=text, resamples=100).tasks[0]
    captions = [f"{name} {i}" for i, name in enumerate(LABELS)]
    images = class_embeddings(text, CLASSES, TEMPLATES)[[i % 3 for i in range(24)]].astype(np.float32)
    for tower, names in ((text, (0, 1)), (other, (2, 3))):
        scores = images @ caption_embeddings(tower, captions).T
        right = scores[np.arange(24), np.arange(24)]
        before = (scores >= right[:, None] - 1e-6).sum(axis=1) - 1
        for c in names:
            assert found.items["rank image to texts"][c].tolist() == before.tolist()
    ranks = found.items["rank image to texts"]
    assert ranks[0].tolist() != ranks[2].tolist()


def test_each_text_tower_is_asked_once(data, text, other, monkeypatch):
    made, asked, real = variants(text, other), [], texts_module.encode_texts

    def encode(model, *rest, **options):
        asked.append(model)
        return real(model, *rest, **options)

    monkeypatch.setattr(texts_module, "encode_texts", encode)
    task = ZeroShot(data=DatasetSettings(dataset=str(data)), classes=CLASSES)
    evaluate(made, [task], text=text, resamples=100)
    assert [id(model) for model in asked] == [id(text.model), id(other.model)]


def test_a_text_tower_of_another_size_is_refused(data, text, other):
    wide = LoadedModel(clip_model(seed=5, projection_dim=20), text.tokenizer, "wide", None)
    task = ZeroShot(data=DatasetSettings(dataset=str(data)), classes=CLASSES)
    made = seers(text, base=int, edited=int)
    with pytest.raises(InputError, match="text embeddings 20"):
        evaluate([made[0], replace(made[1], text=wide)], [task], text=text, resamples=100)


def test_only_classes_that_move_far_are_noted():
    drifts = {"base": [0.0, 0.0], "edited": [0.02, 0.6], "text only": [0.01, 0.7]}
    (note,) = moved_classes(["boat", "danger"], drifts)
    assert "danger 0.70" in note
    assert "boat" not in note
    assert moved_classes(["boat", "danger"], {"edited": [0.02, 0.1]}) == []
