"""The impact of an edit and its limits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sith_hf.errors import InputError, LargeEdit
from sith_hf.gains import Gains, by_name, gain_rows, gain_table, impact_of
from sith_hf.gains.impact import MOST_DRIFT, MOST_ENERGY


def everything(made, gain):
    return by_name(made, gain, layers=made.layers).gain


def test_all_of_it(editor, made):
    full = impact_of(editor.tower, made, everything(made, 0.0))
    assert (full.vectors, full.of) == (96, 96)
    assert full.energy == pytest.approx(1.0, abs=1e-5)
    assert full.drift == pytest.approx(0.5, abs=1e-5)
    half = impact_of(editor.tower, made, everything(made, 0.5))
    assert half.energy == pytest.approx(0.25, abs=1e-5)
    assert half.drift == pytest.approx(0.125, abs=1e-5)
    assert impact_of(editor.tower, made, everything(made, 1.0)).vectors == 0


def test_beyond_a_limit_it_asks(editor, made):
    small = impact_of(editor.tower, made, {(2, 0, 7): 0.0})
    small.check()
    assert small.excess == ""
    large = impact_of(editor.tower, made, everything(made, 0.0))
    with pytest.raises(
        LargeEdit, match=r"96 of 96 vectors of the vision tower changes 100% .* drift of 0\.50 .* add --yes"
    ):
        large.check("add --yes")
    for wrong in ({"energy": MOST_ENERGY + 1e-9, "drift": 0.0}, {"energy": 0.0, "drift": MOST_DRIFT + 1e-9}):
        with pytest.raises(LargeEdit):
            replace(large, **wrong).check()
    replace(large, energy=MOST_ENERGY, drift=MOST_DRIFT).check()


def test_explanations_by_chance_are_counted(editor, made):
    found = made.beyond_chance().any(dim=-1)
    assert impact_of(editor.tower, made, everything(made, 0.0)).by_chance == int((~found).sum())
    unknown = impact_of(editor.tower, replace(made, significance=None), everything(made, 0.0))
    assert unknown.by_chance is None
    assert "not known" in str(unknown)


def test_a_scaled_edit(made):
    gains = by_name(made, 0.0, layers=[0], heads=[0])
    assert set((gains * 0.5).gain.values()) == {0.5}
    assert (gains * 1.0).gain == gains.gain
    with pytest.raises(InputError):
        gains * float("nan")


def test_the_table_shows_what_counted(editor, made):
    draft = editor.with_decomposition(made).suppress("boat", threshold=0.3)
    rows = gain_rows(made, draft.gains)
    assert [(row["layer"], row["head"], row["vector"]) for row in rows] == draft.spec.keys
    near = 0
    for row in rows:
        (item,) = row["evidence"]
        explained = made.explain(row["layer"], row["head"], row["vector"], item["pole"])
        assert (row["pole"], row["fidelity"], row["p_value"]) == (item["pole"], explained.fidelity, explained.p_value)
        weights = dict(explained.concepts)
        total = sum(weights.values())
        counted = {one["concept"]: weights[one["concept"]] / total * one["cosine"] for one in item["near"]}
        assert counted == pytest.approx({one["concept"]: one["share"] for one in item["near"]}, abs=1e-5)
        assert sum(counted.values()) + weights.get("boat", 0) / total == pytest.approx(row["share"], abs=1e-4)
        near += len(counted)
    assert near > 0
    text = gain_table(rows)
    assert text.count("(chance)") == sum(row["beyond_chance"] is False for row in rows) > 0
    assert "near:" in text
    unknown = gain_table(gain_rows(replace(made, significance=None), draft.gains))
    assert "(chance)" not in unknown
    assert gain_rows(made, Gains({(0, 0, 0): 1.0})) == []
