"""A folder that appears under its name when it is whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sith_hf.errors import InputError, OutputError

# The working folder of a process. It is locked while the process lives; the kernel takes the lock away with it.
_PREFIX, _SUFFIX = ".sith-hf-work.", ".partial"
# Inside it: what is being made, and below OLD, under its own name, what is being replaced.
_NEW, _OLD = "new", "old"
# Never a link to elsewhere, nor a pipe that would wait for a writer.
_OPEN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_DIRECTORY", 0)


@contextmanager
def new_folder(source: Path, target: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` when the block ends well and vanishes when it does not.

    What processes that were killed left beside ``target`` is cleared away first (see :func:`clear_left_over`).

    Raises:
        InputError: the target is a file, in use without ``overwrite``, or overlaps the source.
        OutputError: writing failed.
    """
    temporary: Path | None = None
    lock: int | None = None
    made: list[Path] = []
    try:
        try:
            here, there = source.resolve(), target.resolve()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{target} is no place for a folder ({error}); name another") from None
        if here == there or here in there.parents or there in here.parents:
            raise InputError(f"{target} and the source {source} overlap; write into another folder")
        if target.is_symlink() or (target.exists() and not target.is_dir()):
            raise InputError(f"{target} exists and is not a folder; name a new one")
        clear_left_over(there.parent)
        if target.is_dir() and any(target.iterdir()) and not overwrite:
            raise InputError(f"{target} is not empty; name a new folder, or allow overwriting it (--overwrite)")
        made = [place for place in there.parents if not place.exists()]
        there.parent.mkdir(parents=True, exist_ok=True)
        temporary, lock = _working_folder(there.parent)
        work = temporary / _NEW
        work.mkdir()
        yield work
        _replace_folder(there, work, temporary / _OLD / there.name)
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{target} could not be written ({error.strerror or error}); nothing was left there"
        ) from error
    finally:
        # An old folder that could not be put back is never thrown away.
        if temporary is not None and (there.exists() or not _kept(temporary)):
            shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)
        with suppress(OSError):  # a parent that holds something stays
            for place in made:
                place.rmdir()


def clear_left_over(parent: Path) -> None:
    """Clear away the working folders in ``parent`` of processes that ended without doing so, as by SIGKILL.

    A folder that one of them was replacing, and that has no successor under its name, gets its name back; one that
    has is left where it is. Folders of processes that live are left alone, and so are all where the file system or
    the platform has no locks.
    """
    with suppress(OSError):
        for stale in sorted(parent.glob(f"{_PREFIX}*{_SUFFIX}")):
            with suppress(OSError):
                lock = os.open(stale, _OPEN)
                try:
                    if _locked(lock, wait=False) and _is(stale, lock):
                        _clear(stale)
                finally:
                    os.close(lock)


def _clear(stale: Path) -> None:
    for old in _kept(stale):
        if not os.path.lexists(stale.parent / old.name):
            os.rename(old, stale.parent / old.name)
    if _kept(stale):
        shutil.rmtree(stale / _NEW, ignore_errors=True)
    else:
        shutil.rmtree(stale, ignore_errors=True)


def _kept(temporary: Path) -> list[Path]:
    """What was replaced and is still in a working folder."""
    return list((temporary / _OLD).iterdir()) if (temporary / _OLD).is_dir() else []


def _working_folder(parent: Path) -> tuple[Path, int | None]:
    """A fresh one, and the descriptor that holds its lock; None where there are no locks."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=_PREFIX, suffix=_SUFFIX))
        try:
            lock = os.open(folder, _OPEN)
        except OSError:
            return folder, None
        locked = _locked(lock, wait=True)
        # Between its making and its locking, another process may have taken it for left over.
        if _is(folder, lock) or not locked:
            return folder, lock
        os.close(lock)


def _locked(descriptor: int, *, wait: bool) -> bool:
    """Lock a folder for this process. False where another has it, or where that cannot be done."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def _is(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(folder, follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


def _replace_folder(target: Path, new: Path, old: Path) -> None:
    """Rename ``new`` to ``target``, and ``target``, where there is one, to ``old``; both or neither."""
    try:
        if target.is_dir():
            old.parent.mkdir()
            os.rename(target, old)
        os.rename(new, target)
    except BaseException:
        if old.exists() and not target.exists():
            try:
                os.rename(old, target)
            except OSError as error:
                raise OutputError(
                    f"{target} could not be written ({error.strerror or error}); what was there is now in {old}"
                ) from error
        raise
