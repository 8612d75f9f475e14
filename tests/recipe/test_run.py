"""``sith-hf run``: all outputs of a recipe or none, and the same bytes again."""

from __future__ import annotations

import json
import shutil
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from datasets import Dataset
from transformers import CLIPModel

from sith_hf.checkpoint.verify import verify
from sith_hf.cli import sith_hf as command
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError, LargeEdit
from sith_hf.evaluation.result import Evaluation
from sith_hf.hub import is_generated
from sith_hf.recipe import Recipe
from sith_hf.recipe.result import RECIPE, RunResult
from sith_hf.recipe.run import run_recipe
from sith_hf.world import embedded_checkpoint
from tests.support.chat_server import chat_server

decompose = import_module("sith_hf.decomposition.decompose")

SMALL = [
    "evaluate.tasks.0.data.pictures=6",
    "evaluate.tasks.1.data.pictures=12",
    "evaluate.resamples=100",
    "evaluate.baselines={random: 1, heads: true}",
    "evaluate.sweep={strengths: [0.5, 1.0]}",
    "decompose.layers=[-1]",
    "edits.0.layers=[-1]",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    return run_recipe("suppress-spurious", tmp_path_factory.mktemp("run") / "out", overrides=SMALL)


def files(folder: Path) -> dict[str, bytes]:
    """All results, without the record of the request, which differs between a recipe and its resolved form."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".request.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_it_leaves_what_it_promises(run: RunResult) -> None:
    assert EditSpec.from_pretrained(run.folder / "spec") == run.spec
    assert Decomposition.from_pretrained(run.folder / "decomposition").layers == (3,)
    assert verify(run.folder / "edited").ok
    edited = CLIPModel.from_pretrained(run.folder / "edited", output_loading_info=True)[1]
    assert not edited["missing_keys"]
    card = (run.folder / "edited" / "README.md").read_text()
    assert is_generated(card)
    assert "This edit was not evaluated" not in card
    assert "<summary>The recipe</summary>" in card
    assert set(run.to_json()["left_out"]) == {"evaluation.json"} == set(run.saved.reasons)
    assert run.saved.folder == run.folder / "edited"
    results = json.loads((run.folder / "results.json").read_text())
    assert results["contenders"] == ["base", "edited", "random 0", "whole heads"]
    assert [point["contender"] for point in results["sweep"]["points"]].count("edited") == 2
    assert (run.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert Evaluation.from_json(results).variants == tuple(results["contenders"])


def test_its_recipe_gives_the_same_bytes_again_and_overwrite_replaces_what_a_run_wrote(
    run: RunResult, tmp_path: Path
) -> None:
    # Over results that are there, as good as in a new folder.
    shutil.copytree(run.folder, tmp_path / "again")
    (tmp_path / "again" / "spec" / "old.txt").write_text("of another run")
    run_recipe(tmp_path / "again" / "recipe.yaml", tmp_path / "again", overwrite=True)
    assert files(tmp_path / "again") == files(run.folder)
    run_recipe(run.folder / "recipe.yaml", tmp_path / "other", overrides=["edits.0.gain=0.5", "evaluate=null"])
    weights = "edited/model.safetensors"
    assert files(tmp_path / "other")[weights] != files(run.folder)[weights]


def test_its_recipe_has_every_fingerprint_and_no_place_of_this_machine(run: RunResult) -> None:
    recipe = Recipe.from_file(run.folder / "recipe.yaml")
    assert recipe.base.sha256
    assert recipe.dictionary.sha256
    assert recipe.evaluate is not None
    assert all(task.data.sha256 for task in recipe.evaluate.tasks)
    assert (recipe.decompose.layers, recipe.decompose.rank, recipe.decompose.centre) == ((3,), 16, True)
    shared = (run.folder / "edited" / "sith" / "recipe.yaml").read_text()
    assert str(Path.home()) not in shared
    assert str(run.folder) not in shared + (run.folder / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("dictionary.sha256=" + "a" * 64, "dictionary: the sha256 is"),
        ("base.model=/nowhere/at/all", "/nowhere/at/all"),
        ("dictionary={file: none.txt}", "none.txt"),
        ("decompose.image_mean=none.safetensors", "none.safetensors"),
    ],
)
def test_what_cannot_be_run_leaves_nothing(tmp_path: Path, override: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        run_recipe("suppress-spurious", tmp_path / "out", overrides=[*SMALL, override])
    assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("evaluate.tasks.0.data.sha256=" + "a" * 64, "use the same data"),
        ("evaluate.tasks.0.data={dataset: ./misspelt, columns: {label: a, group: b}}", "misspelt"),
        ("edits.0.threshold=5.0", "chooses no vector"),
    ],
)
def test_a_late_mistake_costs_no_finished_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, part: str
) -> None:
    made: list[object] = []
    real = decompose.factored_svd
    monkeypatch.setattr(decompose, "factored_svd", lambda *factors: made.append(1) or real(*factors))
    with pytest.raises(InputError) as caught:
        run_recipe("suppress-spurious", tmp_path / "out", overrides=[*SMALL, override])
    assert part in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out.work"]
    assert made  # the control: they had to be made
    made.clear()
    run_recipe("suppress-spurious", tmp_path / "out", overrides=[*SMALL, "evaluate=null"])
    assert not made
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_refused_input_takes_its_parts_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    real = decompose.factored_svd

    def refuses(*factors: object) -> object:
        if made:
            raise InputError("damaged weights")
        made.append(1)
        return real(*factors)

    monkeypatch.setattr(decompose, "ROWS", 8)
    monkeypatch.setattr(decompose, "factored_svd", refuses)
    with pytest.raises(InputError, match="damaged weights"):
        run_recipe("suppress-spurious", tmp_path / "out", overrides=SMALL)
    assert made
    assert not list((tmp_path / "out.work").glob("decomposition/*"))
    assert list((tmp_path / "out.work").glob("encoding/*.part"))  # the control: the texts were not refused


def test_the_same_request_again_reads_the_results(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(run.folder, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(import_module("sith_hf.recipe.run"), "decompose_with", None)  # no work is done
        again = run_recipe("suppress-spurious", tmp_path / "out", overrides=SMALL)
    assert again.to_json()["evaluation"] == run.to_json()["evaluation"]
    assert again.spec == run.spec
    assert again.gains == run.gains
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(InputError, match="--overwrite"):
        run_recipe("suppress-spurious", tmp_path / "out", overrides=[*SMALL, "edits.0.gain=0.5"])


def test_a_base_by_its_relative_path_gives_the_same_bytes_again(tmp_path: Path) -> None:
    shutil.copytree(embedded_checkpoint(), tmp_path / "models" / "mine")
    home = tmp_path / "recipes"
    home.mkdir()
    quick = {"extends": "suppress-spurious", "base": {"model": "../models/mine"}, "evaluate": None}
    (home / "mine.yaml").write_text(json.dumps(quick))
    first = run_recipe(home / "mine.yaml", tmp_path / "out", overrides=["decompose.layers=[-1]", "edits.0.layers=[-1]"])
    again = run_recipe(first.folder / "recipe.yaml", tmp_path / "again")
    assert files(again.folder) == files(first.folder)
    assert first.spec.base.name == first.decomposition.settings["encoder"] == "mine"
    # Only the recipe to run here again has the path.
    assert {name for name, content in files(first.folder).items() if str(tmp_path).encode() in content} == {RECIPE}


def test_a_folder_in_use_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        run_recipe("suppress-spurious", tmp_path, overrides=SMALL)
    assert files(tmp_path) == {"mine.txt": b"keep me"}


def test_not_even_overwrite_replaces_what_no_run_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "mine.yaml").write_text("extends: suppress-spurious\n")
    (project / "photo.jpg").write_bytes(b"precious")
    before = files(project)
    for target in (project, tmp_path):
        with pytest.raises(InputError, match="name a"):
            run_recipe(project / "mine.yaml", target, overrides=SMALL, overwrite=True)
    monkeypatch.chdir(project)
    with pytest.raises(InputError, match="folder"):
        run_recipe("suppress-spurious", Path(), overrides=SMALL, overwrite=True)
    assert files(project) == before


def test_a_title_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    said: list[str] = []
    overrides = [*SMALL, 'title="\\u001b[31mred\\u0007\\nnew line"', "evaluate=null"]
    run_recipe("suppress-spurious", tmp_path / "out", overrides=overrides, say=said.append)
    assert said
    assert all(character.isprintable() for line in said for character in line)


def test_local_datasets_of_concepts_are_found_again_and_not_published(tmp_path: Path) -> None:
    words = list(Recipe.shipped("demo").dictionary.texts or ())
    (tmp_path / "words").mkdir()
    Dataset.from_dict({"word": words}).to_parquet(tmp_path / "words" / "train.parquet")
    (tmp_path / "mine.yaml").write_text(
        "title: mine\ndictionary: {dataset: words, column: word}\ndecompose: {layers: [-1]}\n"
        "edits: [{concepts: [sea, road, desert, meadow, snow, night], threshold: 0.4, both_poles: true}]\n"
    )
    run_recipe(tmp_path / "mine.yaml", tmp_path / "out")
    assert Recipe.from_file(tmp_path / "out" / "recipe.yaml").dictionary.dataset == str(tmp_path / "words")
    assert str(tmp_path) not in (tmp_path / "out" / "edited" / "sith" / "recipe.yaml").read_text()


def test_files_that_a_recipe_names_travel_with_its_results(tmp_path: Path) -> None:
    concepts = tmp_path / "concepts.txt"
    concepts.write_text("\n".join(Recipe.shipped("demo").dictionary.texts or ()))
    (tmp_path / "mine.yaml").write_text(
        "title: mine\ndictionary: {file: concepts.txt}\ndecompose: {layers: [-1]}\n"
        "edits: [{concepts: [sea, road, desert, meadow, snow, night], threshold: 0.4, both_poles: true}]\n"
    )
    first = run_recipe(tmp_path / "mine.yaml", tmp_path / "out")
    concepts.unlink()
    again = run_recipe(first.folder / "recipe.yaml", tmp_path / "again")
    assert again.spec == first.spec
    assert again.evaluation is None
    assert files(again.folder) == files(first.folder)
    (first.folder / "inputs" / "concepts.txt").write_text("sea\nroad\n")
    with pytest.raises(InputError, match="dictionary"):
        run_recipe(first.folder / "recipe.yaml", tmp_path / "third")


def test_a_language_model_is_asked_once_and_its_answers_are_pinned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        import_module("sith_hf.recipe.choose"), "cached_assets_path", lambda *_, **__: tmp_path / "answers"
    )
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 20)
    text = Recipe.shipped("demo").model_dump_json(include={"dictionary"})
    with chat_server(lambda prompt, _: "5" if '"sea"' in prompt or '"desert"' in prompt else "1") as server:
        judge = {"by": "language-model", "prompt": "place", "model": "m", "base_url": server.url}
        edits = [{"rule": "threshold", "judge": judge}]
        data = {"title": "t", **json.loads(text), "decompose": {"layers": [-1]}, "edits": edits}
        (tmp_path / "mine.yaml").write_text(json.dumps(data))
        first = run_recipe(tmp_path / "mine.yaml", tmp_path / "out")
        asked = len(server.bodies)
        second = run_recipe(tmp_path / "mine.yaml", tmp_path / "second")
        assert asked == len(server.bodies) > 0
    assert (first.folder / "transcripts" / "0-judge.jsonl").is_file()
    # The server is gone: its answers are in the folder.
    again = run_recipe(first.folder / "recipe.yaml", tmp_path / "again")
    assert first.spec == second.spec == again.spec
    assert len(first.spec) > 0
    expected = {name: content for name, content in files(first.folder).items() if not name.startswith("transcripts")}
    assert files(again.folder) == expected
    assert not any(b"hf_xxxx" in content for content in files(tmp_path).values())


def test_the_command_answers_with_json_alone(tmp_path: Path) -> None:
    arguments = ["run", "suppress-spurious", "-o", str(tmp_path / "out"), "--json"]
    for override in [*SMALL, "evaluate.sweep=null"]:
        arguments += ["--set", override]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    data = json.loads(done.stdout)
    assert data["edited_vectors"] > 0
    assert Path(data["checkpoint"]).joinpath("model.safetensors").is_file()
    assert data["evaluation"]["contenders"][:2] == ["base", "edited"]


def test_recipes_lists_shows_and_describes() -> None:
    runner = CliRunner()
    listed = runner.invoke(command, ["recipes", "--json"], catch_exceptions=False)
    assert {"demo", "suppress-spurious"} <= {item["name"] for item in json.loads(listed.stdout)}
    shown = runner.invoke(command, ["recipes", "demo"], catch_exceptions=False)
    assert Recipe.from_text(shown.stdout, "shown") == Recipe.shipped("demo")
    schema = json.loads(runner.invoke(command, ["recipes", "--schema"], catch_exceptions=False).stdout)
    assert {"edits", "fidelity"} <= set(schema["properties"])
    with pytest.raises(InputError, match="no recipe"):
        runner.invoke(command, ["recipes", "nothing"], catch_exceptions=False)


def test_a_large_edit_needs_its_field(tmp_path: Path) -> None:
    every = "edits=[{rule: vectors, gain: 0.0, layers: [-1]}]"
    with pytest.raises(LargeEdit, match="large_edit: true"):
        run_recipe("demo", tmp_path / "out", overrides=["decompose.layers=[-1]", every])
    assert not (tmp_path / "out").exists()
    accepted = run_recipe("demo", tmp_path / "out", overrides=["decompose.layers=[-1]", every, "large_edit=true"])
    assert accepted.impact.excess
    assert accepted.to_json()["impact"]["vectors"] == 128


def test_single_words(tmp_path: Path) -> None:
    words = "edits=[{rule: words, concepts: [sea, sea], top: 4}]"
    found = run_recipe("demo", tmp_path / "out", overrides=["decompose.layers=[-1]", words])
    assert len(found.spec) == 4
    assert all(reason.startswith("sea: cosine") for reason in found.gains.reason.values())
