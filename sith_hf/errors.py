"""The exceptions of sith-hf. Every one says what was wrong, what was expected and what to do.

    SithError
    ├── InputError (ValueError)        what the user passed cannot be used
    │   ├── UnsupportedModel           a model family, or a checkpoint format, that sith-hf does not read
    │   ├── ArtifactError              a file of ours is missing, damaged, of another version, or not ours
    │   ├── BaseMismatch               an edit spec meets a base that it was not made for
    │   └── TryAgain                   what went wrong may pass: the same command may go on where it stopped
    ├── OutputError (OSError)          a result could not be written; nothing was left half-written
    ├── HubError (OSError)             the Hub refused, failed or could not be reached
    │   └── NotOnHub                   no such repository, revision or file, or none that this token may see
    └── MissingExtra (ImportError)     an optional package is absent; the message names the extra

On the command line each of them ends with exit code 2 and its message on stderr.
"""


class SithError(Exception):
    """The root: ``except SithError`` catches everything that sith-hf raises on purpose."""


class InputError(SithError, ValueError):
    """What the user passed cannot be used as it is."""


class UnsupportedModel(InputError):
    """A model family or checkpoint format that sith-hf does not read."""


class ArtifactError(InputError):
    """A dictionary, decomposition or edit spec on disk cannot be trusted."""


class BaseMismatch(InputError):
    """An edit spec was made for other weights than the ones at hand."""


class TryAgain(InputError):
    """What went wrong may pass, such as a lack of memory: what is finished is kept for the next run."""


class OutputError(SithError, OSError):
    """A result could not be written. Nothing stands under the requested name."""


class HubError(SithError, OSError):
    """The Hub refused, failed or could not be reached. The message says what stands on the Hub now."""


class NotOnHub(HubError):
    """No such repository, revision or file on the Hub, or none that this token may see."""


class MissingExtra(SithError, ImportError):
    """An optional dependency is absent.

    Args:
        package: the import name that failed.
        extra: the extra of sith-hf that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'{package} is not installed: pip install "sith-hf[{extra}]"')
