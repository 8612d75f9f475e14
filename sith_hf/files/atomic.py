"""Files and folders that appear under their final name whole and on the disk, or not at all.

Everything is made in a working folder beside its final place. A lock in that folder shows that its process is alive;
the next process that works there removes the folders of killed ones.
"""

from __future__ import annotations

import ctypes
import errno
import filecmp
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

from sith_hf.core.reading import reason
from sith_hf.errors import InputError, OutputError, SithError
from sith_hf.files.unchanged import write_all

_PREFIX, _SCRATCH, _SUFFIX = ".sith-hf-work.", "sith-hf-", ".partial"
# Working folders, and those of releases that ran the code of a card.
_NAMES = re.compile(r"(\.sith-hf-work\.|sith-hf-).*\.partial|sith-card-[a-z0-9_]{8}")
# In a working folder: the new file or folder, the old folder under its own name while it is replaced, and the lock.
_NEW, _OLD, _LOCK = "new", "old", "lock"
# In its place, where the file system has no locks: an empty folder is left over from a kill before it was locked.
_UNLOCKED = "unlocked"
# Another folder without a lock may be in use, by an earlier release too. After a day it is left over.
_LEFT_OVER = 24 * 3600.0
# Of renameat2(2).
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# Errors of file systems that have no locks, and that cannot sync a folder.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)


def write_whole(path: Path, content: bytes | Callable[[FileIO], object]) -> None:
    """Write a file atomically; an earlier one of the same name is replaced.

    Args:
        path: its path. Missing folders are created.
        content: its bytes, or a function that writes them into an empty open file.

    Raises:
        OutputError: it could not be written.
    """
    with writing(path), made_parents(path), _working_folder(path.parent) as work:
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
    target: Path,
    *,
    source: Path | None = None,
    overwrite: bool = False,
    keep_others: bool = False,
    repeats: Callable[[Path], bool] = lambda _: False,
) -> Iterator[Path]:
    """Yield a folder to fill, which becomes ``target`` after the block and is removed if the block fails.

    Args:
        target: its place.
        source: a folder that is read meanwhile and must not overlap.
        overwrite: replace a ``target`` that is not empty.
        keep_others: replace files of the same names in ``target``, all together, and keep all others.
        repeats: called with a ``target`` that is not empty, without ``overwrite`` and ``keep_others``; whether the
            block probably makes its content again.

    A ``target`` that already has the content of the new folder is left alone, also without ``overwrite``.

    Raises:
        InputError: ``target`` is a file, has other content without ``overwrite``, or overlaps ``source``.
        OutputError: it could not be written.
    """
    with writing(target, (OSError,)):
        try:
            there, here = target.resolve(), None if source is None else source.resolve()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{target} cannot be a folder ({error}); name another") from None
        if here is not None and (here == there or here in there.parents or there in here.parents):
            raise InputError(f"{target} and the source {source} overlap; write into another folder")
        if (target.is_symlink() and not keep_others) or (target.exists() and not target.is_dir()):
            raise InputError(f"{target} exists and is not a folder; name a new one")
        sweep(there.parent)  # restores what a killed run was replacing
        occupied = there.is_dir() and any(there.iterdir())
        if occupied and not (overwrite or keep_others or repeats(there)):
            raise InputError(f"{target} is not empty; name a new folder, or replace it with --overwrite")
        with made_parents(there), _working_folder(there.parent) as work:
            new = work / _NEW
            new.mkdir()
            try:
                yield new
            except OutputError as error:  # which names the working folder
                raise OutputError(str(error).replace(str(new), str(target))) from error
            if not overwrite and there.is_dir() and any(there.iterdir()):  # perhaps filled meanwhile
                made = _files_of(new) if keep_others else _files_of(new) | _files_of(there)
                other = sorted(name for name in made if not _same_file(new / name, there / name))
                taken = [name for name in other if not keep_others or os.path.lexists(there / name)]
                if taken:
                    raise already_has(target, f"another {taken[0]}")
                if not other:
                    return
            for place, _, names in os.walk(new, topdown=False):
                for name in names:
                    if not os.path.islink(path := os.path.join(place, name)):
                        _sync(path)
                _sync(place)
            if keep_others and there.is_dir():
                _merge(there, work)
            else:
                _replace(there, work, overwrite)
            _sync_parent(there)


def already_has(folder: Path, what: str) -> InputError:
    """Return the error for a folder whose content only ``overwrite`` replaces."""
    return InputError(f"{folder} already has {what}; name a new folder, or replace it with --overwrite")


def _files_of(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}


def _same_file(one: Path, other: Path) -> bool:
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a temporary folder. Raises OutputError if none can be made."""
    place = Path(tempfile.gettempdir())
    with ExitStack() as held:
        try:
            new = held.enter_context(_working_folder(place, _SCRATCH)) / _NEW
            new.mkdir()
        except OSError as error:
            raise OutputError(f"{place}: a temporary folder could not be made ({reason(error)}); free space") from None
        yield new


@contextmanager
def writing(path: Path, kinds: tuple[type[Exception], ...] = (OSError, ValueError)) -> Iterator[None]:
    """Raise errors of these kinds as OutputError about ``path``."""
    try:
        yield
    except kinds as error:
        if isinstance(error, SithError):
            raise
        raise OutputError(f"{path} could not be written ({reason(error)}); nothing was changed there") from error


def hold(path: Path) -> BaseFileLock:
    """Lock a file, which is created if missing, until the lock is released or this process ends.

    Raises:
        Timeout: another process holds it.
        OSError: the file system has no locks.
    """
    lock = FileLock(path, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, str(error)) from None
    if not path.exists():  # its last owner removed it meanwhile
        lock.release()
        raise Timeout(str(path))
    return lock


def sweep(parent: Path) -> None:
    """Remove the working folders in ``parent`` of processes that were killed.

    A folder that such a process was replacing gets its name back unless the name is taken; then it stays. Folders
    that a living process holds, and those that cannot be locked, stay.
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
                    for old in _replaced(stale):
                        if not os.path.lexists(parent / old.name):
                            os.rename(old, parent / old.name)
                    _remove(stale, lock, keep_old=bool(_replaced(stale)))
                elif stale.name.endswith(_SUFFIX) and not os.listdir(stale):
                    stale.rmdir()  # a living process that was about to lock it makes another one
                elif time.time() - found.st_mtime > _LEFT_OVER:
                    _remove(stale, None, keep_old=bool(_replaced(stale)))


