"""The exceptions of sith-hf. Each message says what was wrong, what was expected and what to do next.

    SithError
    ├── InputError (ValueError)        what the user passed cannot be used
    │   ├── UnsupportedModel           an unsupported model family or checkpoint format
    │   ├── ArtifactError              an artifact is missing, damaged, of another version or another kind
    │   ├── BaseMismatch               a result was made for other weights than these
    │   ├── OutOfRange (IndexError)    an index of a layer, head or vector that is not there
    │   ├── LargeEdit                  an edit above the limits on its size, without a confirmation
    │   └── TemporaryError             a temporary failure: retrying may succeed
    ├── OutputError (OSError)          a result could not be written; no file is half-written
    ├── HubError (OSError)             the Hub refused, failed or could not be reached
    │   └── NotOnHub                   the repository, revision or file does not exist or is private
    └── MissingExtra (ImportError)     an optional package is not installed; the message names its extra

The command line prints the message on stderr and exits with code 2.
"""


class SithError(Exception):
    """The base class: ``except SithError`` catches every error that sith-hf raises itself."""


class InputError(SithError, ValueError):
    """An argument, option or file from the user cannot be used."""


class UnsupportedModel(InputError):
    """An unsupported model family or checkpoint format."""


class ArtifactError(InputError):
    """An artifact on disk is missing, damaged, of another version or another kind."""


class BaseMismatch(InputError):
    """An edit spec, decomposition or image mean was made for other weights than these."""


class OutOfRange(InputError, IndexError):
    """A layer, head or vector that a decomposition does not have; Python's own protocols see an ``IndexError``."""


class LargeEdit(InputError):
    """An edit above the limits on energy or drift that nobody confirmed (``--yes`` on the command line)."""


class TemporaryError(InputError):
    """A temporary failure, such as too little memory. Finished parts are kept: retrying may succeed."""


class OutputError(SithError, OSError):
    """A result could not be written. No file is half-written."""


class HubError(SithError, OSError):
    """The Hub refused, failed or could not be reached. The message gives the state of the repository."""


class NotOnHub(HubError):
    """The repository, revision or file does not exist, or this token may not read it."""


class MissingExtra(SithError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: the package that could not be imported.
        extra: the extra of sith-hf that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed: pip install "sith-hf[{extra}]"')
