"""Run a recipe that measures explanations: a table of fidelity by method, sparsity and lambda."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sith_hf.core.strict_yaml import write_yaml
from sith_hf.core.tables import table
from sith_hf.decomposition import DecomposeSettings
from sith_hf.errors import InputError
from sith_hf.fidelity import FidelityTable, fidelity_table, grid, vectors_csv
from sith_hf.files import new_folder, write_whole
from sith_hf.images import mean_for
from sith_hf.recipe.inputs import copied_input, dictionary_of, full_path, open_base
from sith_hf.recipe.recipe import Recipe
from sith_hf.recipe.result import RECIPE, check_target, json_bytes
from sith_hf.towers import image_mean_file

TABLE = "fidelity.json"


@dataclass(frozen=True, eq=False)
class FidelityRun:
    """The result of a recipe that measures explanations.

    Attributes:
        folder: the folder with ``fidelity.json`` (the table), ``vectors.csv`` (a row for every vector) and
            ``recipe.yaml``.
        table: the measurements.
    """

    folder: Path
    table: FidelityTable

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {"folder": str(self.folder), "recipe": str(self.folder / RECIPE), "fidelity": self.table.to_json()}

    def __str__(self) -> str:
        return f"{table(*self.table.rows())}\n{self.folder}"


def run_fidelity(
    recipe: Recipe,
    folder: str | Path,
    home: Path,
    *,
    overwrite: bool = False,
    token: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    say: Callable[[str], object] = lambda line: None,
    progress: bool = False,
) -> FidelityRun:
    """Measure explanations as a recipe with ``fidelity`` says.

    The folder appears when everything in it is complete. Its ``recipe.yaml`` has the fingerprint of the dictionary and
    copies of the recipe's files.

    Args:
        recipe: a recipe with ``fidelity``.
        folder: the folder of the results.
        home: the folder that relative paths of the recipe start from.
        overwrite: replace the results of an earlier run. Other files in the folder are never replaced.
        token: a token for the Hub.
        device, dtype: as for :func:`sith_hf.recipe.run_recipe`.
        say: called with a line for each step.
        progress: show bars on stderr.

    Raises:
        InputError: a recipe without ``fidelity``, or a base, dictionary, value or folder that cannot be used.
        OutputError: the results could not be written; ``folder`` is unchanged.
    """
    step, settings = recipe.fidelity, recipe.decompose
    if step is None:
        raise InputError("this recipe edits a model; run it with run_recipe")
    pursuits = grid(step.methods, step.sparsities, step.coherence_weights)
    check_target(Path(folder), home, TABLE)
    with new_folder(Path(folder), overwrite=overwrite, repeats=lambda at: (at / TABLE).is_file()) as work:
        say(f"{recipe.title}: opening {recipe.base.model}")
        editor = open_base(recipe.base, home, token=token, device=device, dtype=dtype)
        mean = None if settings.image_mean is None else mean_for(editor, home / settings.image_mean)
        concepts = editor.encode(dictionary_of(recipe.dictionary, home), progress=progress)
        chosen = {name: getattr(settings, name) for name in ("layers", "rank", "poles", "fold", "centre")}
        found = fidelity_table(
            editor.tower, concepts, pursuits, DecomposeSettings(**chosen, image_mean=mean),
            weight=step.weight, null=step.null, draws=step.draws, seed=step.seed, progress=progress,
        )  # fmt: skip
        write_whole(work / TABLE, json_bytes(found.to_json()))
        write_whole(work / "vectors.csv", vectors_csv(found).encode("ascii"))
        repeat = _resolved(recipe, home, work, concepts.sha256, editor.loaded.revision)
        write_whole(work / RECIPE, write_yaml(repeat.model_dump(mode="json"), recipe.title).encode("utf-8"))
    return FidelityRun(Path(folder), found)


def _resolved(recipe: Recipe, home: Path, work: Path, texts: str, revision: str | None) -> Recipe:
    """Return the recipe that repeats a run, with copies of its files in ``work``."""
    dictionary: dict[str, Any] = {"sha256": texts}
    if recipe.dictionary.file is not None:
        dictionary["file"] = copied_input(home / recipe.dictionary.file, work, "concepts.txt")
    mean = recipe.decompose.image_mean
    if mean is not None:
        file = image_mean_file(home / mean)
        mean = copied_input(file, work, f"image_mean{file.suffix}")
    base = {"model": full_path(recipe.base.model, home), "revision": revision}
    return recipe.model_copy(
        update={
            "base": recipe.base.model_copy(update=base),
            "dictionary": recipe.dictionary.model_copy(update=dictionary),
            "decompose": recipe.decompose.model_copy(update={"image_mean": mean}),
        }
    )
