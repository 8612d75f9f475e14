"""Search: what is in the box, and the ranked poles."""

from dataclasses import replace

import pytest
import torch

from sith_hf.concepts import ConceptDictionary
from sith_hf.errors import InputError
from sith_hf.explore import Explorer
from sith_hf.explore.html import render
from sith_hf.explore.search_view import LONGEST, MOST, answer_to, concepts_of, search_view
from tests.support.random_decomposition import random_decomposition


@pytest.fixture(scope="module")
def explorer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    random_decomposition().save_pretrained(folder)
    return Explorer.open(folder)


def html(view):
    return render("search.html.j2", view=view)


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("beach", ["beach"]),
        (" beach ,  ice   cream;\n\nbird\tcall,", ["beach", "ice cream", "bird call"]),
        ("beach, beach", ["beach"]),
        (" ,\n;", []),
        ("", []),
    ],
)
def test_concepts_are_separated_by_commas_and_lines(text, concepts):
    assert concepts_of(text) == concepts


@pytest.mark.parametrize("separator", [",", "\n", "; "])
def test_a_pasted_dictionary_is_refused_with_the_limit(explorer, separator):
    view = search_view(explorer, separator.join(f"concept {n}" for n in range(10_000)))
    assert f"at most {MOST}" in view.problem
    assert not view.answers
    assert 'role="alert"' in html(view)
    assert len(concepts_of(separator.join(f"c{n}" for n in range(MOST)))) == MOST
    with pytest.raises(InputError, match=f"there are {MOST + 1} concepts"):
        concepts_of(separator.join(f"c{n}" for n in range(MOST + 1)))


def test_an_endless_concept_is_refused(explorer):
    assert f"at most {LONGEST} characters" in search_view(explorer, "x" * (LONGEST + 1)).problem
    assert not search_view(explorer, "beach").problem


def test_nothing_to_search_for_is_a_hint_with_a_word_that_is_found(explorer):
    view = search_view(explorer, " ")
    assert view.hint
    assert not view.problem
    example = view.hint.partition("such as ")[2].partition(";")[0]
    assert search_view(explorer, example).answers[0].results


@pytest.mark.parametrize("concept", ["beach", "ÖKOSYSTEM"])
def test_the_ranking_is_that_of_find_with_silent_poles_apart(explorer, concept):
    matches = explorer.decomposition.find(concept, limit=None)
    answer = answer_to(explorer, concept, limit=1000)

    def keys(results):
        return [(item.layer, item.head, item.vector, item.pole) for item in results]

    def wanted(silent):
        found = [match.explanation for match in matches if match.explanation.silent is silent]
        return keys(found)

    assert keys(answer.results) == wanted(False) != []
    assert keys(answer.silent) == wanted(True) != []
    by_key = dict(zip(keys(answer.results), answer.results, strict=True))
    for match in matches:
        if not match.explanation.silent:
            item = by_key[keys([match.explanation])[0]]
            assert item.strength == pytest.approx(match.strength)
            assert item.share == pytest.approx(match.share)
    assert max(item.strength for item in (*answer.results, *answer.silent)) > 0


def test_silent_poles_do_not_fill_the_list(explorer):
    answer = answer_to(explorer, "beach", limit=2)
    assert [len(answer.results), len(answer.silent)] == [2, 2]
    assert answer.results == answer_to(explorer, "beach", limit=1000).results[:2]


def test_several_words_have_an_answer_each(explorer):
    view = search_view(explorer, "beach, bird, behch")
    assert [answer.concept for answer in view.answers] == ["beach", "bird", "behch"]
    assert [bool(answer.results) for answer in view.answers] == [True, True, False]
    assert view.answers[2].meant == "beach"
    assert "--model" in view.answers[2].problem
    assert not answer_to(explorer, "qqqqqqq").meant
    assert 'data-concept="beach">beach</button>?' in html(view)


def test_a_concept_of_the_dictionary_beside_it_needs_no_model(tmp_path):
    made = random_decomposition()
    dictionary = ConceptDictionary.from_texts([*made.texts, "lighthouse"])
    rows = torch.cat([made.embeddings, made.embeddings[:1]])
    dictionary = replace(dictionary, embeddings=rows, encoder="tiny", encoder_sha256="0")
    settings = {**made.settings, "dictionary_sha256": dictionary.sha256, "encoder_sha256": "0"}
    replace(made, settings=settings).save_pretrained(tmp_path)
    assert answer_to(Explorer.open(tmp_path), "lighthouse").problem
    dictionary.save_pretrained(tmp_path)
    explorer = Explorer.open(tmp_path)
    assert answer_to(explorer, "lighthouse").results == answer_to(explorer, "beach").results
