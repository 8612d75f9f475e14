"""The wheel, built outside git and installed into an empty folder, holds the files of the tree and no others."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# Folders at the root that are installed as our packages.
MAPPED = {"recipes": "sith_hf/recipes", "hub_cards": "sith_hf/hub_cards"}
SKIPPED = ("__pycache__",)


def run(*words: object, cwd: Path, **environment: str) -> str:
    """Run a command; its stdout."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=cwd,
        env={**clean, "PIP_NO_INDEX": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def packaged(root: Path) -> dict[str, str]:
    """Installed name to sha256 of every file in the tree that belongs to the package."""
    found = {}
    for folder, target in {"sith_hf": "sith_hf", **MAPPED}.items():
        for path in sorted((root / folder).rglob("*")):
            relative = path.relative_to(root / folder)
            hidden = any(part.startswith(".") or part in SKIPPED for part in relative.parts)
            if path.is_file() and not hidden and path.suffix != ".pyc":
                found[f"{target}/{relative.as_posix()}"] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the repository without git and the virtual environment."""
    folder = tmp_path_factory.mktemp("outside") / "sith"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "sith-demo")
    shutil.copytree(REPOSITORY, folder, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def expected(tree):
    """What the wheel must hold, taken before anything is built."""
    return packaged(tree)


@pytest.fixture(scope="module")
def wheel(tree, expected):
    """The wheel."""
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tree.parent / "dist", tree, cwd=tree)
    (path,) = (tree.parent / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def bare(wheel, tmp_path_factory):
    """A folder with the wheel installed in it, and nothing else."""
    folder = tmp_path_factory.mktemp("bare") / "site"
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--no-compile", "--target", folder, wheel, cwd=wheel.parent)
    return folder


def test_the_wheel_is_the_tree(wheel, expected):
    with zipfile.ZipFile(wheel) as archive:
        found = {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if ".dist-info/" not in name
        }
    assert found == expected
    # Controls: data files that are easily forgotten.
    names = set(found)
    assert {"sith_hf/py.typed", "sith_hf/concepts/builtin.yaml", "sith_hf/cli/__init__.py"} <= names
    assert {"sith_hf/recipes/demo.yaml", "sith_hf/hub_cards/model_card.md.j2"} <= names
    assert {"sith_hf/demo/checkpoint/config.json", "sith_hf/demo/checkpoint/model.safetensors"} <= names


def test_nothing_leaks_into_site_packages(bare):
    names = {path.name for path in bare.iterdir()} - {"bin", "Scripts"}
    (info,) = (name for name in names if name.endswith(".dist-info"))
    assert info.startswith("sith_hf-")
    assert names - {info} == {"sith_hf"}


def test_what_is_installed_is_what_was_built(bare, expected):
    found = {
        path.relative_to(bare).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (bare / "sith_hf").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert found == expected


PROBE = """
import json, sys
from importlib.metadata import entry_points, version
from importlib.resources import files
import sith_hf
from sith_hf.concepts import ConceptDictionary
names = lambda package, ending: sorted(f.name for f in files(package).iterdir() if f.name.endswith(ending))
print(json.dumps({
    "home": sith_hf.__file__,
    "version": [sith_hf.__version__, version("sith-hf")],
    "recipes": names("sith_hf.recipes", ".yaml"),
    "texts": [f.read_text(encoding="utf-8")[:10] for f in files("sith_hf.recipes").iterdir() if f.name == "demo.yaml"],
    "cards": names("sith_hf.hub_cards", ".j2"),
    "concepts": len(ConceptDictionary.builtin()),
    "checkpoint": sorted(f.name for f in (files("sith_hf.demo") / "checkpoint").iterdir()),
    "scripts": [e.value for e in entry_points(group="console_scripts") if e.name == "sith-hf"],
}))
"""


def test_its_data_is_found_from_elsewhere(bare, tmp_path):
    found = json.loads(run(sys.executable, "-c", PROBE, cwd=tmp_path, PYTHONPATH=str(bare)))
    assert Path(found["home"]).is_relative_to(bare)  # and not the tree that the environment is linked to
    assert len(set(found["version"])) == 1
    assert found["recipes"] == sorted(path.name for path in (REPOSITORY / "recipes").glob("*.yaml"))
    assert found["texts"][0].strip()
    assert found["cards"] == sorted(path.name for path in (REPOSITORY / "hub_cards").glob("*.j2"))
    assert found["concepts"] > 2000
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(found["checkpoint"])
    assert "sith_hf.cli:main" in found["scripts"]


def test_the_command_line_starts_from_there(bare, tmp_path):
    shown = run(sys.executable, "-m", "sith_hf", "--help", cwd=tmp_path, PYTHONPATH=str(bare))
    assert "save-edited" in shown


def test_its_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode("utf-8"))
        licences = [n for n in archive.namelist() if n.endswith("/LICENSE")]
        assert len(licences) == 1
        assert b"Apache License" in archive.read(licences[0])
    assert metadata["Name"] == "sith-hf"
    assert metadata["License-Expression"] == "Apache-2.0"
    needed = metadata.get_all("Requires-Dist")
    assert any(item.startswith("transformers<6,>=5.6") for item in needed)
    optional = [item for item in needed if item.startswith(("scikit-learn", "matplotlib", "pytest"))]
    assert len(optional) >= 3
    assert all("extra ==" in item for item in optional)
