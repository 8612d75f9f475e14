"""The map against float64 literals, and its HTML."""

import re
from itertools import product

import pytest
import torch

from sith_hf.errors import InputError
from sith_hf.explore.html import render
from sith_hf.explore.map_view import concept_map, edit_map, energy_map, unknown_map
from tests.support.random_decomposition import HEADS, LAYERS, RANK, random_decomposition

PLACES = list(product(range(len(LAYERS)), range(HEADS)))


@pytest.fixture(scope="module")
def made():
    return random_decomposition()


def colours(view):
    return torch.tensor([[cell.colour for cell in row] for row in view.rows], dtype=torch.float64)


def relative(values):
    """A literal's values, from (position, head), relative to the largest."""
    found = torch.tensor([[values[p, h] for h in range(HEADS)] for p in range(len(LAYERS))], dtype=torch.float64)
    return found / found.max()


def energy(made, p, h, v):
    return float(made.singular_values[p, h, v]) ** 2 / float(made.energy[p, h])


def heard(made, p, h, v):
    return [not made.explain(LAYERS[p], h, v, pole).silent for pole in "+-"]


def test_energy_beyond_chance(made):
    literal = {(p, h): sum(energy(made, p, h, v) for v in range(RANK) if any(heard(made, p, h, v))) for p, h in PLACES}
    everything = {(p, h): sum(energy(made, p, h, v) for v in range(RANK)) for p, h in PLACES}
    found = colours(energy_map(made))
    torch.testing.assert_close(found, relative(literal), rtol=1e-6, atol=1e-9)
    assert not torch.allclose(found, relative(everything), rtol=1e-2)


def test_the_texts_are_the_values_of_their_own_head(made):
    for row in energy_map(made).rows:
        for cell in row:
            p, h = LAYERS.index(cell.layer), cell.head
            value = 100 * sum(energy(made, p, h, v) for v in range(RANK) if any(heard(made, p, h, v)))
            assert abs(float(cell.text) - value) <= 0.5
            assert cell.label.startswith(f"layer {cell.layer}, head {cell.head}: {cell.text} %")


def test_without_p_values_it_shows_the_energy_and_says_why():
    made = random_decomposition(known=False)
    view = energy_map(made)
    torch.testing.assert_close(colours(view), relative({place: float(made.energy[place]) for place in PLACES}))
    assert "no p-values" in view.note
    assert "no p-values" not in energy_map(random_decomposition()).note


def test_energy_in_words_about_a_concept(made):
    query = made.embeddings[made.texts.index("beach")]
    share = made.share(query[None])

    def value(p, h, silent=False):
        found = 0.0
        for v in range(RANK):
            counts = [silent or each for each in heard(made, p, h, v)]
            found += energy(made, p, h, v) * max(c * float(x) for c, x in zip(counts, share[p, h, v], strict=True))
        return found

    found = colours(concept_map(made, "beach", query))
    torch.testing.assert_close(found, relative({place: value(*place) for place in PLACES}), rtol=1e-5, atol=1e-9)
    assert not torch.allclose(found, relative({place: value(*place, silent=True) for place in PLACES}), rtol=1e-2)


def test_a_concept_that_no_vector_mentions_is_said_so(made):
    far = -made.atoms.sum(0)
    view = concept_map(made, "nothing", far)
    assert not colours(view).any()
    assert view.note == "No vector has words beyond chance about nothing."


def test_an_edit(made):
    gain = {(3, 1, 0): 0.0, (3, 1, 2): 3.0, (5, 0, 1): 1.0}
    view = edit_map(made, gain)
    texts = {(cell.layer, cell.head): cell.text for row in view.rows for cell in row}
    assert {place for place, text in texts.items() if text} == {(3, 1)}, "a gain of 1 changes nothing"
    assert texts[3, 1] == "2"
    taken = 100 * (energy(made, 0, 1, 0) + 4 * energy(made, 0, 1, 2))
    (cell,) = [cell for row in view.rows for cell in row if (cell.layer, cell.head) == (3, 1)]
    assert f"2 of {RANK} vectors changed, {taken:.0f} % of its energy" in cell.label
    with pytest.raises(InputError):
        edit_map(made, {(4, 0, 0): 0.0})


def test_the_open_head_is_marked_and_one_cell_is_in_the_order_of_tab(made):
    html = render("map.html.j2", view=energy_map(made), open=(5, 2))
    cells = [" ".join(cell.split()) for cell in re.findall(r"<button[^>]*>", html)]
    assert len(cells) == len(PLACES)
    assert [c for c in cells if 'aria-pressed="true"' in c] == [c for c in cells if 'tabindex="0"' in c]
    (opened,) = [cell for cell in cells if 'aria-pressed="true"' in cell]
    assert 'data-layer="5" data-head="2"' in opened


def test_a_problem_stands_in_the_map(made):
    assert 'role="alert">no &lt;b&gt;' in render(
        "map.html.j2", view=unknown_map(made, "A concept", "no <b>"), open=(3, 0)
    )
    assert "alert" not in render("map.html.j2", view=energy_map(made), open=(3, 0))
