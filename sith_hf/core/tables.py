"""Tables and lists for a terminal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sith_hf.core.escaping import sanitize
from sith_hf.core.formatting import fraction

if TYPE_CHECKING:
    from rich.console import RenderableType

_MOST_LINES = 30

_FORCES_A_TERMINAL = ("FORCE_COLOR", "TTY_COMPATIBLE")

# Beyond what any explanation has: a damaged file must not flood a terminal.
_MOST_CHARACTERS = 20_000

# A text column that gets less is unreadable: its cells then stand below the numbers of their row.
_LEAST_WIDTH = 24


@dataclass(frozen=True)
class Screen:
    """Where a table is printed.

    Attributes:
        width: columns of the terminal; None for a file, a pipe or a dumb terminal, where every row is one whole line.
        colours: whether it may have terminal codes.
        unicode: whether it may have the lines of a table in Unicode.
    """

    width: int | None = None
    colours: bool = False
    unicode: bool = True

    @classmethod
    def of_stdout(cls) -> Screen:
        """Return that of stdout, by the rules of rich: COLUMNS, NO_COLOR, FORCE_COLOR and TERM change it."""
        unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
        if not (sys.stdout.isatty() or any(os.environ.get(name) for name in _FORCES_A_TERMINAL)):
            return cls(unicode=unicode)
        from rich.console import Console

        console = Console(file=sys.stdout)
        if not console.is_terminal or console.is_dumb_terminal:
            return cls(unicode=unicode)
        return cls(console.width, not console.no_color, unicode)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    title: str | None = None,
    dim: Collection[int] = (),
    *,
    screen: Screen | None = None,
) -> str:
    """Format a table as text, with numbers right-aligned.

    It fits a terminal: texts are wrapped, and where the columns are too narrow for that, stand below the numbers of
    their row. Elsewhere each row is one line. Only cells above 20,000 characters are cut.

    Args:
        columns: the headings.
        rows: cells in the same order; floats get three decimals.
        title: a line above the table.
        dim: the numbers of greyed rows, for a terminal with colours.
        screen: where it is printed; stdout when None.
    """
    screen = screen or Screen.of_stdout()
    heads = [sanitize(column, _MOST_CHARACTERS) for column in columns]
    cells = [
        [fraction(cell) if isinstance(cell, float) else sanitize(str(cell), _MOST_CHARACTERS) for cell in row]
        for row in rows
    ]
    numeric = [bool(rows) and all(isinstance(row[at], (int, float)) for row in rows) for at in range(len(columns))]
    greyed = dim if screen.colours else ()
    if screen.width is None:
        lines = _whole_lines(heads, cells, numeric, "─" if screen.unicode else "-")
    elif _least_width(heads, cells, numeric) > screen.width:
        lines = _records(heads, cells, screen.width, greyed)
    else:
        lines = _grid(heads, cells, numeric, screen.width, greyed)
        lines = lines if screen.unicode else [line.replace("─", "-") for line in lines]
    return "\n".join([*([] if title is None else [sanitize(title, 1000)]), *lines])


def _least_width(heads: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> int:
    """Return the width below which a column of a grid would be unreadable."""
    from rich.cells import cell_len

    natural = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]
    least = [width if number else min(width, _LEAST_WIDTH) for width, number in zip(natural, numeric, strict=True)]
    return sum(least) + 2 * (len(heads) - 1)


def _grid(
    heads: Sequence[str],
    cells: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    width: int,
    dim: Collection[int],
) -> list[str]:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for head, number in zip(heads, numeric, strict=True):
        grid.add_column(Text(head), justify="right" if number else "left", overflow="fold", no_wrap=number)
    for at, row in enumerate(cells):
        grid.add_row(*(Text(cell, "dim" if at in dim else "") for cell in row))
    return _lines(grid, width, colours=bool(dim))


def _whole_lines(heads: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool], rule: str) -> list[str]:
    """Return one line for each row, as wide as it is."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [
            " " * (width - cell_len(cell)) + cell if right else cell + " " * (width - cell_len(cell))
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(padded).rstrip()

    return [line(heads), rule * (sum(widths) + 2 * (len(widths) - 1)), *map(line, cells)]


def _records(heads: Sequence[str], cells: Sequence[Sequence[str]], width: int, dim: Collection[int]) -> list[str]:
    """Return rows as paragraphs: short cells with their headings side by side, and long ones below them."""
    from rich.cells import cell_len
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    lines: list[str] = []
    for at, row in enumerate(cells):
        style = "dim" if at in dim else ""
        named = [(f"{head} {cell}", f"{head}: {cell}") for head, cell in zip(heads, row, strict=True) if cell]
        packed = _packed([short for short, _ in named if cell_len(short) < _LEAST_WIDTH], width)
        below = [Padding(Text(item, style), (0, 0, 0, 2)) for short, item in named if cell_len(short) >= _LEAST_WIDTH]
        lines += _lines(Group(*(Text(line, style) for line in packed), *below), width, colours=bool(dim))
    return lines or _packed(heads, width)


def _packed(items: Sequence[str], width: int) -> list[str]:
    """Join items to lines of at most a width, if each fits."""
    from rich.cells import cell_len

    lines: list[str] = []
    for item in items:
        if lines and cell_len(lines[-1]) + 2 + cell_len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines


def _lines(shown: RenderableType, width: int, *, colours: bool) -> list[str]:
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if colours else None,
        force_terminal=colours,
        legacy_windows=False,
        highlight=False,
    )
    with console.capture() as capture:
        console.print(shown, overflow="fold")
    return [line.rstrip() for line in capture.get().splitlines()]


def left_out_lines(reasons: Mapping[str, str]) -> list[str]:
    """Return lines about the files that were left out, by name and reason: one each, but few for many."""
    lines = [f"left out {sanitize(name)}: {reason}" for name, reason in reasons.items()]
    more = len(lines) - _MOST_LINES
    return lines if more <= 0 else [*lines[:_MOST_LINES], f"left out {more} more files (--json lists all)"]
