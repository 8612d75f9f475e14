"""Turn the errors of the Hub's client into one sentence each, with advice and without tokens."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)

from sith_hf.core.escaping import one_line, sanitize
from sith_hf.core.secrets import mask
from sith_hf.errors import HubError, NotOnHub, SithError

# The client's HTTP library has changed its name between releases; its errors have one root.
TRANSPORT: type[BaseException] = HfHubHTTPError.__mro__[1]

# The kinds of errors that the client raises: on purpose, or because an answer is malformed.
CLIENT = (
    OSError, TRANSPORT, ValueError, RuntimeError, KeyError, TypeError, IndexError, AttributeError, AssertionError,
    SafetensorsParsingError,
)  # fmt: skip

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OFFLINE = "offline mode is on, and this needs the Hub: unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE)"
_TOKENS = "https://huggingface.co/settings/tokens"
# Status of an answer, and kind of an error, to the sentence about it.
_ADVICE = {
    401: f"the Hub rejects the token{{quoted}}: log in with `hf auth login`, or create a new token at {_TOKENS}",
    403: "this token may not change the {place}{quoted}: check the namespace, use a token with write access to it "
    f"({_TOKENS}), or propose the change with --create-pr",
    404: "the Hub finds no {place}{quoted}: check its name and the access of the token",
    409: "it conflicts with the {place} on the Hub{quoted}: review it and try again, or choose another name",
    412: "the {place} changed meanwhile: review the change, and push again",
    429: "the Hub limits the rate of requests (429): try again in a few minutes",
}
_REASONS: dict[type[BaseException], str] = {
    OfflineModeIsEnabled: OFFLINE,
    LocalTokenNotFoundError: f"there is no token: log in with `hf auth login` ({_TOKENS})",
    HFValidationError: "this is not a repository id ({error}): use namespace/name",
    GatedRepoError: "the {place} is gated: request access on its page, with this account",
    RepositoryNotFoundError: "there is no {place}, or this token may not see it: check its name, or log in with "
    "`hf auth login`",
    RevisionNotFoundError: "the {place} does not have this branch, tag or commit: check the revision",
    RemoteEntryNotFoundError: "the {place} does not have this file: check its name",
    LocalEntryNotFoundError: f"it is not in the cache, and {OFFLINE}",
}
_ABSENT = (
    RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError, LocalEntryNotFoundError,
    OfflineModeIsEnabled, HFValidationError,
)  # fmt: skip


@contextmanager
def hub_errors(doing: str, place: str, token: str | None = None) -> Iterator[None]:
    """Turn errors of the client inside the block into a :class:`HubError`; a SithError passes through.

    Args:
        doing: the action, as "uploading the files to me/model".
        place: its object, as "model repository me/model".
        token: a token in use, which no message may contain.

    Raises:
        NotOnHub: the Hub does not have it, or hides it from this token.
        HubError: the client raised anything else, or a file could not be read or written.
    """
    try:
        yield
    except SithError:
        raise
    except CLIENT as error:
        if not isinstance(error, (OSError, TRANSPORT)) and not _raised_by_client(error):
            raise
        root = _root(error)
        kind = NotOnHub if isinstance(root, _ABSENT) and not isinstance(root, GatedRepoError) else HubError
        raise kind(" ".join(mask(f"{doing} failed: {_reason(root, place)}", token).split())) from None


def _raised_by_client(error: BaseException) -> bool:
    """Return whether the client, or code that it called, raised this: its frames follow the last one of sith_hf."""
    frames = traceback.walk_tb(error.__traceback__)
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in frames]
    return "huggingface_hub" in packages[len(packages) - packages[::-1].index("sith_hf") :]


def refused(error: HubError) -> bool:
    """Return whether :func:`hub_errors` raised this for a refusal (status 4xx), which changes nothing on the Hub."""
    root = None if error.__context__ is None else _root(error.__context__)
    return isinstance(root, HfHubHTTPError) and 400 <= root.response.status_code < 500


def unreachable(error: HubError) -> bool:
    """Return whether :func:`hub_errors` raised this because the Hub gave no answer: offline mode, or no connection."""
    root = None if error.__context__ is None else _root(error.__context__)
    transport = isinstance(root, (TRANSPORT, ConnectionError, TimeoutError)) and not isinstance(root, HfHubHTTPError)
    return transport or isinstance(root, OfflineModeIsEnabled)


def _root(error: BaseException) -> BaseException:
    """Return the error inside the client's wrappers, such as "cannot find it in the cache either"."""
    wrapper = isinstance(error, (LocalEntryNotFoundError, RuntimeError))
    if wrapper and isinstance(error.__cause__, CLIENT):
        return _root(error.__cause__)
    return error


def _reason(error: BaseException, place: str) -> str:
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason.format(place=place, error=_short(error))
    if isinstance(error, HfHubHTTPError):
        return _status(error, place)
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the disk is full ({error.strerror}): free some space or point HF_HOME to another disk, and try again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{sanitize(str(error.filename), 300)}: {error.strerror}"
    if isinstance(error, (TRANSPORT, ConnectionError, TimeoutError)):
        return f"no connection to the Hub ({_short(error)}); try again"
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return "a file arrived incomplete; try again"
    if isinstance(error, ValueError) and "Invalid metadata" in str(error):
        return f"the Hub rejects the metadata of the card ({_short(error)}): correct it (a bug if sith-hf wrote it)"
    return f"the Hub's answer is malformed ({_short(error)}); try again"


def _status(error: HfHubHTTPError, place: str) -> str:
    status, message = error.response.status_code, sanitize(error.server_message or "", 200)
    quoted = f" ({message})" if message else ""
    if status >= 500:
        return f"the Hub has an internal error ({status}): try again later; see https://status.huggingface.co"
    if status == 403 and error.response.request.method in ("GET", "HEAD"):
        return f"this token may not read the {place}{quoted}: use another token, or ask the owner for access"
    other = "the Hub refused the request with status {status}{quoted}: look at the {place}"
    return _ADVICE.get(status, other).format(status=status, place=place, quoted=quoted)


def _short(error: BaseException) -> str:
    text, name = one_line(error, 160), type(error).__name__
    return name if text == name else f"{name}: {text}"
