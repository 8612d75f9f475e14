"""The built-in concept list is well formed: unique, lower-case, short, printable, and large enough."""

import copy
from collections import Counter
from importlib.resources import files

import pytest
import yaml

MIN_CONCEPTS = 2200
MIN_PER_CATEGORY = 12
MAX_WORDS = 4
MAX_COLUMNS = 110


def repeated_categories(text):
    """Category names that stand in the YAML text more than once; a YAML load silently keeps only the last."""
    keys = [key.value for key, _ in yaml.compose(text, Loader=yaml.SafeLoader).value]
    return sorted(key for key, n in Counter(keys).items() if n > 1)


def _text_problems(what, text):
    """What is wrong with one concept or category name."""
    if not isinstance(text, str):  # an unquoted yes, off, null or number
        return [f"{what} {text!r} is not text"]
    problems = []
    if not text or text != " ".join(text.split()):
        problems.append(f"{what} {text!r} is empty or has stray blanks")
    if not (text.isascii() and text.isprintable()):
        problems.append(f"{what} {text!r} is not printable ASCII")
    if text != text.lower():
        problems.append(f"{what} {text!r} is not lower-case")
    return problems


def find_problems(categories):
    """Everything wrong with a `{category: [concept, ...]}` mapping, as a list of sentences."""
    problems = []
    seen = {}
    for category, concepts in categories.items():
        problems += _text_problems("category", category)
        if not isinstance(concepts, list):
            problems.append(f"category {category!r} does not hold a list")
            continue
        if len(concepts) < MIN_PER_CATEGORY:
            problems.append(f"category {category!r} holds only {len(concepts)} concepts")
        for concept in concepts:
            wrong = _text_problems("concept", concept)
            problems += wrong
            if not isinstance(concept, str):
                continue
            if len(concept.split()) > MAX_WORDS:
                problems.append(f"concept {concept!r} is longer than {MAX_WORDS} words")
            if concept in seen:
                problems.append(f"concept {concept!r} is duplicated, in {seen[concept]!r} and {category!r}")
            seen.setdefault(concept, category)
    if len(seen) < MIN_CONCEPTS:
        problems.append(f"only {len(seen)} concepts")
    return problems


@pytest.fixture(scope="module")
def source():
    return (files("sith_hf.concepts") / "builtin.yaml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(source):
    return yaml.safe_load(source)


@pytest.fixture
def categories(parsed):
    return copy.deepcopy(parsed)  # a test may spoil its copy


def test_list_is_well_formed(categories):
    assert find_problems(categories) == []


def test_no_category_occurs_twice(source):
    assert repeated_categories(source) == []


def test_lines_are_wrapped(source):
    assert [line for line in source.splitlines() if len(line) > MAX_COLUMNS] == []


# Negative controls: each fault, put into the real list, is reported, and nothing else is.


@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        (True, "is not text"),
        (None, "is not text"),
        ("padded concept ", "stray blanks"),
        ("double  blank", "stray blanks"),
        ("Capital letter", "not lower-case"),
        ("caf\u00e9", "not printable ASCII"),
        ("a concept of five words", "longer than 4 words"),
    ],
)
def test_faulty_concept_is_caught(categories, bad, expected):
    next(iter(categories.values())).append(bad)
    (problem,) = find_problems(categories)
    assert expected in problem


def test_duplicate_is_caught(categories):
    first, second = list(categories)[:2]
    concept = categories[first][0]
    categories[second].append(concept)
    (problem,) = find_problems(categories)
    assert problem == f"concept {concept!r} is duplicated, in {first!r} and {second!r}"


def test_small_category_is_caught(categories):
    first = next(iter(categories))
    del categories[first][MIN_PER_CATEGORY - 1 :]
    (problem,) = find_problems(categories)
    assert problem == f"category {first!r} holds only {MIN_PER_CATEGORY - 1} concepts"


def test_small_list_is_caught(categories):
    first = next(iter(categories))
    (problem,) = find_problems({first: categories[first]})
    assert problem == f"only {len(categories[first])} concepts"


def test_repeated_category_is_caught():
    assert repeated_categories("shapes: [circle]\ntools: [saw]\nshapes: [square]\n") == ["shapes"]
