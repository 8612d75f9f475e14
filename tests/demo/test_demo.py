"""The demo: the edit of its recipe closes the spurious gap, and random vectors do not."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from sith_hf import world
from sith_hf.checkpoint.verify import verify
from sith_hf.cli import sith_hf as command
from sith_hf.decomposition import clearest_heads, word_energy
from sith_hf.decomposition.decomposition import Decomposition
from sith_hf.demo.report import report
from sith_hf.demo.run import DemoResult, Measured, measure_checkpoints, run_demo
from sith_hf.editor import SithEditor
from sith_hf.edits.build import make_spec
from sith_hf.edits.spec import EditSpec
from sith_hf.errors import InputError, SithError
from sith_hf.gains.gains import Gains
from sith_hf.recipe import Recipe
from tests.support.cli import sith, succeeded

demo = import_module("sith_hf.demo.run")

SEED, PICTURES = 4321, 60

pytestmark = pytest.mark.usefixtures("all_draws")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoResult, Measured]:
    """The demo, and as many random vectors measured in its process: one takes four seconds to start."""
    found: list[Measured] = []

    def with_random_vectors(checkpoints: list[Path], seed: int, pictures: int) -> list[Measured]:
        folder = checkpoints[1].parent
        random = random_edit(folder / "spec", folder / "decomposition", tmp_path_factory.mktemp("random") / "edited")
        *ours, last = measure_checkpoints([*checkpoints, random], seed, pictures)
        found.append(last)
        return ours

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "measure_checkpoints", with_random_vectors)
        result = run_demo(tmp_path_factory.mktemp("demo"), SEED, lambda line: None, pictures=PICTURES)
    return result, found[0]


@pytest.fixture(scope="module")
def result(measured: tuple[DemoResult, Measured]) -> DemoResult:
    return measured[0]


def random_edit(spec: Path, decomposition: Path, output: Path) -> Path:
    """The checkpoint without as many vectors as the demo removes, chosen at random in its layers."""
    ours, explained = EditSpec.from_pretrained(spec), Decomposition.from_pretrained(decomposition)
    candidates = [
        (layer, head, vector)
        for layer in ours.layers
        for head in range(explained.num_heads)
        for vector in range(explained.rank)
    ]
    order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(0))
    random = Gains(dict.fromkeys([candidates[i] for i in order[: len(ours)].tolist()], 0.0))
    editor = SithEditor.from_pretrained(world.embedded_checkpoint())
    editor.save_pretrained(output, make_spec(editor.tower, explained, random))
    return output


def test_the_recipe_has_every_concept_of_the_world() -> None:
    assert Recipe.shipped("demo").dictionary.texts == tuple(world.concepts())


def test_the_base_leans_on_backgrounds(result: DemoResult) -> None:
    assert result.base.average - result.base.worst_group >= 0.25
    assert min(result.base.objects, result.base.colours, result.base.backgrounds) >= 0.9


def test_the_edit_closes_the_gap_and_leaves_the_rest(result: DemoResult) -> None:
    assert result.edited.worst_group >= result.base.worst_group + 0.10
    assert result.edited.objects >= result.base.objects - 0.02
    assert result.edited.colours >= result.base.colours - 0.02
    # What was suppressed is gone, or nothing was suppressed.
    assert result.edited.backgrounds <= result.base.backgrounds - 0.10


def test_random_vectors_do_not(measured: tuple[DemoResult, Measured]) -> None:
    result, random = measured
    assert random != result.base
    assert random.worst_group < result.base.worst_group + 0.10


def test_a_failed_measurement_is_one_line_and_not_the_users_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "without_sith.py").write_text('raise OSError("no\\x1b such file")')
    monkeypatch.setattr(demo, "files", lambda package: tmp_path)
    with pytest.raises(SithError, match=r"exit code 1: OSError: no.* such file.*run the demo again") as caught:
        measure_checkpoints([tmp_path], SEED, 1)
    assert not isinstance(caught.value, InputError)
    assert "Traceback" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_it_leaves_is_whole(result: DemoResult) -> None:
    assert verify(result.folder / "edited").ok
    assert EditSpec.from_pretrained(result.folder / "spec") == result.spec
    assert Decomposition.from_pretrained(result.folder / "decomposition").layers == result.decomposition.layers


def test_the_text_leads_with_the_answer_and_the_heads_that_are_explained_best(result: DemoResult) -> None:
    text, whole = report(result, SEED), report(result, SEED, details=True)
    worst = [f"{100 * each.worst_group:.0f}" for each in (result.base, result.edited)]
    assert text.splitlines()[0] == whole.splitlines()[0]
    assert text.startswith(f"worst group {worst[0]} → {worst[1]} %, average ")
    for part in ("worst group", "colours", "--details", str(result.folder / "edited")):
        assert part in text
    for group in result.base.groups:
        assert group in whole
        assert group not in text
    best = clearest_heads(result.decomposition, 6)
    energy = word_energy(result.decomposition)
    shares = [float(energy[result.decomposition.layers.index(layer), head]) for layer, head in best]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] == float(energy.max()) > 0
    table = text.split("\n\n")[1].splitlines()
    assert "6 heads that words explain best" in text
    cells = [line.split() for line in table]
    assert [(int(cell[0]), int(cell[1])) for cell in cells if cell and cell[0].isdigit()] == best


def test_its_three_commands_work(result: DemoResult, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exactly those that it prints, one after another."""
    monkeypatch.chdir(result.folder)
    near = replace(result, folder=Path())
    printed = report(near, SEED).split("Next:\n")[1].splitlines()
    assert len(printed) == 3
    for line in printed:
        program, *words = shlex.split(line)
        assert program == "sith-hf"
        ran = succeeded(sith(*words))
        assert len(ran.out.splitlines()[0]) > 20


def test_seeds_that_the_recipe_was_chosen_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1000 or above"):
        run_demo(tmp_path / "demo", 7, lambda line: None)
    assert not (tmp_path / "demo").exists()


def test_a_folder_that_no_demo_wrote_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "edited").mkdir()
    (tmp_path / "edited" / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        run_demo(tmp_path, SEED, lambda line: None, pictures=4)
    assert (tmp_path / "edited" / "mine.txt").read_text() == "keep me"


def test_the_command_replaces_an_earlier_demo_by_the_same_edit(
    result: DemoResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def swapped(checkpoints: list[Path], seed: int, pictures: int) -> list[Measured]:
        seeds.append(seed)
        return [result.edited, result.base]

    monkeypatch.setattr(demo, "measure_checkpoints", swapped)
    (result.folder / "edited" / "README.md").unlink()
    arguments = ["demo", "--json", "-o", str(result.folder), "--seed", str(SEED + 1000)]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert "less than a minute on two cores" in done.stderr.splitlines()[0]
    data = json.loads(done.stdout)
    assert EditSpec.from_pretrained(result.folder / "spec") == result.spec
    assert seeds == [SEED + 1000]
    assert (data["base"], data["edited"]) == (result.edited.to_json(), result.base.to_json())
    assert {"average", "worst_group"} <= set(data["edited"])
    assert data["edited_vectors"] == len(result.spec)
    assert Path(data["folder"], "README.md").is_file()
    assert Path(data["picture"]).is_file()
