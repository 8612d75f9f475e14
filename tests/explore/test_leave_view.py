"""What leaves the explorer: equal edits by every way, recipes that run, and tokens that nobody else sees."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from sith_hf.core.strict_yaml import read_yaml
from sith_hf.decomposition import Decomposition
from sith_hf.edits import EditSpec
from sith_hf.errors import BaseMismatch, HubError, InputError, LargeEdit
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.edit_view import draft, preview
from sith_hf.explore.leave_view import finished, push, recipe_text, save, title_of, write_files
from sith_hf.recipe import run_recipe
from tests.support.hub import leaks
from tests.support.hub_worker import Refused

pytest_plugins = ["tests.support.explored", "tests.support.push_fixtures"]

BASKET = Basket(
    (Item(0.0, concept="beach"), Item(1.5, vector=(2, 1, 0)), Item(-1.0, concept="red"), Item(1.0, vector=(0, 0, 0)))
)
VECTORS = Basket((Item(0.5, vector=(2, 1, 0)),))


@pytest.fixture
def hub(place):
    place.heal()
    place.forget()
    return place


def test_the_files_are_the_edit_and_a_recipe_that_makes_it(with_model, tmp_path):
    basket = Basket((Item(0.0, concept="beach"), Item(1.5, vector=(2, 1, 0)), Item(1.0, vector=(0, 0, 0))))
    spec, recipe = write_files(with_model, basket, tmp_path)
    assert EditSpec.from_pretrained(spec) == draft(with_model, basket).edit.spec
    ran = run_recipe(recipe, tmp_path / "ran")
    assert ran.spec == EditSpec.from_pretrained(spec)
    saved = save(with_model, basket, str(tmp_path / "saved"))
    weights = [(folder / "model.safetensors").read_bytes() for folder in (ran.folder / "edited", tmp_path / "saved")]
    assert weights[0] == weights[1]
    assert "keeps" in saved.effect


def test_the_recipe_without_a_model_makes_what_the_page_shows(with_model, without_model, tmp_path):
    concept = next(
        item.name
        for item in preview(without_model, _all(without_model.decomposition)).items
        if not item.problem and item.vectors
    )
    basket = Basket((Item(0.0, concept=concept),))
    (recipe,) = write_files(without_model, basket, tmp_path)
    data = read_yaml(recipe.read_text(), "recipe")
    data["base"]["model"] = with_model.model
    recipe.write_text(json.dumps(data))
    ran = run_recipe(recipe, tmp_path / "ran")
    gains = draft(without_model, basket).gains.gain
    assert dict(zip(ran.spec.keys, ran.spec.gain.tolist(), strict=True)) == gains


def _all(decomposition: Decomposition) -> Basket:
    return Basket(tuple(Item(0.0, concept=text) for text in decomposition.texts))


def test_a_saved_checkpoint_records_its_recipe_without_folders_of_this_machine(with_model, tmp_path):
    save(with_model, VECTORS, str(tmp_path / "saved"))
    recipe = (tmp_path / "saved" / "sith" / "recipe.yaml").read_text()
    assert with_model.source not in recipe
    assert with_model.source in recipe_text(with_model, VECTORS)
    assert with_model.source not in recipe_text(replace(with_model, local=False), VECTORS)
    assert "rule: vectors" in (tmp_path / "saved" / "README.md").read_text()


def test_nothing_and_items_that_cannot_be_used_do_not_leave(with_model, without_model, tmp_path):
    for basket in (Basket(), Basket((Item(1.0, concept="beach"),))):
        with pytest.raises(InputError, match="changes nothing"):
            write_files(with_model, basket, tmp_path)
    bad = Basket((*VECTORS.items, Item(0.0, vector=(9, 0, 0))))
    for leave in (finished, recipe_text):
        with pytest.raises(InputError, match="layer 9, head 0, vector 0 cannot be edited"):
            leave(with_model, bad)
    with pytest.raises(InputError, match="--model"):
        finished(without_model, VECTORS)
    assert not list(tmp_path.iterdir())


def test_a_large_edit_needs_a_yes_and_its_recipe_says_it(with_model, tmp_path):
    places = [(layer, head, vector) for layer in (0, 1, 2) for head in (0, 1) for vector in (0, 1)]
    large = Basket(tuple(Item(-1.0, vector=place) for place in places))
    with pytest.raises(LargeEdit, match="Accept a large edit"):
        save(with_model, large, str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()
    assert "large_edit: true" in recipe_text(with_model, large)
    assert "large_edit" not in recipe_text(with_model, VECTORS)
    assert save(with_model, large, str(tmp_path / "saved"), large=True).changed


def test_a_page_that_others_reach_saves_nothing_and_uses_no_token_of_its_machine(with_model, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "s" * 30)
    remote = replace(with_model, local=False)
    with pytest.raises(InputError, match="saves nothing"):
        save(remote, VECTORS, str(tmp_path / "saved"))
    with pytest.raises(HubError, match="your own token"):
        push(remote, VECTORS, "me/x", " ")
    assert not list(tmp_path.iterdir())
    given = []
    monkeypatch.setattr("sith_hf.explore.leave_view.push_edited", lambda *a, token, **o: given.append(token) or _push())
    for explorer, token in ((remote, ""), (remote, "hf_mine"), (with_model, "")):
        push(explorer, VECTORS, "me/x", token, dry_run=True)
    assert given == [False, "hf_mine", None]


def _push():
    lists = dict.fromkeys(("deleted", "unchanged", "others"), ())
    return SimpleNamespace(
        url="u", revision="main", dry_run=True, creates=True, compared=True, card_kept=None, card="# x",
        pull_request=None, sent={}, reasons={}, **lists,
    )  # fmt: skip


@pytest.mark.parametrize("repo", ["", "name", "../x", "a/b/c", "me/<script>"])
def test_a_repository_has_a_namespace_and_a_name(with_model, repo):
    with pytest.raises(InputError, match="namespace/name"):
        push(with_model, VECTORS, repo, "hf_mine", dry_run=True)


def test_a_dry_run_shows_files_and_card_with_its_picture_inside(with_model):
    view = push(with_model, VECTORS, "me/x", "", dry_run=True)
    assert {"model.safetensors", "sith/edit_spec.safetensors", "sith/recipe.yaml", "README.md"} <= {
        name for name, _ in view.sent
    }
    assert "Nothing was sent" in view.title
    assert "](data:image/png;base64," in view.card
    assert "](sith/" not in view.card
    assert not view.card.startswith("---")
    assert "tags:" in view.metadata


PUSH = """
from sith_hf.explore import Explorer
from sith_hf.explore.basket import Basket, Item
from sith_hf.explore.leave_view import push
explorer = Explorer.open(source, model)
basket = Basket((Item(0.5, vector=(2, 1, 0)),))
view = push(explorer, basket, repo, token_given, dry_run=dry_run)
out = [view.title, view.url, view.sent, view.card]
"""


@pytest.mark.slow
def test_a_push_uses_the_reader_s_token_and_shows_it_to_nobody(hub, worker, with_model):
    def call(token, dry_run=False):
        values = {"source": with_model.source, "model": with_model.model, "repo": "me/explored", "dry_run": dry_run}
        return worker.do(PUSH, None, token_given=token, **values)

    call(hub.token, dry_run=True)
    assert ("model", "me/explored") not in hub.store.repos
    title, _, sent, _ = call(f" {hub.token}\n")
    assert "Published" in title
    assert {name for name, _ in sent} <= set(hub.store.repos["model", "me/explored"].resolve("main").files)
    wrong = "hf_" + "w" * 30
    with pytest.raises(Refused) as caught:
        call(wrong)
    for token in (hub.token, wrong):
        assert token not in str(caught.value)
        assert token not in worker.heard
    assert leaks(hub, None, worker.home) == []


def test_a_title_says_what_is_done():
    title = title_of(BASKET)
    assert title == "suppresses beach, amplifies layer 2, head 1, vector 0 x1.5, inverts red"
    assert title_of(Basket()) == "changes nothing"
    many = Basket(tuple(Item(0.0, concept=f"c{n}") for n in range(9)))
    assert title_of(many) == "suppresses c0, c1, c2, c3 and 5 more"


def test_a_folder_of_no_user_is_a_folder_of_this_name(with_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = save(with_model, Basket((Item(0.0, vector=(2, 1, 0)),)), "~nobody-has-this-name/edited", large=True)
    assert saved.folder == "~nobody-has-this-name/edited"
    assert (tmp_path / saved.folder / "config.json").is_file()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_model_in_a_dtype_that_rounds_it_saves_nothing(with_model, tmp_path, dtype):
    rounded = replace(with_model, dtype=dtype)
    with pytest.raises(BaseMismatch, match=f"--dtype {dtype} may have rounded its weights: start again without it"):
        save(rounded, VECTORS, str(tmp_path / "edited"), large=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "auto", None])
def test_a_model_in_the_dtype_of_its_files_is_that_of_the_decomposition(with_model, dtype):
    assert replace(with_model, dtype=dtype).editor.decomposition is with_model.decomposition
