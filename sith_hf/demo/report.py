"""The demo's result as text for a terminal."""

from __future__ import annotations

from sith_hf.core.tables import table
from sith_hf.decomposition import concepts_text, silent_line
from sith_hf.demo.run import DemoResult

VECTORS = 1


def report(result: DemoResult, seed: int, command: str = "sith-hf") -> str:
    """Format the explanations of heads, the edit, accuracies before and after, and commands to try next.

    Args:
        result: of :func:`sith_hf.demo.run_demo`.
        seed: of the pictures of the measurement.
        command: the command sith-hf, as the user must type it.
    """
    decomposition, spec, base, edited = result.decomposition, result.spec, result.base, result.edited
    gains = dict(zip(spec.keys, spec.gain.tolist(), strict=True))
    themes: list[list[object]] = []
    poles = []
    for layer in decomposition.layers:
        for head in range(decomposition.num_heads):
            for pole in decomposition.theme(layer, head, VECTORS):
                poles.append(pole)
                if pole.silent:
                    continue
                gain = gains.get((layer, head, pole.vector), 1.0)
                themes.append(
                    [layer, head, pole.vector, pole.energy_share, f"{gain:g}", pole.pole, concepts_text(pole)]
                )
    figures = [(name, base.groups[name], edited.groups[name]) for name in base.groups]
    figures += [
        ("average of groups", base.average, edited.average),
        ("worst group", base.worst_group, edited.worst_group),
        ("objects without a habitual background", base.objects, edited.objects),
        ("colours", base.colours, edited.colours),
        ("backgrounds (suppressed)", base.backgrounds, edited.backgrounds),
    ]
    rows = [[name, f"{100 * old:.1f}", f"{100 * new:.1f}", f"{100 * (new - old):+.1f}"] for name, old, new in figures]
    folder = result.folder
    return "\n".join(
        [
            table(
                ["layer", "head", "vector", "energy", "gain", "pole", "concepts (weight)"],
                themes,
                "The strongest singular vector of each head, and its explanation",
            ),
            silent_line(poles, more=f"{command} show {folder / 'decomposition'} --top {VECTORS} --all shows them"),
            f"Edited: {len(spec)} of {decomposition.singular_values.numel()} singular vectors, layers {spec.layers}; "
            f"all of them: {command} show {folder / 'spec'}",
            "",
            table(["accuracy in %", "base", "edited", "change"], rows, f"Zero-shot, before and after (seed {seed})"),
            f"The groups as a picture: {folder / 'groups.png'}",
            f"The edited checkpoint, for any tool: {folder / 'edited'}",
            "",
            "Next:",
            f"  {command} find {folder / 'decomposition'} sea",
            f"  {command} verify {folder / 'edited'}",
            f"  {command} revert {folder / 'edited'} -o {folder / 'reverted'}",
        ]
    )
