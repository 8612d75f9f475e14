"""Embedding a dataset in parts: an interrupted pass goes on, and uses nothing of other data or weights."""

from __future__ import annotations

import numpy as np
import pytest

from sith_hf.errors import InputError
from sith_hf.files import ResumableJob
from sith_hf.images import BASE, DatasetSettings, embed, embed_rows, model_variants, open_dataset
from tests.support import evaluating, tiny
from tests.support.made import tiny_editor

REDS = [*range(0, 100, 10), None, b"no picture", *range(100, 200, 10)]
LABELS = [str(number) for number in range(len(REDS))]


class Stop(Exception):
    """The run ends here."""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    evaluating.dataset(REDS, label=LABELS).save_to_disk(folder / "images")
    evaluating.dataset([*REDS[:1], 255, *REDS[2:]], label=LABELS).save_to_disk(folder / "changed")
    return folder


@pytest.fixture(scope="module")
def variants(home):
    return model_variants(tiny_editor(home), {BASE: None}, processor=tiny.image_processor())


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(embed, "BATCHES", 2)


def passed(variants, home, output, stop_at=None, name="images", batch_size=3, **data):
    """A pass over the images in parts beside ``output``, and the numbers of rows in the batches that it made."""
    made, real = [], embed.embed_batch

    def batch(variants, rows, *others):
        if len(made) == stop_at:
            raise Stop
        made.append(len(rows))
        return real(variants, rows, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "embed_batch", batch)
        source = open_dataset(DatasetSettings(dataset=str(home / name), **data))
        with ResumableJob.beside(output) as job:
            found = embed_rows(variants, source, ["image"], ["label"], batch_size=batch_size, job=job)
    return found, made


def interrupted(variants, home, output, **data):
    """A pass that ends after the first of four parts and half of the second."""
    with pytest.raises(Stop):
        passed(variants, home, output, stop_at=3, **data)
    assert len(list(output.with_name("out.work").rglob("*.part"))) == 1


@pytest.mark.parametrize("streaming", [False, True])
def test_a_pass_goes_on_where_it_was_interrupted(variants, home, tmp_path, streaming):
    whole, every = passed(variants, home, tmp_path / "whole", streaming=streaming)
    assert sum(every) == len(REDS)
    interrupted(variants, home, tmp_path / "out", streaming=streaming)
    found, rest = passed(variants, home, tmp_path / "out", streaming=streaming)
    assert sum(rest) == len(REDS) - 6
    assert np.array_equal(found.images["image"], whole.images["image"])
    assert found.values == whole.values
    assert found.values["label"] == tuple(text for text in LABELS if text not in ("10", "11"))
    assert found.left_out == whole.left_out == {"label": ("10", "11")}
    assert (found.digests, found.skipped) == (whole.digests, whole.skipped)
    assert not (tmp_path / "out.work").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 2}, "batch size"),
        ({"limit": 20}, "images"),
        ({"where": {"label": ("1", "2")}}, "images"),
        ({"name": "changed"}, "images"),
    ],
)
def test_parts_of_another_pass_are_refused(variants, home, tmp_path, change, named):
    interrupted(variants, home, tmp_path / "out")
    with pytest.raises(InputError, match=f"differs in {named}:"):
        passed(variants, home, tmp_path / "out", **change)
    assert sum(passed(variants, home, tmp_path / "out")[1]) == len(REDS) - 6  # the control


def test_parts_of_other_weights_are_refused(variants, home, tmp_path):
    interrupted(variants, home, tmp_path / "out")
    other = model_variants(tiny_editor(tmp_path, seed=5), {BASE: None}, processor=tiny.image_processor())
    with pytest.raises(InputError, match="differs in weights:"):
        passed(other, home, tmp_path / "out")


def test_a_stream_whose_images_have_changed_is_refused(variants, home, tmp_path):
    rows = home / "images"
    (home / "stream").symlink_to(rows)
    interrupted(variants, home, tmp_path / "out", name="stream", streaming=True)
    (home / "stream").unlink()
    (home / "stream").symlink_to(home / "changed")
    with pytest.raises(InputError, match="images from row 0 on differ from those before"):
        passed(variants, home, tmp_path / "out", name="stream", streaming=True)


@pytest.mark.parametrize("limit", [None, 1, 7, 100])
@pytest.mark.parametrize("where", [{}, {"label": ("3", "10", "17", "20")}])
def test_chosen_rows_are_those_that_are_read(home, limit, where):
    source = open_dataset(DatasetSettings(dataset=str(home / "images"), limit=limit, where=where))
    assert list(source.chosen().read(["label"])) == [{"label": row["label"]} for row in source.read(["label"])]
    assert source.chosen().data.where == {}


def test_embeddings_that_are_not_finite_are_not_kept(variants, home, tmp_path, monkeypatch):
    real = embed.embed_all
    monkeypatch.setattr(embed, "embed_all", lambda *arguments: [own * np.inf for own in real(*arguments)])
    with pytest.raises(InputError, match="not finite"):
        passed(variants, home, tmp_path / "out")
    assert not list(tmp_path.iterdir())
