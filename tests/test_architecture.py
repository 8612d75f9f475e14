"""The rooms of the package, read from its sources: imports go one way, through public names; nothing is unpickled."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sith_hf

ROOT = Path(sith_hf.__file__).parent

# A room imports from rooms above it only.
ORDER = [
    "errors",
    "core",
    "files",
    "charts",
    "hub",
    "data",
    "world",
    "pursuit",
    "towers",
    "concepts",
    "decomposition",
    "gains",
    "edits",
    "cards",
    "checkpoint",
    "publish",
    "images",
    "evaluation",
    "grounding",
    "adaptation",
    "editor",
    "judges",
    "reference",
    "fidelity",
    "recipe",
    "tuning",
    "explore",
    "demo",
    "cli",
    "__main__",
]

# The imports against ORDER, inside methods or for type checkers: the push mixin of the artifacts calls what publishes
# them, and a decomposition loads its base to ground it in images.
LATE = {
    ("hub.mixin", "publish"),
    ("decomposition.decomposition", "editor.__init__"),
    ("decomposition.decomposition", "grounding.__init__"),
}

# Modules that read whole files of their own, by no path from outside.
OWN_FILES = {"cards.markdown", "demo.run", "demo.without_sith", "publish"}

# Rooms whose files are imported one by one: the command line must start without torch.
BY_FILE = {"core"}

# Modules that import by name: the package and the command line load the names of a table on first use; the HTTP client
# of judges loads the library that huggingface_hub uses.
DYNAMIC = {"__init__", "cli.__init__", "judges.client"}


def sources() -> dict[str, str]:
    """Dotted name below sith_hf to source, of every module."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(ROOT.rglob("*.py"))
    }


@cache
def parsed(source: str) -> tuple[ast.AST, ...]:
    """Every node of a source."""
    return tuple(ast.walk(ast.parse(source)))


