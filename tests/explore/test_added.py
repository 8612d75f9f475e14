"""The line about the basket: read aloud, and the keys of the vectors in it."""

import re

from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.html import render


def keys(*items):
    html = render("added.html.j2", items=Basket(items).items)
    return re.search('data-keys="([^"]*)"', html)[1].split(), html


def test_it_names_the_vectors_and_the_last_item():
    vector, concept = Item(0.0, vector=(3, 1, 0)), Item(0.0, concept='<b>" vector:5,0,0')
    found, html = keys(vector, concept)
    assert found == ["vector:3,1,0"], "a concept is no vector, whatever its text is"
    assert "The edit has 2 items" in html
    assert "&lt;b&gt;" in html
    assert keys() == ([], keys()[1])
    assert "The edit" not in keys()[1]
