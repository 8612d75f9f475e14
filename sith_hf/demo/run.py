"""Run the demo on the embedded checkpoint: decompose, choose an edit from explanations, save and measure it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sith_hf.core.escaping import sanitize
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError, OutputError, SithError
from sith_hf.files import new_folder
from sith_hf.recipe import Recipe, choose, decompose_with
from sith_hf.world import (
    FIRST_SEED,
    TASKS,
    TIED_PAIRS,
    embedded_checkpoint,
    encode,
    render,
    sample_balanced,
    sample_groups,
)


@dataclass(frozen=True)
class Measured:
    """Zero-shot accuracies of one checkpoint on newly drawn pictures, each in [0, 1].

    Attributes:
        groups: "object/background" to the accuracy in choosing between the two objects of the tied pair.
        objects, colours, backgrounds: on balanced pictures of objects without a habitual background.
    """

    groups: Mapping[str, float]
    objects: float
    colours: float
    backgrounds: float

    @property
    def average(self) -> float:
        """The mean accuracy of groups."""
        return sum(self.groups.values()) / len(self.groups)

    @property
    def worst_group(self) -> float:
        """The lowest accuracy of groups."""
        return min(self.groups.values())

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"average": self.average, "worst_group": self.worst_group, **asdict(self)}


@dataclass(frozen=True, eq=False)
class DemoResult:
    """The result of the demo: the explained vectors, the edit, accuracies of both checkpoints, and their folder."""

    decomposition: Decomposition
    spec: EditSpec
    base: Measured
    edited: Measured
    folder: Path


def run_demo(folder: Path, seed: int, say: Callable[[str], None], *, pictures: int = 250) -> DemoResult:
    """Decompose, edit and measure the embedded checkpoint.

    Args:
        folder: for ``decomposition/``, ``spec/`` and ``edited/``; those of an earlier demo are replaced.
        seed: of the pictures for the measurement. The edit does not depend on it.
        say: called with a line of progress before each step.
        pictures: number for each group; four times as many for objects, colours and backgrounds.

    Raises:
        InputError: a folder ``edited/`` that no demo wrote, or a seed that was used to choose the recipe.
        OutputError: a file could not be written.
        SithError: the measurement with transformers failed.
    """
    if seed < FIRST_SEED:
        raise InputError(f"seed {seed} was used to choose the recipe; use {FIRST_SEED} or above")
    source, target = embedded_checkpoint(), folder / "edited"
    ours = (target / "sith" / "edit_spec.safetensors").is_file()
    recipe = Recipe.shipped("demo")

    say(f"Decomposing {source} over its own dictionary of {len(recipe.dictionary.texts or ())} concepts")
    editor = SithEditor.from_pretrained(source)
    concepts, decomposition = decompose_with(recipe, editor, folder)
    spec = choose(recipe, editor, decomposition, concepts, folder).spec
    say(f"{recipe.title}: {len(spec)} singular vectors, chosen by their explanations only")
    with new_folder(folder, keep_others=True, overwrite=True) as work:
        decomposition.save_pretrained(work / "decomposition")
        spec.save_pretrained(work / "spec")
        editor.save_pretrained(target, spec, overwrite=ours)

    say(f"Measuring both checkpoints on pictures of seed {seed}, in a process without sith_hf")
    base, edited = measure_checkpoints([source, target], seed, pictures)
    return DemoResult(decomposition, spec, base, edited, folder)


def measure_checkpoints(checkpoints: list[Path], seed: int, pictures: int) -> list[Measured]:
    """Measure zero-shot accuracies of checkpoints on the same new pictures, in a process without ``sith_hf``."""
    classes = {name: _prompts(names, templates) for name, (names, templates) in TASKS.items()}
    images: dict[str, torch.Tensor] = {}
    truth: dict[str, Any] = {}
    sets: dict[str, list[str]] = {}
    for number, pair in enumerate(TIED_PAIRS):
        objects = [name for name, _ in pair]
        classes["/".join(objects)] = _prompts(objects, TASKS["objects"][1])
        for step, (group, scenes) in enumerate(sample_groups(pair, pictures, seed + 100 * number).items()):
            images[group] = torch.from_numpy(render(scenes, seed + 100 * number + step + 1))
            truth[group] = np.array([objects.index(scene.object) for scene in scenes])
            sets[group] = ["/".join(objects)]
    balanced = sample_balanced(4 * pictures, seed + 50)
    images["balanced"] = torch.from_numpy(render(balanced, seed + 51))
    sets["balanced"] = ["objects", "colours", "backgrounds"]
    codes = dict(zip(TASKS, encode(balanced).T, strict=True))

    found = _answers(checkpoints, classes, sets, images)
    results = []
    for checkpoint in checkpoints:
        answers = {key: np.array(value) for key, value in found[str(checkpoint)].items()}
        groups = {group: float((answers[f"{group}:{sets[group][0]}"] == truth[group]).mean()) for group in truth}
        rest = {name: float((answers[f"balanced:{name}"] == codes[name]).mean()) for name in sets["balanced"]}
        results.append(Measured(groups, **rest))
    return results


def _prompts(names: tuple[str, ...] | list[str], templates: tuple[str, ...]) -> list[list[str]]:
    return [[template.format(name) for template in templates] for name in names]


def _answers(
    checkpoints: list[Path], classes: dict[str, Any], sets: dict[str, list[str]], images: dict[str, torch.Tensor]
) -> Any:
    """Return the predicted classes by checkpoint and ``set:classes``, from ``without_sith.py``."""
    task = {"checkpoints": [str(path) for path in checkpoints], "classes": classes, "sets": sets}
    with tempfile.TemporaryDirectory(prefix="sith-demo-") as temporary:
        work = Path(temporary)
        try:
            (work / "task.json").write_text(json.dumps(task))
            save_file(images, work / "pictures.safetensors")
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{work.parent}: the pictures could not be written ({error}); free space") from None
        with as_file(files("sith_hf.demo") / "without_sith.py") as script:
            done = subprocess.run(
                [sys.executable, "-I", str(script), temporary], capture_output=True, text=True, check=False
            )
        if done.returncode != 0:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise SithError(
                f"measuring with transformers failed with exit code {done.returncode}: {sanitize(last, 500)}. "
                "Check the installation of transformers and torch, and run the demo again"
            )
        return json.loads((work / "answers.json").read_text())
