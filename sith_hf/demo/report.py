"""The demo's result as text for a terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from sith_hf.core.tables import table
from sith_hf.decomposition import Decomposition, clearest_heads, concepts_text, silent_line
from sith_hf.demo.run import DemoResult

HEADS = 6
"""Heads that are shown of all."""


def report(result: DemoResult, seed: int, command: str = "sith-hf", *, details: bool = False) -> str:
    """Format the answer, the heads that words explain best, accuracies before and after, and three commands to try.

    Args:
        result: of :func:`sith_hf.demo.run_demo`.
        seed: of the pictures of the measurement.
        command: the command sith-hf, as the user must type it.
        details: show every head and every group.
    """
    spec, base, edited, folder = result.spec, result.base, result.edited, result.folder
    vectors = f"{len(spec)} of {result.decomposition.singular_values.numel()} singular vectors"
    answer = (
        f"worst group {100 * base.worst_group:.0f} → {100 * edited.worst_group:.0f} %, average "
        f"{100 * base.average:.0f} → {100 * edited.average:.0f} %: removed {vectors}, in layers {spec.layers}"
    )
    hint = [] if details else ["--details shows every head and every group.", ""]
    return "\n".join(
        [
            answer,
            "",
            *_heads(result, details),
            table(
                ["accuracy in %", "base", "edited", "change"],
                _accuracies(result, details),
                f"Zero-shot, before and after (seed {seed})",
            ),
            *hint,
            f"The groups as a picture: {folder / 'groups.png'}",
            f"The edited checkpoint, for any tool: {folder / 'edited'}",
            "",
            "Next:",
            *(f"  {line}" for line in next_commands(folder, command)),
        ]
    )


def next_commands(folder: Path, command: str = "sith-hf") -> list[str]:
    """Return three commands for a shell that look into what the demo left in ``folder``."""
    found, edited = str(folder / "decomposition"), str(folder / "edited")
    words = [
        ["find", found, "sea"],
        ["edit", "embedded", "--decomposition", found, "--suppress", "sea,road", "--dry-run"],
        ["verify", edited],
    ]
    return [shlex.join([command, *each]) for each in words]


def _heads(result: DemoResult, details: bool) -> list[str]:
    """Return a table of the strongest explained vector of each head, of the heads that words explain best or of all."""
    found: Decomposition = result.decomposition
    gains = dict(zip(result.spec.keys, result.spec.gain.tolist(), strict=True))
    places = [(layer, head) for layer in found.layers for head in range(found.num_heads)]
    clear = clearest_heads(found, len(places) if details else HEADS)
    rows: list[list[object]] = []
    for place in clear:
        loud = [pole for pole in found.theme(*place, found.rank) if not pole.silent]
        for pole in (pole for pole in loud if details or pole is loud[0]):
            gain = gains.get((*place, pole.vector), 1.0)
            rows.append([*place, pole.vector, pole.energy_share, f"{gain:g}", pole.pole, concepts_text(pole)])
    title = "Every explained vector, by head" if details else f"The {len(clear)} heads that words explain best"
    shown = table(["layer", "head", "vector", "energy", "gain", "pole", "concepts (weight)"], rows, title)
    return [shown, *([silent_line(found.explanations(), more="they show no words")] if details else []), ""]


def _accuracies(result: DemoResult, details: bool) -> list[list[object]]:
    base, edited = result.base, result.edited
    figures = [(name, base.groups[name], edited.groups[name]) for name in base.groups if details]
    figures += [
        ("worst group", base.worst_group, edited.worst_group),
        ("average of groups", base.average, edited.average),
        ("objects without a habitual background", base.objects, edited.objects),
        ("colours", base.colours, edited.colours),
        ("backgrounds (suppressed)", base.backgrounds, edited.backgrounds),
    ]
    return [[name, f"{100 * old:.1f}", f"{100 * new:.1f}", f"{100 * (new - old):+.1f}"] for name, old, new in figures]
