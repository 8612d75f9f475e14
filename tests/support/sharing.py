"""Two processes of a run, started by tests/core/test_distributed.py; each writes a report file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from sith_hf import cli
from sith_hf.core.distributed import Processes, join_processes, silence_other_ranks
from sith_hf.errors import InputError, MissingExtra, SithError
from sith_hf.files import ResumableJob
from sith_hf.grounding import Grounding, ground, strongest
from sith_hf.images import DatasetSettings, mean_of_images
from sith_hf.images import mean as averaging
from sith_hf.towers import text_encoder as encoding
from tests.support import tiny
from tests.support.forking import forked, sharing
from tests.support.made import tiny_concepts, tiny_editor

decompose = import_module("sith_hf.decomposition.decompose")


class Cut(Exception):
    """An error that is not a SithError."""


def failing(processes: Processes, index: int, error: Exception) -> list[str]:
    """Return what each process raises when one of them fails."""

    def do() -> None:
        if processes.rank == index:
            raise error

    try:
        processes.all_gather(do)
    except Exception as raised:
        return [type(raised).__name__, str(raised).splitlines()[-1]]
    return []


def main() -> None:
    """What each does, of ``python -m tests.support.sharing FOLDER PORT``."""
    folder = Path(sys.argv[1])
    silence_other_ranks()
    processes = join_processes()
    found: dict[str, Any] = {"number": processes.world_size, "joined again": join_processes() == processes}

    def keep() -> None:
        (folder / f"found-{processes.rank}.json").write_text(json.dumps(found))

    found["together"] = processes.all_gather(lambda: processes.rank * 10)
    found["on main"] = processes.on_main(lambda: f"from {processes.rank}")
    found["ours"] = failing(processes, 1, InputError("a bad thing"))
    found["extra"] = failing(processes, 1, MissingExtra("sklearn", "lasso"))
    found["unexpected"] = failing(processes, 1, Cut("a bug"))
    found["on main only"] = failing(processes, 0, InputError("a bad thing"))
    found["after that"] = processes.all_gather(lambda: processes.rank)

    torch.set_num_threads(1)
    encoding.BATCH_TOKENS, decompose.ROWS, decompose.DRAWS, averaging.BATCHES = 60, 32, 256, 2
    strongest.BATCHES = 2
    editor, concepts = tiny_editor(folder / f"tokenizer-{processes.rank}"), tiny_concepts()
    made: list[str] = []
    shared = ResumableJob(None, processes)
    real = ResumableJob.parts

    def counted(self: ResumableJob, job: str, facts: Any, names: Any, make: Callable[[str], Any]) -> Any:
        def one(name: str) -> Any:
            made.append(name)
            return make(name)

        return real(self, job, facts, names, one)

    ResumableJob.parts = counted  # type: ignore[method-assign]
    encoded = editor.encode(concepts, job=shared)
    alone = editor.encode(concepts)
    found["encodes alike"] = torch.equal(encoded.embeddings, alone.embeddings)
    found["shares"] = made[: len(made) * 1 // 3]
    explained = editor.decompose(encoded, layers=[1, 2])
    for kind in ("table", "stream", "shards"):
        data = DatasetSettings(
            dataset=str(folder / ("shards" if kind == "shards" else "pictures")), streaming=kind != "table"
        )
        options: dict[str, Any] = {"processor": tiny.image_processor(), "batch_size": 2}
        many, one = (mean_of_images(editor, data, job=job, **options) for job in (shared, None))
        found[kind] = [
            torch.equal(many.image_mean, one.image_mean),
            many.count,
            dict(many.skipped),
            many.images_sha256 == one.images_sha256,
        ]
        grounded = [
            ground(editor, explained, data, vectors=[(1, 0, 0), (2, 3, 1)], job=job, **options)
            for job in (shared, None)
        ]
        found[f"grounded {kind}"] = [_bytes(each) for each in grounded]

    sys.argv = ["sith-hf", "decompose", str(folder / "clip"), "-o", str(folder / "none"), "--layers", "9"]
    try:
        cli.main()
    except SystemExit as stopped:
        found["code"] = stopped.code

    fsync, count = os.fsync, [0]

    def full(descriptor: int) -> None:
        count[0] += 1
        if count[0] > 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    if processes.is_main:
        os.fsync = full
    found["full disk"] = _raised(lambda: _whole(editor, concepts, folder / "full", processes))
    os.fsync = fsync
    keep()

    if not processes.is_main:
        svd, calls = torch.linalg.svd, [0]

        def deadly(*arguments: Any, **options: Any) -> Any:
            calls[0] += 1
            if calls[0] > 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return svd(*arguments, **options)

        torch.linalg.svd = deadly
    found["killed"] = _raised(lambda: _whole(editor, concepts, folder / "killed", processes))
    keep()


def _whole(editor: Any, concepts: Any, output: Path, processes: Processes) -> None:
    with ResumableJob.beside(output, processes) as job:
        result = editor.decompose(concepts, job=job)
        processes.on_main(lambda: result.save_pretrained(output))


def _bytes(found: Grounding) -> str:
    """The fingerprint of all that a grounding holds."""
    images = [image for pole in found.poles for image in pole.images]
    patches = b"".join(image.patches.numpy().tobytes() for image in images if image.patches is not None)
    pictures = json.dumps({row: hashlib.sha256(file).hexdigest() for row, file in sorted(found.pictures.items())})
    text = json.dumps(found.to_json()) + pictures
    return hashlib.sha256(text.encode() + patches).hexdigest()


def _raised(do: Callable[[], None]) -> list[str]:
    try:
        do()
    except SithError as error:
        return [type(error).__name__, str(error)]
    return []


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    codes = forked(sharing(main, 2, sys.argv[2]), 2, folder)
    (folder / "codes.json").write_text(json.dumps(codes))
