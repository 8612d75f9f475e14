"""Slopes of gains against finite differences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sith_hf.editor import SithEditor
from sith_hf.edits import applied, gain_slopes, make_spec
from sith_hf.gains import Gains
from tests.support import siglip
from tests.support.made import tiny_concepts, tiny_editor

STEP = 1e-3
Key = tuple[int, int, int]


def checked(editor: SithEditor, layers: list[int], keys: list[Key], edit: dict[Key, float]) -> None:
    """Compare the slopes of a figure of the embeddings, at an edit, with its differences."""
    torch.manual_seed(0)
    model = editor.model.double()
    side = model.config.vision_config.image_size
    pixels, along = torch.randn(3, 3, side, side, dtype=torch.float64), torch.randn(3, 1, dtype=torch.float64)
    decomposition = editor.decompose(tiny_concepts(), layers=layers)
    every = make_spec(editor.tower, decomposition, Gains(dict.fromkeys(keys, 0.0)))

    def figure() -> torch.Tensor:
        found: torch.Tensor = model.get_image_features(pixel_values=pixels).pooler_output
        return (torch.nn.functional.normalize(found, dim=-1) * along).sum()

    def at(gains: dict[Key, float]) -> float:
        spec = make_spec(editor.tower, decomposition, Gains(gains))
        with torch.no_grad(), applied(model, spec):
            return float(figure())

    needed = [parameter.requires_grad for parameter in model.parameters()]
    with applied(model, make_spec(editor.tower, decomposition, Gains(edit))):
        slopes = gain_slopes(model, every, lambda: figure().backward())
    assert [parameter.requires_grad for parameter in model.parameters()] == needed
    assert all(parameter.grad is None for parameter in model.parameters())
    expected = [
        (at({**edit, key: edit.get(key, 1.0) + STEP}) - at({**edit, key: edit.get(key, 1.0) - STEP})) / (2 * STEP)
        for key in every.keys
    ]
    assert torch.tensor(expected).abs().max() > 1e-3
    assert slopes.tolist() == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_they_are_those_of_finite_differences(tmp_path: Path) -> None:
    keys = [(layer, head, vector) for layer in (1, 2) for head in (0, 3) for vector in (0, 5)]
    checked(tiny_editor(tmp_path), [1, 2], keys, {(1, 0, 1): 0.0, (2, 3, 0): -1.0})


def test_those_of_a_pooling_head_too(tmp_path: Path) -> None:
    editor = SithEditor.from_pretrained(siglip.save(tmp_path / "siglip"))
    last = len(editor.tower.layers) - 1
    keys = [(layer, head, 0) for layer in (last - 1, last) for head in (0, 1)]
    checked(editor, [last - 1, last], keys, {(last, 0, 1): 0.0})
