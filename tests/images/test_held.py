"""Held rows: the embeddings of a whole forward pass, for any edit of later layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sith_hf.editor import SithEditor
from sith_hf.edits import applied
from sith_hf.errors import InputError
from sith_hf.images import BASE, DatasetSettings, ImageDataset, embed_rows, hold_rows, model_variants, ready
from tests.support import siglip
from tests.support.evaluating import dataset
from tests.support.made import tiny_concepts
from tests.support.tiny import image_processor, save_clip

REDS = [0, 60, 120, None, 180, 240, 20]


def source(reds: list[int | None]) -> ImageDataset:
    rows = dataset(reds, label=["a"] * len(reds))
    return ImageDataset(DatasetSettings(dataset="x"), "x", "", rows, ("image", "label"))


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_they_embed_as_whole_models_do(kind: str, depth: int, tmp_path: Path) -> None:
    if kind == "clip":
        save_clip(tmp_path / kind)
    else:
        siglip.save(tmp_path / kind)
    editor = SithEditor.from_pretrained(tmp_path / kind)
    if depth >= len(editor.tower.layers):
        depth = len(editor.tower.layers) - 1
    editor.decompose(tiny_concepts())
    spec = editor.edit().vectors(-1.0, layers=[*range(depth, len(editor.tower.layers))], vectors=[0, 1]).spec
    processor = image_processor()
    base, edited = model_variants(editor, {BASE: None, "edited": spec}, processor=processor)
    expected = embed_rows([base, edited], source(REDS), ["image"], ["label"], batch_size=3)
    with ready((base,), torch.device("cpu")):
        held = hold_rows(base, source(REDS), ["image"], ["label"], depth, batch_size=3)
        with applied(editor.model, spec):
            seen = held.embed("image").numpy()
        again = held.embed("image").numpy()
    assert (held.rows.digests, held.rows.skipped) == (expected.digests, expected.skipped)
    assert (seen == expected.images["image"][1]).all()
    assert (again == expected.images["image"][0]).all()
    assert (held.rows.images["image"][0] == again).all()
    assert not (seen == again).all()


def test_an_edit_of_an_earlier_layer_is_not_seen(tmp_path: Path) -> None:
    save_clip(tmp_path)
    editor = SithEditor.from_pretrained(tmp_path)
    editor.decompose(tiny_concepts())
    (base,) = model_variants(editor, {BASE: None}, processor=image_processor())
    with ready((base,), torch.device("cpu")):
        held = hold_rows(base, source([10, 200]), ["image"], (), 2)
        with applied(editor.model, editor.edit().vectors(0.0, layers=[1], vectors=[0]).spec):
            assert (held.embed("image").numpy() == held.rows.images["image"][0]).all()


@pytest.mark.parametrize(("reds", "message"), [([], "x has no rows"), ([None, None], "none of 2 rows has a readable")])
def test_data_without_a_picture_are_refused(reds: list[int | None], message: str, tmp_path: Path) -> None:
    save_clip(tmp_path)
    editor = SithEditor.from_pretrained(tmp_path)
    (base,) = model_variants(editor, {BASE: None}, processor=image_processor())
    with pytest.raises(InputError, match=message):
        hold_rows(base, source(reds), ["image"], (), 1)
