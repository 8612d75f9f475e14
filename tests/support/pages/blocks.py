"""The fenced blocks of a page, and the commands in a block of shell."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHELL = ("console", "bash", "sh", "shell")
PYTHON = ("python", "py", "pycon", "python3")
DATA = ("yaml", "yml", "json", "toml", "csv")
# Blocks that show text. A block in any other language fails, so that no code goes unnoticed.
SHOWN = ("text", "bibtex", "diff", "html", "makefile")

_FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)[^\n]*\n")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        line: of the page, from 1, where its text starts.
        language: as written after the fence; empty if there is none.
        text: without the indent of the fence.
        above: the paragraph before it.
    """

    line: int
    language: str
    text: str
    above: str


def blocks(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    found, start = [], 0
    while start < len(lines):
        fence = _FENCE.match(lines[start])
        if not fence:
            start += 1
            continue
        closing = re.compile(rf"^[ \t]*{re.escape(fence['mark'])}[ \t]*$")
        end = next((n for n in range(start + 1, len(lines)) if closing.match(lines[n])), len(lines))
        indent = len(fence["indent"])
        text = "".join(line[indent:] if line[:indent].isspace() else line for line in lines[start + 1 : end])
        above = "".join(lines[:start]).rstrip().rpartition("\n\n")[2]
        found.append(Block(start + 2, fence["language"].lower(), text, above))
        start = end + 1
    return found


def commands(block: Block) -> Iterator[tuple[int, str]]:
    """The commands of a block of shell, each with its line; of lines after a prompt ``$``, if there are any."""
    lines = block.text.splitlines()
    prompted = any(line.startswith("$ ") for line in lines)
    start, held = 0, ""
    for number, line in enumerate(lines):
        if not held:
            start = number
            if not line.strip() or line.lstrip().startswith("#") or (prompted and not line.startswith("$ ")):
                continue
            line = line.removeprefix("$ ") if prompted else line
        held += line
        if _complete(held):
            yield block.line + start, held.strip()
            held = ""
        else:
            held += "\n"
    if held:
        yield block.line + start, held.strip()


def words(command: str) -> list[str]:
    """The words of a command, without comments."""
    return shlex.split(command.replace("\\\n", " "), comments=True)


def _complete(command: str) -> bool:
    if command.endswith("\\"):
        return False
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation is open
        return False
    return not re.search(r"(?:&&|\|\||\|)\s*$", command)
