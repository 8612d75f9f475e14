"""The layers of the package, read from its sources: imports go one way, modules stay small, nothing is unpickled."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import sith_hf

ROOT = Path(sith_hf.__file__).parent

# A module imports from those above it and from none below. Packages count as one; inside them there are no circles.
ORDER = [
    "errors",
    "checks",
    "display",
    "hub_faults",
    "parcel",
    "pull",
    "transfer",
    "pushable",
    "embedded",
    "settings",
    "world",
    "configs",
    "templates",
    "explanation",
    "origin",
    "rank_one",
    "artifacts",
    "fingerprint",
    "processes",
    "work",
    "offload",
    "svd",
    "nnls",
    "atoms",
    "stored",
    "candidates",
    "coarse",
    "search",
    "coders",
    "prepared",
    "pursuit",
    "towers",
    "loading",
    "encoding",
    "concept_texts",
    "concepts",
    "decomposition",
    "decompose",
    "image_mean",
    "quoting",
    "sheets",
    "scores",
    "gains",
    "rules",
    "edits",
    "write_back",
    "baselines",
    "steady",
    "new_folder",
    "shards",
    "card_facts",
    "card_code",
    "edit_map",
    "cards",
    "checkpoint",
    "adapter",
    "verify",
    "applied",
    "hub",
    "saving",
    "editor",
    "relevance",
    "drift",
    "budget",
    "judges",
    "evaluation",
    "averaging",
    "sweep",
    "charts",
    "quality",
    "reference_files",
    "reference",
    "recipe",
    "demo",
    "cli",
    "__main__",
]

# The imports against ORDER, each inside a function: what is published needs its card, and a card what it is about.
LATE = {("pushable", "hub")}

MAX_LINES = 350

# The lazy imports of the package and of the command line, whose names stand in a table.
DYNAMIC = {"__init__", "cli.__init__"}


def sources() -> dict[str, str]:
    """Dotted name below sith_hf to source, for every module that is there."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in sorted(ROOT.rglob("*.py"))
    }


@cache
def parsed(source: str) -> tuple[ast.AST, ...]:
    """Every node of a source."""
    return tuple(ast.walk(ast.parse(source)))


def imports(name: str, source: str, modules: Mapping[str, str]) -> Iterator[str]:
    """The modules of ours that a module imports anywhere in it, functions and TYPE_CHECKING included."""
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
            # What is imported is a module, or a name in one.
            parts = full.split(".")[1:]
            while parts and ".".join(parts) not in modules and ".".join([*parts, "__init__"]) not in modules:
                parts.pop()
            target = ".".join(parts)
            yield target if target in modules else f"{target}.__init__".lstrip(".")


def unit(name: str) -> str:
    """What a module counts as in ORDER."""
    return name.split(".")[0]


def backwards(modules: Mapping[str, str]) -> list[str]:
    """Imports against ORDER, and modules that ORDER does not know."""
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
                problems.append(f"{name} imports {target}, which stands below it")
    return problems


def circle(modules: Mapping[str, str]) -> list[str]:
    """One circle of imports, if there is any."""
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
    """What runs code out of files or texts. torch.load unpickles nothing when it is told weights_only=True."""
    found = []
    tame = {
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
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node not in tame:
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


class TestImports:
    def test_they_go_one_way(self):
        assert backwards(sources()) == []

    @pytest.mark.parametrize(("name", "target"), sorted(LATE))
    def test_a_late_import_is_one_and_stands_in_a_function(self, name, target):
        tree = ast.parse(sources()[name])
        inside = [n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)]
        found = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == f"sith_hf.{target}"]
        assert found
        assert all(node in inside for node in found)

    def test_there_are_no_circles_inside_packages_either(self):
        assert circle(sources()) == []

    def test_the_order_names_what_is_there(self):
        assert sorted({unit(name) for name in sources()} - {"__init__"}) == sorted(ORDER)

    def test_the_order_is_needed(self):
        # Turned round, it is broken over and over: the check does see imports.
        found = {(name, target) for name, source in sources().items() for target in imports(name, source, sources())}
        assert len(found) > 60
        assert ("checkpoint", "shards") in found
        assert ("cli.verify", "verify") in found
        assert ("editor", "checkpoint") in found  # from sith_hf import checkpoint
        assert ("__init__", "svd") in found

    @pytest.mark.parametrize(
        ("name", "source"),
        [
            ("errors", "import sith_hf.towers.clip"),
            ("errors", "from sith_hf import towers"),
            ("errors", "from sith_hf.towers.clip import VisionTower as V"),
            ("errors", "from . import towers"),
            ("errors", "from .towers import read_tower"),
            ("errors", "def f():\n    from sith_hf.editor import SithEditor"),
            ("errors", "if TYPE_CHECKING:\n    from sith_hf.edits.spec import EditSpec"),
            ("errors", "from sith_hf import SithEditor"),
            ("errors", "import sith_hf"),
            ("towers", "from sith_hf.cli import main"),
            ("checkpoint", "from sith_hf import verify"),
            ("demo.train", "from sith_hf.cli.options import Numbers"),
            ("demo.train", "from ..cli import options"),
            ("newcomer", "import os"),
        ],
    )
    def test_a_backwards_import_is_seen(self, name, source):
        assert len(backwards({**sources(), name: source})) == 1

    @pytest.mark.parametrize(
        "source", ["import os", "from sith_hf.errors import SithError", "from sith_hf import errors"]
    )
    def test_a_forwards_import_is_not(self, source):
        assert backwards({**sources(), "towers": source}) == []

    def test_a_circle_is_seen(self):
        extra = {"cli.one": "from sith_hf.cli import two", "cli.two": "def f():\n    from sith_hf.cli.one import x"}
        assert set(circle({**sources(), **extra})) == {"cli.one", "cli.two"}

    def test_modules_are_imported_by_name_in_two_places_only(self):
        found = {
            name
            for name, source in sources().items()
            for node in parsed(source)
            if isinstance(node, ast.Name) and node.id in ("import_module", "__import__")
        }
        assert found == DYNAMIC


class TestSources:
    def test_modules_are_small(self):
        assert {name: n for name, source in sources().items() if (n := len(source.splitlines())) > MAX_LINES} == {}

    def test_every_module_says_what_it_is(self):
        assert [name for name, source in sources().items() if not ast.get_docstring(ast.parse(source))] == []

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
