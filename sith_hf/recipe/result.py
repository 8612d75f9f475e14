"""``RunResult``, and the results of a run that an output folder already has."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sith_hf.checkpoint import SavedCheckpoint
from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import read_text
from sith_hf.core.tables import left_out_lines
from sith_hf.decomposition import Decomposition
from sith_hf.edits import EditSpec
from sith_hf.errors import InputError
from sith_hf.evaluation import Evaluation
from sith_hf.files import write_whole
from sith_hf.gains import Gains, Impact, impact_of
from sith_hf.recipe.inputs import file_sha256
from sith_hf.towers import Tower

RECIPE = "recipe.yaml"
# The request that a folder answers, and what its other files do not hold.
REQUEST = ".request.json"


@dataclass(frozen=True, eq=False)
class RunResult:
    """The results of a run.

    Attributes:
        folder: the folder with ``edited/``, ``spec/``, ``decomposition/``, ``scores/``, ``results.json``,
            ``sweep.png`` and ``recipe.yaml``, if the recipe has these parts.
        decomposition: the explained vectors.
        gains: the chosen vectors and the protected ones, with reasons.
        spec: the edit.
        evaluation: the evaluation; None if the recipe has none.
        impact: how much of the model the edit changes.
        saved: the edited checkpoint, with the files of the base that it leaves out.
    """

    folder: Path
    decomposition: Decomposition
    gains: Gains
    spec: EditSpec
    evaluation: Evaluation | None
    impact: Impact
    saved: SavedCheckpoint

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain data."""
        return {
            "folder": str(self.folder),
            "checkpoint": str(self.folder / "edited"),
            "recipe": str(self.folder / RECIPE),
            "edited_vectors": len(self.spec),
            "spared_vectors": len(self.gains.protected),
            "impact": self.impact.to_json(),
            "left_out": list(self.saved.left_out),
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }

    def __str__(self) -> str:
        protected = f", {len(self.gains.protected)} left unchanged" if self.gains.protected else ""
        lines = [f"{len(self.spec)} singular vectors edited in layers {self.spec.layers}{protected}"]
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


def record_request(folder: Path, request: str, gains: Gains, saved: SavedCheckpoint) -> None:
    """Write into a complete ``folder`` the request that it answers, and what its other files do not hold."""
    protected = [[*key, reason] for key, reason in gains.protected.items()]
    copied = {"changed": dict(saved.changed), "left_out": dict(saved.reasons)}
    files = {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*") if path.is_file()}
    data = {"request": request, "protected": protected, "files": dict(sorted(files.items())), **copied}
    write_whole(folder / REQUEST, json_bytes({**data, "sha256": _sha256(data)}))


def finished_run(folder: Path, request: str, tower: Tower) -> RunResult | None:
    """Read the results in ``folder`` of a run with this request; None if there are none.

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
    protected = {(layer, head, vector): reason for layer, head, vector, reason in data["protected"]}
    decomposition = Decomposition.from_pretrained(folder / "decomposition")
    (spec,) = EditSpec.from_pretrained(folder / "spec").parts
    results = folder / "results.json"
    evaluation = Evaluation.from_file(results) if results.is_file() else None
    reasons = () if spec.provenance is None else spec.provenance.reasons
    keys = [*map(tuple, torch.stack([spec.layer, spec.head, spec.vector], dim=1).tolist())]
    gains = Gains(dict(zip(keys, spec.gain.tolist(), strict=True)), dict(zip(keys, reasons, strict=False)), protected)
    saved = SavedCheckpoint(folder / "edited", data["changed"], tuple(left_out), left_out)
    return RunResult(folder, decomposition, gains, spec, evaluation, impact_of(tower, decomposition, gains.gain), saved)


def _is(path: Path, sha256: str) -> bool:
    return path.is_file() and file_sha256(path) == sha256


def _sha256(data: Any) -> str:
    return hashlib.sha256(json_bytes(data)).hexdigest()


def json_bytes(data: Any) -> bytes:
    """Return JSON in ASCII."""
    return (json.dumps(data, indent=2, ensure_ascii=True, allow_nan=False) + "\n").encode("ascii")
