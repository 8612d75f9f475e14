"""``sith-hf show``: a decomposition or an edit spec, for people and as JSON."""

from __future__ import annotations

import pytest

from sith_hf.edits import EditSpec
from tests.support.cli import sith, succeeded


def test_a_decomposition(work):
    ran = succeeded(sith("show", work / "d", "--json"))
    assert len(ran.data) == 3 * 4 * 3 * 2
    assert set(ran.data[0]) >= {"layer", "head", "vector", "pole", "concepts", "fidelity"}
    assert ran.err == ""
    some = sith("show", work / "d", "--layers", "-1", "--heads", "0,3", "--top", "2", "--json").data
    assert {(row["layer"], row["head"], row["vector"]) for row in some} == {(2, h, v) for h in (0, 3) for v in (0, 1)}
    assert {"beyond_chance", "p_value", "p_head", "chance", "head_chance"} <= set(ran.data[0])
    every = succeeded(sith("show", work / "d", "--top", "8", "--all")).out
    assert "(weight)" in every
    assert every.count("(chance)") > 100
    # Random weights: nothing is beyond chance.
    silent = succeeded(sith("show", work / "d", "--top", "8")).out
    assert silent == (
        "No vector of 96 has words better than chance\n"
        "192 of 192 poles are silent: explained no better than chance (false discovery rate 5 %); --all shows them.\n"
    )
    loud = succeeded(sith("show", work / "d", "--top", "8", "--fdr", "0.999")).out
    assert "of 96 vectors have words better than chance: " in loud.splitlines()[0]
    assert "--details shows all 12" in loud
    whole = succeeded(sith("show", work / "d", "--top", "8", "--fdr", "0.999", "--details")).out
    assert len(whole.splitlines()) > len(loud.splitlines())
    one = succeeded(sith("show", work / "d", "--layers", "0", "--heads", "1", "--fdr", "0.999")).out
    assert one.startswith("Layer 0, head 1 writes ")
    assert "(weight)" in loud
    assert "(chance)" not in loud


def test_an_edit_spec(work):
    spec = EditSpec.from_pretrained(work / "spec")
    assert sith("show", work / "spec", "--json").data == spec.rows()
    assert str(len(spec)) in succeeded(sith("show", work / "spec")).out
    assert sith("show", work / "edited", "--json").data == spec.rows()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "ARTIFACT"),
        (("{work}/none",), "none"),
        (("{work}/clip",), "clip"),
        (("{work}/concepts.txt",), "concepts.txt"),
        (("x" * 5000,), "x" * 100),
        (("{work}/d/dictionary.safetensors",), "sith-hf/dictionary"),
        (("{work}/d", "--layers", "9"), "9"),
        (("{work}/d", "--heads", "4"), "4"),
        (("{work}/d", "--heads", "-1"), "-1"),
        (("{work}/d", "--top", "0"), "--top"),
        (("{work}/d", "--fdr", "1"), "fdr must be a false discovery rate above 0 and below 1"),
    ],
)
def test_refused(refuses, words, named):
    refuses(("show", *words), named)