def imports(name: str, source: str, modules: Mapping[str, str]) -> Iterator[str]:
    """The modules of sith_hf that a module imports, in functions and under TYPE_CHECKING too."""
    package = ["sith_hf", *name.split(".")[:-1]]
    for node in parsed(source):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*start, *([node.module] if node.module else [])])
            found = [f"{stem}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in found:
            if full.split(".")[0] != "sith_hf":
                continue
            # The import names a module, or a name in one.
            parts = full.split(".")[1:]
            while parts and ".".join(parts) not in modules and ".".join([*parts, "__init__"]) not in modules:
                parts.pop()
            target = ".".join(parts)
            yield target if target in modules else f"{target}.__init__".lstrip(".")


def unit(name: str) -> str:
    """The room of a module."""
    return name.split(".")[0]


def backwards(modules: Mapping[str, str]) -> list[str]:
    """Imports against ORDER, and modules that ORDER lacks."""
    problems = [f"{name} is not in ORDER" for name in modules if name != "__init__" and unit(name) not in ORDER]
    for name, source in modules.items():
        if name == "__init__" or unit(name) not in ORDER:
            continue  # the package itself only points to its parts
        for target in imports(name, source, modules):
            if (name, target) in LATE:
                continue
            if unit(target) not in ORDER:
                problems.append(f"{name} imports {target}")
            elif unit(target) != unit(name) and ORDER.index(unit(target)) > ORDER.index(unit(name)):
                problems.append(f"{name} imports {target}, which is below it")
    return problems


def circle(modules: Mapping[str, str]) -> list[str]:
    """A circle of imports, or an empty list."""
    graph = {
        name: [t for t in imports(name, source, modules) if t != name and (name, t) not in LATE]
        for name, source in modules.items()
        if name != "__init__"
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def dangers(source: str) -> list[str]:
    """Calls that run code from files or texts. With weights_only=True, torch.load does not."""
    found = []
    safe = {
        node.func
        for node in parsed(source)
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "weights_only" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
    }
    for node in parsed(source):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in ("pickle", "cloudpickle", "dill", "joblib")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("pickle", "joblib", "dill"):
            found.append(str(node.module))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node not in safe:
            if (node.value.id, node.attr) in {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load")}:
                found.append(f"{node.value.id}.{node.attr}")
            if (node.value.id, node.attr) in {("os", "system"), ("os", "popen")}:
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle", "shell"):
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                found.append(str(node.arg))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
            found.append(node.func.id)
    return found


def inside(modules: Mapping[str, str]) -> list[str]:
    """Imports from another room that are not of its public names: of its files, or of private names."""
    problems = []
    for name, source in modules.items():
        if name == "__init__":
            continue  # loads the public names on first use, from where they are
        for node in parsed(source):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("sith_hf."):
                continue
            room, *rest = node.module.split(".")[1:]
            if room == unit(name):
                continue
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            hidden = rest and room not in BY_FILE
            module = [a.name for a in node.names if room not in BY_FILE and f"{room}.{a.name}" in modules]
            exported = public(modules.get(f"{room}.__init__", ""))
            unexported = [a.name for a in node.names if not rest and exported and a.name not in exported]
            if private or hidden or (module and set(module) - exported) or unexported:
                problems.append(f"{name} imports {', '.join(a.name for a in node.names)} from {node.module}")
    return problems


def unbounded(source: str) -> list[str]:
    """Calls that read a whole file, which might be a pipe, a device or of any size; files of the package are none."""
    found = []
    for node in parsed(source):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            ours = "files(" in ast.unparse(node.func.value)
            if node.func.attr in ("read_text", "read_bytes") and not ours:
                found.append(ast.unparse(node.func))
    return found


def by_name(node: ast.AST) -> bool:
    """Return whether a node refers to a function that imports a module by its name."""
    name = {ast.Name: "id", ast.Attribute: "attr", ast.alias: "name"}.get(type(node), "")
    return getattr(node, name, "") in ("import_module", "__import__")


def for_types(node: ast.AST) -> bool:
    """Return whether a node is a block that only type checkers read."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def public(source: str) -> set[str]:
    """The names in ``__all__`` of a source."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


class TestImports:
    def test_they_go_one_way(self):
        assert backwards(sources()) == []

    @pytest.mark.parametrize(("name", "target"), sorted(LATE))
    def test_a_late_import_is_in_a_function(self, name, target):
        tree = ast.parse(sources()[name])
        blocks = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) or for_types(n)]
        inner = [n for block in blocks for n in ast.walk(block)]
        module = f"sith_hf.{target}".removesuffix(".__init__")
        found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == module]
        assert found
        assert all(node in inner for node in found)

    def test_there_are_no_circles_of_files(self):
        assert circle(sources()) == []

    def test_rooms_meet_at_their_public_names(self):
        assert inside(sources()) == []

    def test_the_order_names_what_is_there(self):
        assert sorted({unit(name) for name in sources()} - {"__init__"}) == sorted(ORDER)

    def test_the_check_sees_imports(self):
        modules = sources()
        found = {(name, target) for name, source in modules.items() for target in imports(name, source, modules)}
        assert len(found) > 300
        assert ("checkpoint.verify", "towers.__init__") in found
        assert ("edits.build", "edits.spec") in found
        assert ("cli.show", "decomposition.__init__") in found
        assert ("__init__", "editor.__init__") in found

    @pytest.mark.parametrize(
        ("name", "source"),
        [
            ("errors", "import sith_hf.towers"),
            ("errors", "from . import towers"),
            ("errors", "from .towers import read_tower"),
            ("errors", "def f():\n    from sith_hf.editor import SithEditor"),
            ("errors", "if TYPE_CHECKING:\n    from sith_hf.edits import EditSpec"),
            ("errors", "from sith_hf import SithEditor"),
            ("demo.train", "from ..cli import options"),
            ("newcomer", "import os"),
        ],
    )
    def test_a_backwards_import_is_seen(self, name, source):
        assert len(backwards({**sources(), name: source})) == 1

    @pytest.mark.parametrize(
        "source", ["import os", "from sith_hf.errors import SithError", "from sith_hf.core.escaping import sanitize"]
    )
    def test_a_forwards_import_is_not(self, source):
        changed = {**sources(), "towers.clip": source}
        assert backwards(changed) == []
        assert inside(changed) == []

    @pytest.mark.parametrize(
        "source",
        [
            "from sith_hf.edits.spec import EditSpec",
            "from sith_hf.edits import spec",
            "from sith_hf.edits import _by_layer",
            "from sith_hf.core.escaping import _escaped",
            "from sith_hf.edits import layer_change",
        ],
    )
    def test_imports_of_other_than_public_names_are_seen(self, source):
        assert len(inside({**sources(), "cli.newcomer": source})) == 1

    def test_a_circle_is_seen(self):
        extra = {"cli.one": "from sith_hf.cli import two", "cli.two": "def f():\n    from sith_hf.cli.one import x"}
        assert set(circle({**sources(), **extra})) == {"cli.one", "cli.two"}

    def test_modules_are_imported_by_name_in_three_places_only(self):
        found = {name for name, source in sources().items() for node in parsed(source) if by_name(node)}
        assert found == DYNAMIC

    @pytest.mark.parametrize(
        "source", ["importlib.import_module(x)", "__import__(x)", "from importlib import import_module as load"]
    )
    def test_an_import_by_name_is_seen(self, source):
        assert any(map(by_name, parsed(source)))

    def test_a_plain_import_is_not(self):
        assert not any(map(by_name, parsed("import importlib\nimportlib.resources.files('sith_hf')")))


class TestSources:
    def test_every_module_says_what_it_is(self):
        assert [name for name, source in sources().items() if not ast.get_docstring(ast.parse(source))] == []

    def test_files_from_outside_are_read_by_core_reading(self):
        assert {name for name, source in sources().items() if unbounded(source)} <= OWN_FILES

    @pytest.mark.parametrize("source", ["path.read_text()", "(a / b).read_bytes()", "Path(name).read_text('x')"])
    def test_unbounded_reading_is_seen(self, source):
        assert unbounded(source)

    @pytest.mark.parametrize("source", ["read_text(path)", "files('sith_hf.recipes').joinpath('a').read_text()"])
    def test_bounded_reading_is_not(self, source):
        assert unbounded(source) == []

    def test_nothing_runs_code_out_of_files(self):
        assert {name: found for name, source in sources().items() if (found := dangers(source))} == {}

    @pytest.mark.parametrize(
        "source",
        [
            "import pickle",
            "from pickle import loads",
            "import torch\ntorch.load('x')",
            "loader = torch.load",
            "torch.load(path, weights_only=flag)",
            "AutoModel.from_pretrained(name, trust_remote_code=True)",
            "np.load(path, allow_pickle=True)",
            "AutoModel.from_pretrained(name, trust_remote_code=flag)",
            "eval(text)",
            "yaml.load(text)",
        ],
    )
    def test_the_dangers_are_seen(self, source):
        assert dangers(source)

    @pytest.mark.parametrize(
        "source",
        [
            "yaml.safe_load(text)",
            "torch.load(path, weights_only=True)",
            "f(trust_remote_code=False)",
            "safetensors.torch.load(b)",
        ],
    )
    def test_what_is_safe_is_not(self, source):
        assert dangers(source) == []
