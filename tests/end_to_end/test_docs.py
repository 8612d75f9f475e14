"""The documentation: the links, commands, options, targets and files it names exist (tests/docs/ runs code)."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

from sith_hf.cli import sith_hf as command_line

ROOT = Path(__file__).resolve().parents[2]
TOP = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
PAGES = [ROOT / name for name in TOP] + sorted((ROOT / "docs").rglob("*.md"))
# Made when the site is built.
GENERATED = re.compile(r"(?:\.\./)?(?:cli|api/[\w.]+)\.md")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(path: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of ``languages``."""
    return [code for language, code in FENCE.findall(path.read_text(encoding="utf-8")) if language in languages]


def code(path: Path) -> Iterator[str]:
    """Every line of shell and every piece of inline code on a page."""
    for block in blocks(path, "console", "bash"):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", FENCE.sub("", path.read_text(encoding="utf-8")))


def broken_links(path: Path) -> list[str]:
    """The relative links and pictures of a page that lead nowhere."""
    targets = re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8")))
    local = [target.partition("#")[0] for target in targets if not re.match(r"https?:|#", target)]
    return [t for t in local if not GENERATED.fullmatch(t) and not (path.parent / t).exists()]


def unknown_in_command(line: str) -> list[str]:
    """The names in a call of sith-hf that the command line does not have."""
    words = shlex.split(line.partition(" #")[0].partition("|")[0], posix=True)
    words = words[words.index("sith-hf") + 1 :] if "sith-hf" in words else words[words.index("sith_hf") + 1 :]
    if not words or words[0].startswith("-") or words[0] in ("...", "COMMAND"):
        return []
    context = click.Context(command_line)
    command = command_line.get_command(context, words[0])
    if command is None:
        return [words[0]]
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help", "-h"}
    return [word for word in words[1:] if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in known]


def missing(path: Path) -> list[str]:
    """The make targets and files of this repository that a page names and that do not exist."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = []
    for piece in code(path):
        found += [name for name in re.findall(r"^make ([a-z-]+)", piece) if f"\n{name}:" not in makefile]
        named = re.findall(r"(?:^|\s)((?:sith_hf|tests|docs|recipes|benchmarks|hub_cards)/[\w./-]+)", piece)
        found += [name for name in named if not (ROOT / name).exists()]
    return found


def exists(place: str) -> bool:
    """Whether a dotted name is a module, or an attribute or dataclass field of what a module holds."""
    parts = place.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, part, None)
        return True
    return False


def stale_references(module: str, source: str) -> list[str]:
    """The Sphinx roles in the docstrings of a module that name nothing."""

    def visit(node: ast.AST, place: str) -> Iterator[str]:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            scope = place.rpartition(".")[0] if isinstance(node, ast.FunctionDef) else place
            for target in re.findall(r":(?:class|func|meth|data|mod|attr):`~?([\w.]+)`", ast.get_docstring(node) or ""):
                if not any(exists(f"{start}{target}") for start in ("", f"{scope}.", f"{module}.", f"{room}.")):
                    yield f"{place}: {target}"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, f"{place}.{child.name}" if hasattr(child, "name") else place)

    room = module.rpartition(".")[0]
    return [*visit(ast.parse(source), module)]


def calls(path: Path) -> list[str]:
    """The calls of sith-hf on a page."""
    return [piece for piece in code(path) if re.search(r"(?:^|\s)(?:sith-hf|-m sith_hf) [a-z]", piece)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_commands_options_targets_and_files_exist(path):
    assert broken_links(path) == []
    assert [(call, found) for call in calls(path) if (found := unknown_in_command(call))] == []
    assert missing(path) == []


def test_docstrings_refer_to_what_exists():
    stale = []
    for path in sorted((ROOT / "sith_hf").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name != "sith_hf.__main__":
            stale += stale_references(name, path.read_text(encoding="utf-8"))
    assert stale == []


def test_a_stale_reference_is_found():
    source = (
        '""":func:`nothing`, :class:`sith_hf.gains.Gains`."""\n'
        'class Gains:\n    """:attr:`gain`, :meth:`lose`."""\n'
        '    def then(self):\n        """:attr:`reason`, :attr:`x`."""\n'
    )
    assert stale_references("sith_hf.gains.gains", source) == [
        "sith_hf.gains.gains: nothing",
        "sith_hf.gains.gains.Gains: lose",
        "sith_hf.gains.gains.Gains.then: x",
    ]


def test_what_does_not_exist_is_found(tmp_path):
    page = tmp_path / "page.md"
    links = "[a](nowhere.md) [b](page.md#top) [c](https://example.org)"
    page.write_text(f"{links}\n\n`sith-hf explode x` `make tea` `tests/none.py`\n", "utf-8")
    assert broken_links(page) == ["nowhere.md"]
    assert [unknown_in_command(call) for call in calls(page)] == [["explode"]]
    assert missing(page) == ["tea", "tests/none.py"]
    assert unknown_in_command("sith-hf show x --layers -1 --colour red") == ["--colour"]
    assert unknown_in_command("sith-hf show x --layers -2,-1 --json | head") == []


def test_pages_that_load_from_other_hosts_are_found(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(ROOT / "docs/mkdocs")
    from hooks import fetched

    for text in (
        '<script src="https://cdn.example/x.js"></script>',
        "<script async src=//cdn.example/x.js></script>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<img alt="" src="http://img.example/a.png">',
        "@import 'https://fonts.example/css';",
        "a { background: url(https://img.example/a.png) }",
    ):
        assert len(fetched(text)) == 1, text
    for text in (
        '<a href="https://arxiv.org/abs/2603.24653">paper</a>',
        '<script src="assets/x.js"></script>',
        '<link rel="canonical" href="https://example.org/">',
        '<link rel="stylesheet" href="assets/x.css">',
    ):
        assert fetched(text) == [], text


def test_the_command_line_page_names_every_command_and_option(monkeypatch):
    pytest.importorskip("mkdocs")
    monkeypatch.syspath_prepend(ROOT / "docs/mkdocs")
    from hooks import command_pages

    page = command_pages()
    context = click.Context(command_line)
    for name in command_line.list_commands(context):
        section = page.partition(f"## sith-hf {name}\n")[2].partition("\n## ")[0]
        command = command_line.get_command(context, name)
        missing = [option for item in command.params for option in item.opts if option.startswith("--")]
        assert section
        assert [option for option in missing if option not in section] == []
