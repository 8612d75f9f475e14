"""A recipe that starts from an existing decomposition: imported or made before, the same in every run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from sith_hf.concepts import ConceptDictionary
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.errors import ArtifactError, BaseMismatch, InputError, SithError
from sith_hf.recipe import Recipe, run_recipe
from sith_hf.reference import import_reference
from tests.support import published
from tests.support.made import WORDS
from tests.support.raw import digest, tree
from tests.support.tiny import save_clip

LINES = (*WORDS, "", WORDS[0].upper(), WORDS[5])
EDIT = "edits: [{concepts: [red], threshold: 0.2}]\n"


class Home(NamedTuple):
    """A folder with ``base``, ``other`` (other weights), ``theirs`` (imported), and the authors' concepts and mean."""

    folder: Path
    imported: Decomposition

    def recipe(self, folder: Path, decompose: str, more: str = "", name: str = "mine.yaml", edit: str = EDIT) -> Path:
        """A recipe in a copy of this folder."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        text = f"title: t\nbase: {{model: base}}\ndecompose: {decompose}\n{edit}{more}"
        (folder / name).write_text(text)
        return folder / name


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    editor = SithEditor.from_pretrained(save_clip(folder / "base"))
    save_clip(folder / "other", seed=3)
    (folder / "concepts.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    mean = np.linspace(0, 0.2, 24)
    torch.save(torch.tensor(mean).float(), folder / "image_mean.pt")
    loaded = editor.loaded
    files = published.publish(folder / "pt", loaded.model, loaded.tokenizer, LINES, layers=[1, 2], mean=mean)
    found = import_reference(
        files, editor.tower, folder / "concepts.txt", editor.encode, name="b", image_mean=torch.tensor(mean).float()
    )
    found.dictionary.save_pretrained(folder / "theirs")
    found.decomposition.save_pretrained(folder / "theirs")
    return Home(folder, found.decomposition)


def results(folder):
    """All files but the record of the request, which differs between a recipe and its resolved form."""
    return {name: content for name, content in tree(folder).items() if name != ".request.json"}


def test_the_edit_is_made_from_the_imported_explanations(home, tmp_path):
    run = run_recipe(home.recipe(tmp_path / "in", "{from: theirs}"), tmp_path / "out")
    editor = SithEditor.from_pretrained(home.folder / "base").with_decomposition(home.imported)
    assert run.spec.keys == editor.suppress("red", threshold=0.2).spec.keys
    assert len(run.spec) > 0
    # The control: our own decomposition, without their mean, chooses others.
    made = editor.decompose(ConceptDictionary.from_texts(WORDS), layers=[1, 2], poles="+")
    assert editor.with_decomposition(made).suppress("red", threshold=0.2).spec.keys != run.spec.keys
    theirs = home.folder / "theirs"
    for name in ("decomposition", "dictionary"):
        path = f"{name}.safetensors"
        assert digest(run.folder / "decomposition" / path) == digest(theirs / path)


def test_its_recipe_gives_the_same_bytes_again(home, tmp_path):
    relevance = "edits: [{rule: relevance, classes: [bird, car], sparsity: 3}]\n"
    path = home.recipe(tmp_path / "in", "{from: theirs, image_mean: image_mean.pt}", edit=relevance)
    first = run_recipe(path, tmp_path / "out")
    resolved = Recipe.from_file(first.folder / "recipe.yaml").decompose
    assert resolved.from_ == "decomposition"
    assert resolved.sha256 == digest(home.folder / "theirs" / "decomposition.safetensors")
    assert (resolved.layers, resolved.sparsity, resolved.poles) == ((1, 2), 4, "+")
    assert resolved.image_mean == "inputs/image_mean.pt"
    # Every input but the base is in the folder.
    shutil.rmtree(tmp_path / "in" / "theirs")
    (tmp_path / "in" / "image_mean.pt").unlink()
    again = run_recipe(first.folder / "recipe.yaml", tmp_path / "again")
    assert results(again.folder) == results(first.folder)
    card = (first.folder / "edited" / "sith" / "recipe.yaml").read_text()
    assert resolved.sha256 in card
    assert str(tmp_path) not in card.replace(str(tmp_path / "in" / "base"), "")


def test_another_file_in_its_place_is_refused(home, tmp_path):
    first = run_recipe(home.recipe(tmp_path / "in", "{from: theirs}"), tmp_path / "out")
    editor = SithEditor.from_pretrained(home.folder / "base")
    other = editor.decompose(ConceptDictionary.from_texts(WORDS), layers=[1, 2], poles="+")
    other.save_pretrained(first.folder / "decomposition")
    with pytest.raises(InputError, match="the sha256 is"):
        run_recipe(first.folder / "recipe.yaml", tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("place", ["theirs", "theirs/decomposition.safetensors", "{full}"])
def test_a_path_starts_from_the_recipe(home, tmp_path, place, monkeypatch):
    path = home.recipe(tmp_path / "in", f"{{from: '{place.format(full=home.folder / 'theirs')}'}}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(run_recipe(path, tmp_path / "out").spec) > 0


def test_a_run_starts_from_the_decomposition_of_another(home, tmp_path):
    """Such a folder has no dictionary: the recipe names it."""
    texts = f"dictionary: {{texts: {json.dumps(WORDS[:9])}}}\n"
    texts += "large_edit: true\n"
    first = run_recipe(home.recipe(tmp_path / "in", "{layers: [-1], sparsity: 3}", texts), tmp_path / "out")
    path = home.recipe(tmp_path / "in", "{from: ../out/decomposition}", texts, "next.yaml")
    assert run_recipe(path, tmp_path / "next").spec == first.spec
    # Without it, rules that read explanations alone still work, again too.
    accepted = "large_edit: true\n"
    bare = run_recipe(home.recipe(tmp_path / "in", "{from: ../out/decomposition}", accepted), tmp_path / "third")
    assert bare.spec == first.spec
    assert results(run_recipe(bare.folder / "recipe.yaml", tmp_path / "again").folder) == results(bare.folder)
    relevance = "edits: [{rule: relevance, classes: [bird, car], sparsity: 3}]\n"
    path = home.recipe(tmp_path / "in", "{from: ../out/decomposition}", edit=relevance)
    with pytest.raises(InputError, match=r"dictionary\.safetensors beside"):
        run_recipe(path, tmp_path / "fourth")
    path = home.recipe(tmp_path / "in", "{from: ../out/decomposition}", "dictionary: {texts: [red, blue]}\n")
    with pytest.raises(InputError, match="names other concepts"):
        run_recipe(path, tmp_path / "fifth")


@pytest.mark.parametrize(
    "given",
    ["layers: [1, 2]", "layers: [-2, -1]", "sparsity: 4", "poles: '+'", "method: comp", "coherence_weight: 0.3",
     "fold: true", "centre: true", "centre: null", "rank: 8", "image_mean: image_mean.pt"],
)  # fmt: skip
def test_settings_that_it_has_are_accepted(home, tmp_path, given):
    run = run_recipe(home.recipe(tmp_path / "in", f"{{from: theirs, {given}}}"), tmp_path / "out")
    assert run.decomposition.explanations() == home.imported.explanations()


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ("layers: [2]", "decompose.layers: the recipe says (2,)"),
        ("sparsity: 5", "was made with 4"),
        ("poles: '+-'", "decompose.poles"),
        ("method: omp", "decompose.method"),
        ("coherence_weight: 0.2", "decompose.coherence_weight"),
        ("fold: false", "decompose.fold"),
        ("rank: 7", "decompose.rank"),
        ("image_mean: none.pt", "none.pt"),
        ("image_mean: zero.pt", "another image mean"),
    ],
)
def test_settings_that_it_lacks_are_refused(home, tmp_path, given, part):
    path = home.recipe(tmp_path / "in", f"{{from: theirs, {given}}}")
    torch.save(torch.zeros(24), tmp_path / "in" / "zero.pt")
    with pytest.raises(InputError) as refused:
        run_recipe(path, tmp_path / "out")
    assert part in str(refused.value)
    assert [item.name for item in tmp_path.iterdir()] == ["in"]


def test_a_recipe_that_extends_keeps_its_settings_as_expectations(home, tmp_path):
    home.recipe(tmp_path / "in", "{layers: [1, 2], sparsity: 4, poles: '+'}", name="below.yaml")
    (tmp_path / "in" / "mine.yaml").write_text("extends: below.yaml\ntitle: mine\n")
    override = ["decompose.from=theirs"]
    assert len(run_recipe(tmp_path / "in" / "mine.yaml", tmp_path / "out", overrides=override).spec) > 0
    with pytest.raises(InputError, match=r"decompose\.sparsity"):
        run_recipe(tmp_path / "in" / "mine.yaml", tmp_path / "no", overrides=[*override, "decompose.sparsity=5"])


def test_a_path_of_the_recipe_below_starts_from_its_own_folder(home, tmp_path):
    home.recipe(tmp_path / "in", "{from: theirs}", name="below.yaml")
    (tmp_path / "child").mkdir()
    (tmp_path / "child" / "mine.yaml").write_text("extends: ../in/below.yaml\ntitle: mine\n")
    assert len(run_recipe(tmp_path / "child" / "mine.yaml", tmp_path / "out").spec) > 0


def test_the_concepts_that_a_recipe_names_are_compared(home, tmp_path):
    run_recipe(home.recipe(tmp_path / "in", "{from: theirs}", "dictionary: {file: concepts.txt}\n"), tmp_path / "out")
    for wrong in ("{texts: [red, blue]}", "{file: concepts.txt, template: 'a {}'}"):
        path = home.recipe(tmp_path / "in", "{from: theirs}", f"dictionary: {wrong}\n")
        with pytest.raises(InputError, match="dictionary: the recipe and the decomposition"):
            run_recipe(path, tmp_path / "no")


@pytest.mark.parametrize(
    ("decompose", "kind", "part"),
    [
        ("{from: nowhere/at/all}", ArtifactError, "nowhere/at/all"),
        ("{from: base}", ArtifactError, "decomposition.safetensors"),
        ("{from: concepts.txt}", ArtifactError, "concepts.txt"),
        ("{from: 3}", InputError, "decompose.from"),
        ("{form: theirs}", InputError, "did you mean from"),
        ("{from_: theirs}", InputError, "did you mean from"),
        ("{sha256: abc}", InputError, "name from too"),
        ("{from: theirs, sha256: abc}", InputError, "the recipe expects abc"),
    ],
)
def test_what_is_no_decomposition_is_refused(home, tmp_path, decompose, kind, part):
    with pytest.raises(kind) as refused:
        run_recipe(home.recipe(tmp_path / "in", decompose), tmp_path / "out")
    assert part in str(refused.value)
    assert isinstance(refused.value, SithError)
    assert [item.name for item in tmp_path.iterdir()] == ["in"]


def test_it_goes_with_its_base(home, tmp_path):
    path = home.recipe(tmp_path / "in", "{from: theirs}")
    with pytest.raises(BaseMismatch):
        run_recipe(path, tmp_path / "out", overrides=["base.model=other"])
