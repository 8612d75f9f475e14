"""What the site generates: API pages from public names, the command line from click, and a check that it is local."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import click
import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

import sith_hf
from sith_hf.cli import sith_hf as command_line

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):`(?P<short>~?)(?P<target>[\w.]+)`")
# What a browser fetches by itself, as opposed to a link that a reader follows.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc\s*=\s*["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|<link\b(?![^>]*\brel\s*=\s*["']?(?:canonical|prev|next)\b)[^>]*?\bhref\s*=\s*["']?((?:https?:)?//[^"'\s>]+)"""
    r"""|(?:url\(|@import\s)\s*["']?((?:https?:)?//[^"')\s]+)""",
    re.IGNORECASE,
)


@cache
def rooms() -> dict[str, tuple[str, ...]]:
    """Every documented module of the package and its public names; private and runnable modules are left out."""
    found = {"sith_hf": tuple(sith_hf.__all__)}
    for module in iter_modules(sith_hf.__path__, "sith_hf."):
        if module.name in ("sith_hf.cli", "sith_hf.__main__"):
            continue
        names = getattr(import_module(module.name), "__all__", None)
        if names is not None:
            found[module.name] = tuple(names)
            # What a room does not import itself, because it is slow to import, its docstring names.
            by_file = re.findall(rf"``({re.escape(module.name)}\.\w+)``", import_module(module.name).__doc__ or "")
            found |= {name: _own(name) for name in by_file}
        elif module.ispkg:
            for part in iter_modules(import_module(module.name).__path__, f"{module.name}."):
                found[part.name] = _own(part.name)
        else:
            found[module.name] = _own(module.name)
    return {name: names for name, names in found.items() if names}


def place(room: str, name: str) -> str | None:
    """Where a public class or function is documented, which is where it is defined; None for a constant."""
    value = getattr(import_module(room), name)
    return f"{value.__module__}.{value.__qualname__}" if inspect.isclass(value) or inspect.isfunction(value) else None


@cache
def documented() -> dict[str, str]:
    """Every name that a docstring may cite, and the place where it is documented."""
    found = {}
    for room, names in rooms().items():
        for name in names:
            value, target = getattr(import_module(room), name), place(room, name)
            if target is None:
                continue
            found |= {f"{room}.{name}": target, target: target}
            if inspect.isclass(value):
                members = [member for member in vars(value) if not member.startswith("_")]
                found |= {f"{path}.{m}": f"{target}.{m}" for path in (f"{room}.{name}", target) for m in members}
    return found


def _own(name: str) -> tuple[str, ...]:
    module = import_module(name)
    values = [(key, value) for key, value in vars(module).items() if not key.startswith("_")]
    kinds = (inspect.isclass, inspect.isfunction)
    return tuple(k for k, v in values if any(kind(v) for kind in kinds) and v.__module__ == name)


class References(griffe.Extension):
    """Every docstring as Markdown, as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value, obj.path)


def markdown(text: str, path: str) -> str:
    """The docstring of ``path`` with links for Sphinx roles, and one colon for two before a block of code."""
    text = ROLE.sub(lambda role: _link(path, role["target"], bool(role["short"])), text)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


def _link(path: str, target: str, short: bool) -> str:
    title = target.rpartition(".")[2] if short else target
    here = path.split(".")
    # The full name, or a name in the class, module or package of the docstring.
    for depth in (0, *range(len(here), 0, -1)):
        found = documented().get(".".join([*here[:depth], target]))
        if found is not None:
            # Optional: members without a docstring have no place on the site.
            return f'<autoref identifier="{found}" optional><code>{title}</code></autoref>'
    return f"`{title}`"


def api_page(room: str) -> str:
    """The Markdown of one module's page: classes and functions, then constants."""
    head = f"# {room}\n\n{markdown(inspect.getdoc(import_module(room)) or '', room)}\n\n"
    places = {name: place(room, name) for name in rooms()[room]}
    if room == "sith_hf":
        return head + "".join(f"- [`{name}`][{path}]\n" for name, path in places.items())
    constants = [(name, getattr(import_module(room), name)) for name, path in places.items() if path is None]
    rows = "".join(f"| `{name}` | {_value(value)} |\n" for name, value in constants)
    table = f"\n## Constants\n\n| name | value |\n|---|---|\n{rows}" if rows else ""
    # What a room exports from another room is documented there.
    own = [path for path in places.values() if path is not None and path.startswith(f"{room}.")]
    return head + "\n".join(f"::: {path}\n" for path in own) + table


def _value(value: object) -> str:
    text = repr(value)
    simple = isinstance(value, (str, int, float)) or (isinstance(value, tuple) and "<" not in text)
    return _code(text) if simple and len(text) <= 100 else f"a {type(value).__name__}"


def command_pages() -> str:
    """The Markdown of every command with its arguments and options."""
    return "\n".join(["# Command line", "", *_command(command_line, None, "sith-hf")])


def _command(command: click.Command, parent: click.Context | None, path: str) -> Iterator[str]:
    context = click.Context(command, parent, path.rpartition(" ")[2], **command.context_settings)
    usage = " ".join(command.collect_usage_pieces(context))
    yield from ([f"## {path}", ""] if parent is not None else [])
    yield from [f"    {path} {usage}", "", inspect.cleandoc(command.help or "").replace("\b\n", ""), ""]
    options = [item.get_help_record(context) for item in command.get_params(context)]
    yield from ["| option | meaning |", "|---|---|"]
    yield from (f"| {_code(left)} | {_cell(right)} |" for left, right in filter(None, options) if right)
    yield ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None:
                yield from _command(found, context, f"{path} {name}")


def _code(text: str) -> str:
    return f"`{text}`"


def _cell(text: str) -> str:
    escaped = re.sub(r"([|<>{}*_\[\]\\])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![\w-])(--?[a-z][\w-]*)", r"`\1`", escaped) if "`" not in escaped else escaped


def fetched(text: str) -> list[str]:
    """The addresses on other hosts from which a page or stylesheet loads something."""
    return [next(filter(None, found)) for found in FETCHED.findall(text)]


def on_config(config: Any) -> Any:
    """Put a page for every module under API."""
    pages = [{room: f"api/{room}.md"} for room in rooms()]
    config.nav = [*config.nav, {"Command line": "cli.md"}, {"API": pages}]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    generated = {"cli.md": command_pages(), **{f"api/{room}.md": api_page(room) for room in rooms()}}
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_post_build(config: Any) -> None:
    """Refuse a site whose pages load anything from another host."""
    site = Path(config.site_dir)
    files = [path for path in site.rglob("*") if path.suffix in (".html", ".css")]
    bad = [f"{path.relative_to(site)}: {url}" for path in files for url in fetched(path.read_text(encoding="utf-8"))]
    if bad:
        raise PluginError("pages load from other hosts:\n" + "\n".join(bad))
