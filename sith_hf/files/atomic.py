"""Files and folders that appear under their name when they are whole and on the disk, or not at all.

Everything is made in a working folder beside its place. The process that made it holds a lock in it; what a killed
process left is swept by the next one that works there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from sith_hf.errors import InputError, OutputError, SithError
from sith_hf.files.unchanged import write_all

_PREFIX, _SUFFIX = ".sith-hf-work.", ".partial"
_SCRATCH = "sith-hf-"
# Working folders of ours, and those of releases that ran the code of a card.
_NAMES = re.compile(r"(\.sith-hf-work\.|sith-hf-).*\.partial|sith-card-[a-z0-9_]{8}")
# Inside: what is being made, the old folder under its own name while it is replaced, and the lock.
_NEW, _OLD, _LOCK = "new", "old", "lock"
# A folder without a lock is one of the past, or of a process about to lock it: seconds. This old, it is left over.
_LEFT_OVER = 24 * 3600.0
# Of renameat2(2).
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# The answers of file systems that have no locks, and that cannot sync a folder.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def write_whole(path: Path, content: bytes | Callable[[FileIO], object]) -> None:
    """Write a file so that nobody ever sees half of it; an earlier one under its name is replaced.

    Args:
        path: where. Missing folders are made.
        content: its bytes, or what writes them into an empty open file.

    Raises:
        OutputError: it could not be written.
    """
    with _output(path, (OSError, ValueError)), made_parents(path), _working_folder(path.parent) as work:
        with FileIO(work / _NEW, "w") as file:
            if isinstance(content, bytes):
                write_all(file, content)
            else:
                content(file)
            os.fsync(file.fileno())
        os.replace(work / _NEW, path)
        _sync_parent(path)


@contextmanager
def new_folder(
    target: Path, *, source: Path | None = None, overwrite: bool = False, keep_others: bool = False
) -> Iterator[Path]:
    """A folder to fill, which becomes ``target`` when the block ends well and vanishes when it does not.

    Args:
        target: its place.
        source: a folder that is read meanwhile, and must not overlap.
        overwrite: replace a ``target`` that is not empty.
        keep_others: replace the files of the same names in it, all together, and keep all others.

    Raises:
        InputError: the target is a file, in use without ``overwrite``, or overlaps the source.
        OutputError: writing failed.
    """
    with _output(target):
        try:
            there, here = target.resolve(), None if source is None else source.resolve()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{target} is no place for a folder ({error}); name another") from None
        if here is not None and (here == there or here in there.parents or there in here.parents):
            raise InputError(f"{target} and the source {source} overlap; write into another folder")
        if (target.is_symlink() and not keep_others) or (target.exists() and not target.is_dir()):
            raise InputError(f"{target} exists and is not a folder; name a new one")
        sweep(there.parent)  # what a killed run was replacing comes back
        if there.is_dir() and any(there.iterdir()) and not (overwrite or keep_others):
            raise InputError(f"{target} is not empty; name a new folder, or allow overwriting it (--overwrite)")
        with made_parents(there), _working_folder(there.parent) as work:
            new = work / _NEW
            new.mkdir()
            yield new
            _sync_tree(new)
            if keep_others and there.is_dir():
                _merge(there, new, work / "aside")
            else:
                _replace(there, new, work / _OLD / there.name)
            _sync_parent(there)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder. Raises OutputError where none can be made."""
    place = Path(tempfile.gettempdir())
    made = False
    try:
        with _working_folder(place, _SCRATCH) as work:
            new = work / _NEW
            new.mkdir()
            made = True
            yield new
    except OSError as error:
        if made:
            raise
        raise OutputError(f"{place}: a temporary folder could not be made ({_reason(error)}); make room") from None


def hold(path: Path) -> BaseFileLock:
    """Lock a file, which is made if it is missing, until the lock is released or this process ends.

    Raises:
        Timeout: another has it.
        OSError: the file system has no locks.
    """
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, str(error)) from None
    if not path.exists():  # its last owner has removed it meanwhile
        lock.release()
        raise Timeout(str(path))
    return lock


def sweep(parent: Path) -> None:
    """Remove the working folders in ``parent`` of processes that ended without doing so, as by SIGKILL.

    A folder that one of them was replacing gets its name back where nothing else has that name, and else stays. What
    a living process holds stays, and so does all that cannot be locked.
    """
    with suppress(OSError):
        for stale in sorted(parent / name for name in os.listdir(parent) if _NAMES.fullmatch(name)):
            with suppress(OSError):
                found = stale.lstat()
                others = hasattr(os, "getuid") and found.st_uid != os.getuid()
                if others or not stat.S_ISDIR(found.st_mode):
                    continue
                if os.path.lexists(stale / _LOCK):
                    lock = hold(stale / _LOCK)
                    for old in _kept(stale):
                        if not os.path.lexists(parent / old.name):
                            os.rename(old, parent / old.name)
                    _remove(stale, lock, keep_old=bool(_kept(stale)))
                elif time.time() - found.st_mtime > _LEFT_OVER:
                    _remove(stale, None, keep_old=bool(_kept(stale)))


