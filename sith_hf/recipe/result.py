"""``RunResult``, and the results of a run that an output folder already has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from sith_hf.checkpoint import SavedCheckpoint, folder_effect
from sith_hf.core.escaping import sanitize
from sith_hf.core.html import block, fact_table, folded
from sith_hf.core.reading import read_text
from sith_hf.core.tables import left_out_lines
from sith_hf.decomposition import Decomposition
from sith_hf.editor import SithEditor
from sith_hf.edits import AnySpec, EditSpec
from sith_hf.errors import InputError
from sith_hf.evaluation import Evaluation
from sith_hf.files import write_whole
from sith_hf.gains import Gains, Impact, impact_of
from sith_hf.recipe.inputs import file_sha256
from sith_hf.recipe.tower_run import DECOMPOSITION, TowerResult

RECIPE, SPEC = "recipe.yaml", "spec"
# The request that a folder answers, and what its other files do not hold.
REQUEST = ".request.json"


@dataclass(frozen=True, eq=False)
class RunResult:
    """The results of a run.

    Attributes:
        folder: the folder with ``edited/``, ``spec/``, ``decomposition/``, ``scores/``, ``results.json``,
            ``sweep.png`` and ``recipe.yaml``, if the recipe has these parts. If the recipe edits both towers,
            ``decomposition-text/`` is that of the text tower.
        towers: explained vectors and gains of each edited tower, vision first.
        spec: the edit, of one tower or both.
        evaluation: the evaluation; None if the recipe has none.
        saved: the edited checkpoint, with the files of the base that it leaves out.
    """

    folder: Path
    towers: tuple[TowerResult, ...]
    spec: AnySpec
    evaluation: Evaluation | None
    saved: SavedCheckpoint

    @property
    def decomposition(self) -> Decomposition:
        """The explained vectors of the first tower."""
        return self.towers[0].decomposition

    @property
    def gains(self) -> Gains:
        """The chosen vectors and the protected ones of the first tower."""
        return self.towers[0].gains

    @property
    def impact(self) -> Impact:
        """How much of the first tower the edit changes."""
        return self.towers[0].impact

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data: ``impact`` is that of the first tower, ``towers`` has all of them."""
        return {
            "folder": str(self.folder),
            "checkpoint": str(self.folder / "edited"),
            "recipe": str(self.folder / RECIPE),
            "edited_vectors": len(self.spec),
            "spared_vectors": sum(len(result.gains.protected) for result in self.towers),
            "impact": self.impact.to_json(),
            "towers": {result.tower: result.to_json() for result in self.towers},
            "left_out": list(self.saved.left_out),
            "effect": None if self.saved.effect is None else self.saved.effect.to_json(),
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }

    def __repr__(self) -> str:
        measured = "" if self.evaluation is None else f"; {self.evaluation!r}"
        edits = "; ".join(map(str, self.towers))
        return f"RunResult({sanitize(str(self.folder), 120)}: {edits}{measured})"

    def _repr_html_(self) -> str:
        checkpoint, effect = self.folder / "edited", self.saved.effect
        facts: list[tuple[str, object]] = [("edit", str(result)) for result in self.towers]
        facts += [("impact", str(result.impact)) for result in self.towers]
        facts += [("effect", line.removeprefix("effect: ")) for line in str(effect or "").splitlines()]
        facts += [("checkpoint", str(checkpoint)), ("files left out", f"{len(self.saved.left_out):,}")]
        measured = None if self.evaluation is None else Markup(self.evaluation._repr_html_())
        parts = [folded("The edited vectors", Markup(self.spec._repr_html_())), measured]
        return block(f"Run in {self.folder}", fact_table(facts), *parts)

    def __str__(self) -> str:
        lines = [*map(str, self.towers)]
        lines += [] if self.saved.effect is None else [str(self.saved.effect)]
        lines += [] if self.evaluation is None else [self.evaluation.table()]
        lines += left_out_lines(self.saved.reasons)
        return "\n".join([*lines, f"{self.folder / 'edited'} (publish it with sith-hf push-edited)"])


