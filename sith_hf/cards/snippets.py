"""The code that a model card shows: written down once, and run before it is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from sith_hf.cards.facts import hub_base
from sith_hf.core.escaping import sanitize
from sith_hf.core.fingerprint import BaseRef
from sith_hf.errors import InputError
from sith_hf.towers import INDEX, SINGLE

TIMEOUT = 900

# Bytes of weights from which on a card's code is not run: it has two models in memory, and writes a third to the disk.
LARGE = 2 * 10**9

_RAN = "sith-hf: this part ran"


@dataclass(frozen=True)
class Snippet:
    """One piece of code of a card.

    Attributes:
        code: as the card shows it.
        printed: what it printed when it was run; None where it was not run.
        reason: why it was not run.
    """

    code: str
    printed: str | None
    reason: str = ""

    @property
    def shown(self) -> str:
        """The code, and below it as comments what it printed."""
        comments = [f"# {sanitize(line)}" for line in (self.printed or "").splitlines()]
        return "\n".join([self.code, *comments])


def code_parts(architecture: str, edited: str, base: str, revision: str | None) -> dict[str, str]:
    """The code of a card by what it is for: ``load``, ``compare``, ``revert``.

    Args:
        architecture: a class of ``transformers``.
        edited: Hub id or folder of the edited checkpoint.
        base: Hub id or folder of the base; likewise.
        revision: the base's commit on the Hub, None for a folder.
    """
    here, there = json.dumps(edited, ensure_ascii=False), json.dumps(base, ensure_ascii=False)
    pinned = there if revision is None else f'{there}, revision="{revision}"'
    # The spec of an edited checkpoint knows a base on the Hub and its revision.
    against = here if revision is not None else f"{here}, {there}"
    parts = {
        "load": f"""
            from transformers import {architecture}

            model = {architecture}.from_pretrained({here})
        """,
        "compare": f"""
            from sith_hf.checkpoint import verify

            found = verify({against})
            print(f"{{found.edited}} tensors hold the edit, {{found.identical}} have the bytes of the base")

            base = {architecture}.from_pretrained({pinned})
            theirs = base.state_dict()
            changed = [name for name, tensor in model.state_dict().items() if not tensor.equal(theirs[name])]
            print(f"{{len(changed)}} of {{len(theirs)}} tensors differ from the base")
        """,
        "revert": f"""
            from sith_hf.checkpoint import revert

            saved = revert({here}, "reverted")
            print(f"{{len(saved.changed)}} tensors brought back to the base, to within rounding")
        """,
    }
    return {
        name: "\n".join(line[12:] for line in code.strip("\n").splitlines()).strip() for name, code in parts.items()
    }


def executed_parts(architecture: str, folder: Path, repo_id: str, base: BaseRef) -> dict[str, Snippet]:
    """The code of a card, after the very same code was run on ``folder`` in one process, offline.

    The Hub id is replaced by the folder; a base that was read from a folder by its path, where it is still there.
    Reverting writes one copy of the checkpoint into a temporary folder. Nothing else is written, and no token is
    passed on. On weights of ``LARGE`` bytes or more nothing is run, and the reason says so.

    Args:
        architecture: a class of ``transformers``.
        folder: the edited checkpoint.
        repo_id: what the card calls it.
        base: the base of the edit.

    Raises:
        InputError: code that must run on every edited checkpoint did not.
    """
    pinned = hub_base(base)
    revision = base.revision if pinned else None
    local = None if pinned or not _is_checkpoint(base.name) else os.path.abspath(base.name)
    at_hand = local or _cached(pinned, revision)
    shown = code_parts(architecture, repo_id, pinned or "path/to/the/base", revision)
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    if size >= LARGE:
        reason = f"the weights have {size / 1e9:.1f} GB, and it is run on less than {LARGE / 1e9:.0f} GB"
        return {name: Snippet(code, None, reason) for name, code in shown.items()}
    real = code_parts(architecture, os.path.abspath(folder), at_hand or "", revision)
    order = ["load", "revert", *(["compare"] if at_hand else [])]
    printed, failure = run_parts({name: real[name] for name in order})
    missing = [name for name in order if name not in printed]
    strange = failure.rpartition("\n")[2].startswith("sith_hf.errors.")
    if missing and not (missing == ["compare"] and strange):
        raise InputError(
            f"{folder}: the code that its card would show fails ({sanitize(failure, 300)}); save the checkpoint again"
        )
    reason = "the base was not on the machine that made this card"
    return {
        name: Snippet(shown[name], printed.get(name), "" if name in printed else reason)
        for name in ("load", "compare", "revert")
    }


def run_parts(parts: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Run pieces of code one after the other in one Python process of its own, without network and without token.

    Returns:
        what each piece printed, for those that ran to their end, and the last line of an error.
    """
    script = "\n".join(f"{code}\nprint({_RAN!r})" for code in parts.values())
    secret = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")
    environment = {key: value for key, value in os.environ.items() if key not in secret}
    # The code must find this very package, installed or not.
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    environment |= {
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONIOENCODING": "utf-8",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "TRANSFORMERS_VERBOSITY": "error",
    }
    with tempfile.TemporaryDirectory(prefix="sith-card-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-c", script],
                cwd=folder,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=TIMEOUT,
                check=False,
            )
            output, errors = done.stdout, done.stderr.strip()
        except subprocess.TimeoutExpired:
            output, errors = "", f"it took more than {TIMEOUT} seconds"
    finished = output.split(f"{_RAN}\n")[:-1]
    printed = {name: text.strip() for name, text in zip(parts, finished, strict=False)}
    return printed, errors.rpartition("\n")[2]


def _is_checkpoint(name: str) -> bool:
    return os.path.isfile(os.path.join(name, "config.json"))


def _cached(hub_id: str | None, revision: str | None) -> str | None:
    """``hub_id`` if its weights can be read without the network, else None."""
    if hub_id is None:
        return None
    found = (try_to_load_from_cache(hub_id, name, revision=revision) for name in (SINGLE, INDEX))
    return hub_id if any(isinstance(path, str) for path in found) else None
