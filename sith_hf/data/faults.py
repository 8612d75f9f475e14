"""The errors of ``datasets`` and of the readers below it, each as one line that says what to do."""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError

from sith_hf.core.escaping import impersonal, sanitize
from sith_hf.errors import InputError, SithError
from sith_hf.hub import OFFLINE, TRANSPORT

_EXPECTED = (
    "expected the id of a dataset on the Hub, a folder with one folder of images for each class, a folder of Parquet, "
    "CSV or JSON files, one of save_to_disk, or a file"
)
# What an error's text contains, and the sentence about it; "{text}" is the error's own text.
_ADVICE = (
    (
        "scripts are no longer supported",
        "it is read by a script, which datasets 4 and later do not run ({text}); save it with datasets 3 and "
        "save_to_disk, or name its Parquet copy on the Hub with --data-revision refs/convert/parquet",
    ),
    ("Config name is missing", "it has several configurations, name one with --config ({text})"),
    ("BuilderConfig", "it has no such configuration ({text}); name one with --config"),
    ("is a gated dataset", "{text} Then log in with `hf auth login`"),
    (
        "cannot be accessed",
        "{text} Check the name, or log in with `hf auth login`; no local file or folder has this name",
    ),
    ("OfflineMode", f"it is not on this machine, and {OFFLINE}"),
    ("corresponds to no data", "it has no rows"),
    ("No columns to parse", "it has no rows"),
)


def faults() -> tuple[type[BaseException], ...]:
    """Return the classes of errors that ``datasets`` raises for what it cannot find or read."""
    from datasets.exceptions import DatasetsError
    from pyarrow import ArrowException  # type: ignore[import-untyped]
    from yaml import YAMLError

    return (
        DatasetsError, ArrowException, YAMLError, TRANSPORT, OSError, ImportError, ValueError, TypeError, LookupError,
        RuntimeError, AttributeError, AssertionError, ArithmeticError, EOFError, StopIteration, tarfile.TarError,
        zipfile.BadZipFile, zlib.error, LZMAError,
    )  # fmt: skip


@contextmanager
def dataset_errors(title: str) -> Iterator[None]:
    """Turn errors of ``datasets`` inside the block into one InputError; a SithError passes through.

    Meanwhile ``datasets`` logs nothing: it would log the error too, with the full path of the file.
    """
    from datasets.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except SithError:
        raise
    except faults() as error:
        raise dataset_fault(title, error) from None
    finally:
        logging.set_verbosity(before)


def dataset_fault(title: str, error: BaseException) -> InputError:
    """Return the InputError that explains an error of ``datasets`` in one line, without local paths and tokens."""
    from datasets.exceptions import DatasetGenerationError

    # datasets says only that something failed; its cause says what.
    while isinstance(error, DatasetGenerationError) and error.__cause__ is not None:
        error = error.__cause__
    text = sanitize(impersonal(_without_cells(error)), 300) or type(error).__name__
    return InputError(f"{title}: {_explained(error, text)}")


def _without_cells(error: BaseException) -> str:
    """Return an error's text in one line, without what readers quote of the file: it may be no dataset at all."""
    from pyarrow import ArrowException
    from yaml import YAMLError

    text = " ".join(str(error).split())
    if isinstance(error, YAMLError):
        mark = getattr(error, "problem_mark", None)
        return "its README.md has damaged YAML" + (f" in line {mark.line + 1} of it" if mark else "")
    if text.startswith("Couldn't cast"):
        return "its files have different columns, or columns of different types"
    if isinstance(error, ArrowException | ValueError | TypeError) and ("parse" in text or "convert" in text):
        text = re.sub("""(['"]).*\\1""", r"\1…\1", text)
    return re.sub(r"(was different|don't match|not match):.*", r"\1", text)


def _explained(error: BaseException, text: str) -> str:
    from datasets.data_files import EmptyDatasetError
    from datasets.exceptions import DataFilesNotFoundError

    if isinstance(error, ImportError):
        named = re.search(r"install '?([\w.-]+)'?", text)
        package = named[1] if named else error.name or text
        return f"its reader needs the package {package}, which is not installed: pip install {package}"
    if isinstance(error, StopIteration):
        return "it has no rows"
    if isinstance(error, UnicodeDecodeError):
        return f"a file of it is not UTF-8 ({text}); save it as UTF-8"
    for part, advice in _ADVICE:
        if part in text:
            return advice.format(text=text)
    if isinstance(error, EmptyDatasetError | DataFilesNotFoundError):
        return f"no dataset there, it holds no files that datasets can read; {_EXPECTED}"
    if isinstance(error, ConnectionError | TRANSPORT):
        return f"no local file or folder has this name, and the Hub could not be reached ({text}); check the network"
    return f"it could not be read ({text})"
