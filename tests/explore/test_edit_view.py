"""What a basket changes, against the results of ``SithEditor`` itself."""

import json
from dataclasses import replace

import pytest

from sith_hf.errors import BaseMismatch
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.edit_view import draft, preview
from sith_hf.gains import impact_of

pytest_plugins = ["tests.support.explored"]

GAINS = (0.3, 1.7, -1.0)


def basket(*items):
    return Basket(tuple(Item(gain, **{"concept" if isinstance(what, str) else "vector": what}) for what, gain in items))


@pytest.mark.parametrize("gain", GAINS)
def test_the_edit_is_that_of_the_editor(with_model, gain):
    found = draft(with_model, basket(("beach", gain), ((2, 1, 0), 0.5), ("red", 0.0)))
    editor = with_model.editor
    wanted = editor.edit().set_gain("beach", gain=gain).vectors(0.5, layers=[2], heads=[1], vectors=[0])
    wanted = wanted.set_gain("red", gain=0.0)
    assert found.edit is not None
    assert found.edit.spec == wanted.spec
    assert found.edit.warnings == wanted.warnings
    assert found.edit.spec != editor.suppress("beach").spec


@pytest.mark.parametrize("gain", GAINS)
def test_the_estimates_are_those_of_the_editor(with_model, gain):
    chosen = basket(("beach", gain), ((2, 1, 0), 1.0))
    view = preview(with_model, chosen)
    wanted = with_model.editor.edit().set_gain("beach", gain=gain)
    assert view.impact == wanted.impact
    assert view.items[0].taken == wanted.taken["beach"]
    assert view.items[0].vectors == len(wanted.gains)
    assert set(wanted.warnings) <= set(view.warnings)
    assert json.loads(json.dumps(view.to_json()))["impact"]["drift"] == wanted.impact.drift


def test_without_a_model_the_energy_is_known_and_the_drift_is_not(with_model, without_model):
    chosen = basket(((2, 1, 0), 0.0), ((0, 3, 1), 2.0))
    view, full = preview(without_model, chosen), preview(with_model, chosen)
    assert view.impact.energy == full.impact.energy > 0
    assert view.impact.drift is None
    assert full.impact.drift is not None
    assert (view.with_model, full.with_model) == (False, True)


def test_without_a_model_a_concept_is_what_explanations_are_mostly_about(without_model):
    decomposition = without_model.decomposition
    view = preview(without_model, basket(*((text, 0.0) for text in decomposition.texts)))
    known = [item for item in view.items if not item.problem]
    assert all(item.vectors for item in known)
    assert all("mostly about" in item.problem for item in view.items if item.problem)
    assert view.impact == impact_of(None, decomposition, draft(without_model, _of(view, known)).gains.gain)


def _of(view, items):
    return Basket(tuple(Item(item.gain, concept=item.name) for item in items))


def test_an_item_that_cannot_be_used_leaves_the_others(with_model, without_model):
    chosen = basket(((9, 0, 0), 0.0), ((2, 1, 0), 0.0))
    view = preview(with_model, chosen)
    assert "layer 9" in view.items[0].problem
    assert (view.items[0].vectors, view.items[1].vectors, view.impact.vectors) == (0, 1, 1)
    unknown = preview(without_model, basket(("no such concept", 0.0)))
    assert "--model" in unknown.items[0].problem


def test_a_large_edit_and_vectors_by_chance_are_reported(with_model):
    decomposition = with_model.decomposition
    heads = [((layer, head, vector), -1.0) for layer in decomposition.layers for head in range(2) for vector in (0, 1)]
    view = preview(with_model, basket(*heads))
    assert "energy" in view.excess
    assert any("no words beyond chance" in line for line in view.warnings) == bool(view.impact.by_chance)
    assert not preview(with_model, Basket()).excess


def test_explanations_of_read_directions_are_no_edit(with_model):
    reading = replace(with_model.decomposition, settings={**with_model.decomposition.settings, "side": "read"})
    view = preview(replace(with_model, decomposition=reading), basket(((2, 1, 0), 0.0)))
    assert "write directions are needed" in view.problem
    assert view.impact.vectors == 0


def test_a_decomposition_of_another_model_is_refused(with_model, checkpoints):
    with pytest.raises(BaseMismatch):
        preview(replace(with_model, model=str(checkpoints.base(seed=3))), basket(((2, 1, 0), 0.0)))


def test_an_empty_basket_does_not_load_the_model(with_model):
    view = preview(replace(with_model, model="no/such-model"), Basket())
    assert (view.impact.vectors, view.impact.energy) == (0, 0.0)
