"""Numbers and lists read right for one and for many, and a table and a card write the same digits."""

from __future__ import annotations

import pytest

from sith_hf.core.formatting import count, counted, factor, fraction, interval, listed, percent, signed, weight
from sith_hf.core.tables import table


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (fraction(0.0625), "0.062"),
        (fraction(-0.0001), "0.000"),
        (fraction(-0.25), "-0.250"),
        (signed(-0.0001), "+0.000"),
        (signed(0.25), "+0.250"),
        (interval((-0.5, 0.00001)), "[-0.500, +0.000]"),
        (weight(0.375), "0.38"),
        (percent(1.0705), "107%"),
        (percent(-0.001), "0%"),
        (percent(-0.2), "-20%"),
        (factor(1.5), "1.5"),
        (factor(-1.0), "-1"),
        (count(1536), "1,536"),
        (counted(1, "vector"), "1 vector"),
        (counted(0, "vector"), "0 vectors"),
        (counted(24576, "vector"), "24,576 vectors"),
        (counted(2, "category", "categories"), "2 categories"),
        (listed([]), ""),
        (listed(["a"]), "a"),
        (listed(["a", "b"]), "a and b"),
        (listed(["a", "b", "c"]), "a, b and c"),
        (listed(list("abcde"), 2), "a, b and 3 more"),
        (listed(list("ab"), 2), "a and b"),
    ],
)
def test_texts(shown: str, text: str) -> None:
    assert shown == text


def test_a_table_writes_a_figure_as_a_card_does() -> None:
    values = (0.0625, 0.66249, 1.0, -0.0002)
    assert table(["value"], [[value] for value in values]).split()[-4:] == [fraction(value) for value in values]