@contextmanager
def made_parents(path: Path) -> Iterator[None]:
    """Create the missing folders above ``path``. If the block fails, remove those of them that are empty."""
    made = [place for place in path.parents if not place.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
        for place in made:
            _sync_parent(place)
    except BaseException:
        with suppress(OSError):  # a folder that is not empty stays
            for place in made:
                with suppress(FileNotFoundError):
                    place.rmdir()
        raise


@contextmanager
def _working_folder(parent: Path, prefix: str = _PREFIX) -> Iterator[Path]:
    """Yield a fresh folder in ``parent``, locked by this process if the file system has locks."""
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
            os.replace(folder / _LOCK, folder / _UNLOCKED)  # then only its age shows that it is left over
        break
    else:
        raise OSError(errno.ENOLCK, f"no lock could be taken in {parent}")
    try:
        yield folder
    finally:
        # Keep an old folder that could not be restored.
        _remove(folder, lock, keep_old=any(not os.path.lexists(parent / old.name) for old in _replaced(folder)))


def _remove(folder: Path, lock: BaseFileLock | None, *, keep_old: bool) -> None:
    # Remove the lock while it is held: hold() notices that it is gone. Windows cannot remove an open file.
    if lock is not None and os.name == "nt":
        lock.release()
    with suppress(OSError):
        # The lock goes last: after a kill in between, the next run finds a lock that it can take, or an empty folder.
        for path in [folder / _NEW] if keep_old else sorted(folder.iterdir(), key=lambda path: path.name == _LOCK):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if not keep_old:
        shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        lock.release()


def _replaced(work: Path) -> list[Path]:
    """Return the folder that was replaced and is still in a working folder."""
    return list((work / _OLD).iterdir()) if (work / _OLD).is_dir() else []


def _replace(there: Path, work: Path, overwrite: bool) -> None:
    """Give the new folder in ``work`` the name ``there``. Without ``overwrite``, only an empty folder is replaced."""
    new, old = work / _NEW, work / _OLD / there.name
    if not overwrite or not there.is_dir():
        if there.is_dir():
            there.rmdir()
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
                    f"{there} could not be written ({reason(error)}); its old content is now in {old}"
                ) from error
        raise


def _merge(there: Path, work: Path) -> None:
    """Replace the files of ``there`` that the new folder in ``work`` has too, all or none, and keep the others.

    If possible, the others are linked into the new folder and the folders exchanged: even a kill leaves no pair of
    one old and one new file. That is not safe for a folder with a subfolder, which another process may be filling,
    for a mount, and for the current folder, in which a shell would then see no files.
    """
    new, current = work / _NEW, Path.cwd()
    ours = sorted(path.relative_to(new) for path in new.rglob("*") if not path.is_dir())
    flat = not any(entry.is_dir(follow_symlinks=False) for entry in os.scandir(there))
    exchanged = False
    if flat and there not in (current, *current.parents) and not os.path.ismount(there):
        with suppress(OSError, NotImplementedError):  # file systems and platforms without links
            for name in {*os.listdir(there)} - {*os.listdir(new)}:
                os.link(there / name, new / name, follow_symlinks=False)
            shutil.copystat(there, new)
            _sync(new)
            exchanged = _exchange(new, there)
        if exchanged:
            # Keep the files that another program has written meanwhile, unless it has removed them again.
            for name in {*os.listdir(new)} - {*os.listdir(there)}:
                with suppress(FileNotFoundError):
                    os.rename(new / name, there / name)
            return
    _merge_files(there, work, ours)


def _merge_files(there: Path, work: Path, names: list[Path]) -> None:
    """Replace one file after the other. A failure restores the old files; a kill does not."""
    with ExitStack() as made, ExitStack() as undo:
        for name in names:
            final, old = there / name, work / "aside" / name
            made.enter_context(made_parents(final))
            if os.path.lexists(final):
                old.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(final, old)
                except (OSError, NotImplementedError):
                    shutil.copy2(final, old)
            undo.callback(_put_back, old, final)
            os.replace(work / _NEW / name, final)
            _sync_parent(final)
        undo.pop_all()


def _put_back(old: Path, final: Path) -> None:
    try:
        if old.exists():
            os.replace(old, final)
        else:
            final.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{final}: its folder is half written ({error}); write it again") from error


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step. Return False if the kernel or the file system cannot."""
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


def _sync_parent(path: Path) -> None:
    """Wait until the name of a file or folder is on the disk. Raises OutputError: it has its final name already."""
    try:
        _sync(path.parent)
    except OSError as error:
        raise OutputError(
            f"{path} was written, but it may not be on the disk ({reason(error)}): check it before you use it"
        ) from error


def _sync(path: str | Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    folder, windows = os.path.isdir(path), os.name == "nt"
    if folder and windows:  # which cannot open a folder
        return
    try:
        descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not folder or error.errno not in _NO_FOLDER_SYNC:
            raise