@contextmanager
def made_parents(path: Path) -> Iterator[None]:
    """Make the folders above ``path`` that are missing. Where the block fails, those are removed again, if empty."""
    made = [place for place in path.parents if not place.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
        for place in made:
            _sync_parent(place)
    except BaseException:
        with suppress(OSError):  # a folder that holds something stays
            for place in made:
                with suppress(FileNotFoundError):
                    place.rmdir()
        raise


@contextmanager
def _output(path: Path, kinds: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Raise what the system refuses as OutputError."""
    try:
        yield
    except kinds as error:
        if isinstance(error, SithError):
            raise
        raise OutputError(f"{path} could not be written ({_reason(error)}); nothing was changed there") from error


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


@contextmanager
def _working_folder(parent: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """A fresh folder in ``parent``, locked by this process where there are locks."""
    sweep(parent)
    lock: BaseFileLock | None = None
    for _ in range(9):
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix, suffix=_SUFFIX))
        try:
            lock = hold(folder / _LOCK)
        except (Timeout, FileNotFoundError):
            continue  # another process swept it before it was locked
        except BaseException as error:
            if not isinstance(error, OSError) or error.errno not in _NO_LOCKS:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            (folder / _LOCK).unlink(missing_ok=True)  # its age alone then says that it is left over
        break
    else:
        raise OSError(errno.ENOLCK, f"no lock could be taken in {parent}")
    try:
        yield folder
    finally:
        # An old folder that could not be put back is never thrown away.
        _remove(folder, lock, keep_old=any(not os.path.lexists(parent / old.name) for old in _kept(folder)))


def _remove(folder: Path, lock: BaseFileLock | None, *, keep_old: bool) -> None:
    # The lock goes with the folder: who takes it later finds it without a name. Windows removes no file that is open.
    if lock is not None and os.name == "nt":
        lock.release()
    shutil.rmtree(folder / _NEW if keep_old else folder, ignore_errors=True)
    if lock is not None:
        lock.release()


def _kept(work: Path) -> list[Path]:
    """The folder that was replaced and is still in a working folder."""
    return list((work / _OLD).iterdir()) if (work / _OLD).is_dir() else []


# ---------------------------------------------------------------- putting it under its name


def _replace(there: Path, new: Path, old: Path) -> None:
    """Give ``new`` the name ``there``; a folder that has it is in the working folder then."""
    if not there.is_dir():
        os.rename(new, there)
        return
    if _exchange(new, there):
        return
    try:
        old.parent.mkdir()
        os.rename(there, old)
        os.rename(new, there)
    except BaseException:
        if old.exists() and not there.exists():
            try:
                os.rename(old, there)
            except OSError as error:
                raise OutputError(
                    f"{there} could not be written ({_reason(error)}); what was there is now in {old}"
                ) from error
        raise


def _merge(there: Path, new: Path, aside: Path) -> None:
    """Replace the files of ``there`` that ``new`` has too, all or none, and keep the others.

    The whole folder is exchanged where that is safe: then not even a kill leaves one old and one new file. The others
    are linked into the new folder before. It is not safe for a folder within it, which another process may be
    filling, for a mount, nor for the current folder, in which the user's shell would be left without files.
    """
    current = Path.cwd()
    flat = not any(entry.is_dir(follow_symlinks=False) for entry in os.scandir(there))
    if flat and there not in (current, *current.parents) and not os.path.ismount(there):
        linked: list[Path] = []
        with suppress(OSError, NotImplementedError):  # file systems and platforms without links
            for name in sorted({*os.listdir(there)} - {*os.listdir(new)}):
                os.link(there / name, new / name, follow_symlinks=False)
                linked.append(new / name)
            shutil.copystat(there, new)
            _sync_folder(new)
            if _exchange(new, there):
                # What another program has written there in between.
                for name in {*os.listdir(new)} - {*os.listdir(there)}:
                    os.rename(new / name, there / name)
                return
        for path in linked:
            path.unlink()
    _merge_files(there, new, aside)


def _merge_files(there: Path, new: Path, aside: Path) -> None:
    """The same a file at a time. A failure puts the old files back; a kill in between does not."""
    done: list[tuple[Path, Path | None]] = []
    with ExitStack() as made:
        try:
            for path in sorted(path for path in new.rglob("*") if not path.is_dir()):
                final, old = there / path.relative_to(new), aside / path.relative_to(new)
                made.enter_context(made_parents(final))
                if os.path.lexists(final):
                    old.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        os.link(final, old)
                    except (OSError, NotImplementedError):
                        shutil.copy2(final, old)
                done.append((final, old if old.exists() else None))
                os.replace(path, final)
                _sync_parent(final)
        except BaseException:
            for final, before in reversed(done):
                try:
                    if before is None:
                        final.unlink(missing_ok=True)
                    else:
                        os.replace(before, final)
                except OSError as error:
                    raise OutputError(f"{there} is half written: {final} could not be put back ({error})") from error
            raise


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step. False where the kernel or the file system cannot."""
    if sys.platform != "linux":
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # a C library without it
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


# ---------------------------------------------------------------- onto the disk


def _sync_tree(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            if not os.path.islink(path := os.path.join(place, name)):
                _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        _sync_folder(place)


def _sync_parent(path: Path) -> None:
    """Wait until the name of a file or folder is on the disk. Raises OutputError, for it is there by now."""
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path} was written, but it may not be on the disk ({_reason(error)}): look at it before you go on"
        ) from error


def _sync_folder(folder: str | Path) -> None:
    if os.name == "nt":  # which opens no folder
        return
    try:
        _sync(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise


def _sync(path: str | Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
