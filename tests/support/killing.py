"""A job that is killed repeatedly until it ends: run by test_resumable.py as a process of its own, which forks.

Forking is safe here alone: one thread, and nothing computed before.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import datasets.distributed  # noqa: F401  # imported late: each child would import it anew
import torch
from PIL import Image

from sith_hf.concepts.dictionary import ConceptDictionary
from sith_hf.editor import SithEditor
from sith_hf.files import new_folder, resumable
from sith_hf.towers import text_encoder as encoding
from sith_hf.towers.image_mean import ImageMean
from tests.support.made import tiny_concepts, tiny_editor

decompose = import_module("sith_hf.decomposition.decompose")


def explained(editor: SithEditor, concepts: ConceptDictionary, output: Path) -> None:
    """Encode, decompose and write, as the command line does."""
    with resumable.ResumableJob.beside(output) as kept:
        encoded = editor.encode(concepts, job=kept)
        result = editor.decompose(encoded, job=kept)
        with new_folder(output, keep_others=True) as folder:
            encoded.save_pretrained(folder)
            result.save_pretrained(folder)


def averaged(editor: SithEditor, data: Any, processor: Any, output: Path) -> None:
    """Average images and write."""
    from sith_hf.images.mean import mean_of_images

    with resumable.ResumableJob.beside(output) as kept:
        mean: ImageMean = mean_of_images(editor, data, processor=processor, batch_size=2, job=kept)
        mean.save_pretrained(output)


def child(job: Callable[[], None], log: int, kill_at: int | None) -> None:
    """Do the job; write every step on disk to the log, and die at step ``kill_at``."""
    steps = 0

    def step(name: str) -> None:
        nonlocal steps
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        steps += 1
        os.write(log, f"{name}\n".encode())

    def watched(module: Any, name: str) -> None:
        real = getattr(module, name)

        def around(*args: Any, **options: Any) -> Any:
            step(f"before {name}")
            result = real(*args, **options)
            step(f"after {name}")
            return result

        setattr(module, name, around)

    for name in ("fsync", "rename", "replace"):
        watched(os, name)
    real_parts, real_pieces = resumable.ResumableJob.parts, resumable.ResumableJob.pieces

    def parts(self: Any, job: str, facts: Any, names: Any, make: Any) -> Any:
        def logged(name: str) -> Any:
            part = make(name)
            step(f"made {job}/{name}")
            return part

        return real_parts(self, job, facts, names, logged)

    def pieces(self: Any, job: str, facts: Any, make: Any) -> Any:
        def logged(found: Any) -> Any:
            for name, part in make(found):
                step(f"made {job}/{name}")
                yield name, part

        return real_pieces(self, job, facts, logged)

    resumable.ResumableJob.parts, resumable.ResumableJob.pieces = parts, pieces  # type: ignore[method-assign]
    job()


def run(job: Callable[[], None], kill_at: int | None = None, kill_after: int | None = None) -> tuple[int, list[str]]:
    """Return the signal that ended a child doing the job (0 for none), and the steps in its log.

    Args:
        job: what to do.
        kill_at: the step at which the child kills itself.
        kill_after: the number of logged steps after which this process kills the child, wherever it then is.
    """
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(read)
            child(job, write, kill_at)
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    log = b""
    while some := os.read(read, 4096):
        log += some
        if kill_after is not None and log.count(b"\n") > kill_after:
            os.kill(process, signal.SIGKILL)
            kill_after = None
    os.close(read)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return (os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0), log.decode().splitlines()


def files(folder: Path) -> dict[str, bytes]:
    """Name to content of everything in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def story(job: Callable[[Path], None], folder: Path, seed: int, rounds: int) -> list[dict[str, Any]]:
    """Kill a job in several ways, each until it ends; return the outcomes."""
    whole = folder / "whole"
    _, steps = run(lambda: job(whole))
    wanted, parts = files(whole), sum(step.startswith("made") for step in steps)
    chance = random.Random(seed)
    found = []
    for number in range(rounds):
        output, kills, made, late = folder / f"killed-{number}", 0, 0, False
        while True:
            # The last runs go to their end, so that every story has one.
            at = chance.randrange(len(steps)) if kills < 4 else None
            if number % 2 == 0:
                ended, log = run(lambda out=output: job(out), kill_at=at)  # type: ignore[misc]
            else:
                # It runs on until the signal arrives.
                ended, log = run(lambda out=output: job(out), kill_after=at and at // 2)  # type: ignore[misc]
            made += sum(step.startswith("made") for step in log)
            if ended == 0:
                break
            assert ended == signal.SIGKILL
            # What is killed when its output is there has ended but for sweeping up.
            late = late or any(output.glob("[!.]*"))
            kills += 1
        found.append(
            {
                "kills": kills,
                "repeated": made - parts,
                "late": late,
                "same": files(output) == wanted,
                "left": sorted(path.name for path in folder.iterdir() if path.name.startswith(f"{output.name}.")),
            }
        )
    return [{"parts": parts, "steps": len(steps)}, *found]


def main() -> None:
    """``python -m tests.support.killing FOLDER SEED``: print the outcomes as JSON."""
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    encoding.BATCH_TOKENS, decompose.ROWS, decompose.DRAWS = 60, 32, 256
    from sith_hf.images import DatasetSettings
    from tests.support import evaluating, tiny

    # Each child would import it for the broken picture.
    Image.init()

    editor, concepts = tiny_editor(folder), tiny_concepts()
    rows = evaluating.dataset([*range(0, 250, 5), None, b"no picture"])
    rows.save_to_disk(folder / "pictures")
    data = {
        kind: DatasetSettings(dataset=str(folder / "pictures"), streaming=kind == "stream")
        for kind in ("table", "stream")
    }
    from sith_hf.images import mean as averaging

    averaging.BATCHES = 2
    result = {"decompose": story(lambda out: explained(editor, concepts, out), _below(folder, "d"), seed, 4)}
    for kind, source in data.items():
        result[kind] = story(
            lambda out, source=source: averaged(editor, source, tiny.image_processor(), out),  # type: ignore[misc]
            _below(folder, kind),
            seed,
            2,
        )
    print(json.dumps(result))


def _below(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


if __name__ == "__main__":
    main()