def check_target(target: Path, home: Path, part: str) -> None:
    """Raise InputError for a folder that a run must never replace.

    Args:
        target: the folder of the results.
        home: the folder of the recipe.
        part: what every earlier run has left in such a folder, besides its recipe.
    """
    try:
        there = target.resolve()
        occupied = there.is_dir() and any(there.iterdir())
    except (OSError, RuntimeError, ValueError) as error:
        shown = sanitize(str(target))
        raise InputError(f"{shown} cannot be used as a folder ({sanitize(str(error))}); name a new folder") from None
    ours = (there / part).exists() and (there / RECIPE).is_file()
    if there in (cwd := Path.cwd().resolve(), *cwd.parents) or (there in (home, *home.parents) and not ours):
        raise InputError(f"{target} contains the current folder or the recipe; name a folder for the results only")
    if occupied and not ours:
        raise InputError(f"{target} is not empty and was not written by an earlier run; name a new folder")


def record_request(folder: Path, request: str, towers: Iterable[TowerResult], saved: SavedCheckpoint) -> None:
    """Write into a complete ``folder`` the request that it answers, and what its other files do not hold."""
    protected = [[result.tower, *key, why] for result in towers for key, why in result.gains.protected.items()]
    copied = {"changed": dict(saved.changed), "left_out": dict(saved.reasons)}
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*") if path.is_file()}
    data = {"request": request, "protected": protected, "files": dict(sorted(files.items())), **copied}
    write_whole(folder / REQUEST, json_bytes({**data, "sha256": _sha256(data)}))


def finished_run(folder: Path, request: str, editors: Mapping[str, SithEditor]) -> RunResult | None:
    """Read the results in ``folder`` of a run with this request; None if there are none.

    Args:
        folder: the folder.
        request: the request (:func:`sith_hf.recipe.request.request_sha256`).
        editors: the end of the names of a tower's folders to an editor of the tower, the first one first.

    Raises:
        InputError: a result has changed since.
    """
    try:
        data = json.loads(read_text(folder / REQUEST))
        known = data.pop("sha256") == _sha256(data) and data["request"] == request
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not known:
        return None
    damaged = next((name for name, sha256 in data["files"].items() if not _is(folder / name, sha256)), None)
    if damaged is not None:
        raise InputError(
            f"{folder} has the results of this run, but {sanitize(damaged)} was changed or removed since: name a new "
            "folder, or replace it with --overwrite"
        )
    left_out = data["left_out"]
    spec, towers = EditSpec.from_pretrained(folder / SPEC), []
    parts = {part.tower: part for part in spec.parts}
    for suffix, editor in editors.items():
        kind = editor.tower.kind
        protected = {(row[1], row[2], row[3]): row[4] for row in data["protected"] if row[0] == kind}
        gains = _gains_of(parts.get(kind), protected)
        decomposition = Decomposition.from_pretrained(folder / f"{DECOMPOSITION}{suffix}")
        towers.append(TowerResult(decomposition, gains, impact_of(editor.tower, decomposition, gains.gain)))
    results = folder / "results.json"
    evaluation = Evaluation.from_file(results) if results.is_file() else None
    saved = SavedCheckpoint(
        folder / "edited", data["changed"], tuple(left_out), left_out, folder_effect(folder / "edited")
    )
    return RunResult(folder, tuple(towers), spec, evaluation, saved)


def _gains_of(spec: EditSpec | None, protected: Mapping[tuple[int, int, int], str]) -> Gains:
    """Return the gains of a tower's edit; None for one that changes nothing."""
    if spec is None:
        return Gains({}, {}, protected)
    reasons, named = ((), ()) if spec.provenance is None else (spec.provenance.reasons, spec.provenance.named)
    gain = dict(zip(spec.keys, spec.gain.tolist(), strict=True))
    about = {key: each for key, each in zip(spec.keys, named, strict=False) if each}
    return Gains(gain, dict(zip(spec.keys, reasons, strict=False)), protected, named=about)


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def _sha256(data: Any) -> str:
    return hashlib.sha256(json_bytes(data)).hexdigest()


def json_bytes(data: Any) -> bytes:
    """Return JSON in ASCII."""
    return (json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
