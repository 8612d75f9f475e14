"""Every artifact of the main job, made once by the command line. Tests read these folders and never write into them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.cli import HOSTILE, Ran, refused, sith, succeeded
from tests.support.raw import tree
from tests.support.tiny import projected_vision_model, save_clip, vision_model

WORDS = ("sea", "ocean", "beach", "forest", "road", "bird", "boat", "red", "blue", "night", *HOSTILE)


class Scene(NamedTuple):
    """A folder with ``clip``, ``other`` (same sizes, other weights), ``tower``, ``projected``, ``concepts.txt``, ``d``
    (a decomposition), ``spec`` and ``edited``; and the runs that made the last three."""

    folder: Path
    decompose: Ran
    edit: Ran
    save: Ran
    files: dict[str, str]


@pytest.fixture(scope="session")
def scene(tmp_path_factory):
    """The main job, from a checkpoint to an edited one."""
    folder = tmp_path_factory.mktemp("work")
    save_clip(folder / "clip")
    save_clip(folder / "other", seed=4)
    vision_model().save_pretrained(folder / "tower")
    projected_vision_model().save_pretrained(folder / "projected")
    (folder / "concepts.txt").write_text("\n".join([*WORDS, "", "Sea"]) + "\n", encoding="utf-8")
    made = succeeded(
        sith("decompose", folder / "clip", "--concepts", folder / "concepts.txt", "-o", folder / "d", "--json")
    )
    named = ("--suppress", "sea", "--amplify", "bird=2.5", "--invert", "night", "--threshold", "0.2", "--yes")
    drafted = succeeded(
        sith("edit", folder / "clip", "--decomposition", folder / "d", *named, "-o", folder / "spec", "--json")
    )
    saved = succeeded(
        sith("save-edited", folder / "clip", "--spec", folder / "spec", "-o", folder / "edited", "--json")
    )
    return Scene(folder, made, drafted, saved, tree(folder))


@pytest.fixture
def work(scene):
    """The folder of the scene; a test must leave it unchanged."""
    yield scene.folder
    assert tree(scene.folder) == scene.files


@pytest.fixture
def refuses(work, tmp_path):
    """Check that a command line is refused with a message that names what was wrong, and that it writes nothing.

    ``{work}`` stands for the folder of the scene, ``{out}`` for an output folder.
    """

    def check(words: tuple[str, ...], named: str) -> None:
        out = tmp_path / "out"
        message = refused(sith(*(word.replace("{work}", str(work)).replace("{out}", str(out)) for word in words)))
        assert named in message
        assert not any(tmp_path.iterdir())

    return check
