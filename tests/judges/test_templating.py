"""Templates from other people's files: all of them end, and none is quoted."""

from __future__ import annotations

import pytest

from sith_hf.errors import InputError
from sith_hf.judges.prompts import Prompt
from sith_hf.judges.templating import MOST_CHARACTERS, MOST_TURNS, UnusableTemplate, compile_template, fill

LOOP, END = "{% for a in range(9999) %}", "{% endfor %}"
VALUES = {"concepts": '["sea"]', "weights": "[0.50]", "weighted_concepts": '[["sea", 0.50]]', "topic": '"t"'}


def filled(source: str) -> str:
    return fill(compile_template(source, {"part": "P"}), VALUES)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ concepts }} {{ weights }} {{ topic }}", '["sea"] [0.50] "t"'),
        ("{{ weighted_concepts }}", '[["sea", 0.50]]'),
        ("{% for n in range(1, 6) %}{{ n }}{% if not loop.last %},{% endif %}{% endfor %}", "1,2,3,4,5"),
        ("{% for a in [1, 2] %}{% for b in [3, 4] %}{{ a }}{{ b }} {% endfor %}{% endfor %}", "13 14 23 24 "),
        ("{% include 'part' %}{# no #}{{ topic | upper }}{{ 1 if topic == '' else 2 }}", 'P"T"2'),
        ("{% raw %}{{ 2 ** 9 }}{% endraw %}", "{{ 2 ** 9 }}"),
    ],
)
def test_what_ends_by_itself_is_allowed(source: str, text: str) -> None:
    assert filled(source) == text


@pytest.mark.parametrize(
    "source",
    [
        LOOP * 3 + "x" + END * 3, LOOP * 3 + END * 3, LOOP * 30 + END * 30, LOOP + "x" * 100 + END,
        "{% for a in concepts %}" * 6 + END * 6, "{{ 9 ** 9 ** 9 ** 9 }}", "{{ 'x' * 10000000000 }}",
        "{{ '%1000000000d' % 1 }}", "{{ 'a'.ljust(10000000000) }}", "{{ concepts | center(10000000000) }}",
        "{{ concepts | replace('', concepts) }}", "{{ lipsum(1000000) }}", "{% set a = concepts %}",
        "{{ concepts ~ concepts }}", "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% filter upper %}x{% endfilter %}", "{% if 1 %}" * 200 + "{% endif %}" * 200, "{{ " + "-" * 20_000 + "1 }}",
        "{{ " + "(" * 9_000 + "1" + ")" * 9_000 + " }}", "{{ range(99999999) }}", "{{ concepts.__class__ }}",
        "{{ 1" + "0" * 9_000 + " }}", "{{ nothing }}", "{{ concepts", "{% include topic %}", "{% include 'nothing' %}",
    ],
    ids=lambda source: source[:40],
)  # fmt: skip
def test_what_need_not_end_is_refused(source: str) -> None:
    with pytest.raises(UnusableTemplate):
        filled(source)


def test_the_bounds_are_those_that_are_said() -> None:
    turns, rest = divmod(MOST_TURNS, 100)
    assert rest == 0
    assert filled(f"{{% for a in range({turns}) %}}{{% for b in range(99) %}}{END}{END}") == ""
    with pytest.raises(UnusableTemplate, match=f"{MOST_TURNS:,} turns"):
        filled(f"{{% for a in range({turns}) %}}{{% for b in range(100) %}}{END}{END}")
    assert len(filled("x" * MOST_CHARACTERS)) == MOST_CHARACTERS
    with pytest.raises(UnusableTemplate, match=f"{MOST_CHARACTERS:,} characters"):
        filled("x" * (MOST_CHARACTERS + 1))


@pytest.mark.parametrize(
    "line",
    ["{{ %s }}", "{{ a %s }}", "{%% %s %%}", "{{ a | %s }}", "{{ a is %s }}", "{%% include '%s' %%}", "{{ '%s'.x() }}"],
)
def test_no_message_quotes_a_template(line: str) -> None:
    with pytest.raises(InputError) as refused:
        Prompt("mine.j2", "{{ concepts }}\n" + line % "hf_secret", "t")
    assert "mine.j2" in str(refused.value)
    assert "hf_secret" not in str(refused.value)
