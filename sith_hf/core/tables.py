"""Tables and lists for a terminal."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence

from sith_hf.core.escaping import sanitize
from sith_hf.core.formatting import fraction

_MOST_LINES = 30


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    dim: Collection[int] = (),
) -> str:
    """Format a table as text: numbers right-aligned, long cells folded, no terminal codes without ``dim``.

    Args:
        columns: the headings.
        rows: cells in the same order; floats get three decimals.
        title: a line above the table.
        dim: the numbers of greyed rows. Their terminal codes are for ``click.echo``, which drops them elsewhere.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        numeric = all(isinstance(row[number], (int, float)) for row in rows) and bool(rows)
        grid.add_column(
            Text(sanitize(column)), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric
        )
    for number, row in enumerate(rows):
        style = "dim" if number in dim else ""
        grid.add_row(*(Text(fraction(c) if isinstance(c, float) else sanitize(str(c), 400), style) for c in row))
    console = Console(
        file=io.StringIO(),
        width=120,
        color_system="standard" if dim else None,
        force_terminal=bool(dim),
        legacy_windows=False,
    )
    with console.capture() as capture:
        console.print(grid)
    # rich would fold a title at the width of the table.
    above = [] if title is None else [sanitize(title, 1000)]
    return "\n".join([*above, *(line.rstrip() for line in capture.get().splitlines())])


def left_out_lines(reasons: Mapping[str, str]) -> list[str]:
    """Return lines about the files that were left out, by name and reason: one each, but few for many."""
    lines = [f"left out {sanitize(name)}: {reason}" for name, reason in reasons.items()]
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"left out {more} more files (--json lists all)"]
