"""What goes wrong between here and the Hub, in one sentence each, with the remedy and without a token."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from huggingface_hub import get_token
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

from sith_hf.core.escaping import sanitize
from sith_hf.errors import HubError, NotOnHub

# The client's HTTP library has changed its name between releases; its errors have one root.
TRANSPORT: type[BaseException] = HfHubHTTPError.__mro__[1]

# What the client raises on purpose, and what it falls over when an answer arrives damaged.
CLIENT = (
    OSError, TRANSPORT, ValueError, RuntimeError, KeyError, TypeError, IndexError, AttributeError, AssertionError,
    SafetensorsParsingError,
)  # fmt: skip

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OFFLINE = "offline mode is on, and this needs the Hub: unset HF_HUB_OFFLINE (and TRANSFORMERS_OFFLINE)"
_TOKENS = "https://huggingface.co/settings/tokens"


@contextmanager
def hub_errors(doing: str, place: str, token: str | None = None) -> Iterator[None]:
    """Turn whatever the client raises inside the block into a :class:`HubError`.

    Args:
        doing: what was being done, as "uploading the files to me/model".
        place: what it was done to, as "model repository me/model".
        token: a token given outright, which no message may hold.

    Raises:
        NotOnHub: the Hub has no such thing, or shows none to this token.
        HubError: anything else.
    """
    try:
        yield
    except HubError:
        raise
    except CLIENT as error:
        raise complaint(error, doing, place, token) from None


def complaint(error: BaseException, doing: str, place: str, token: str | None = None) -> HubError:
    """The error to raise instead of the client's; arguments as for :func:`hub_errors`."""
    root = _root(error)
    kind = NotOnHub if _absent(root) else HubError
    return kind(hide(f"{doing} failed: {_reason(root, place)}", token))


def hide(text: str, token: str | None) -> str:
    """``text`` on one line without the tokens that are in use."""
    known = [item.strip() for item in (token, os.environ.get("HF_TOKEN"), _stored_token()) if item and item.strip()]
    for item in known:
        text = text.replace(item, "<token>")
    return " ".join(text.split())


def refused(error: BaseException) -> bool:
    """Whether the Hub understood the request and said no, so that nothing can have changed."""
    root = _root(error)
    return isinstance(root, HfHubHTTPError) and 400 <= root.response.status_code < 500


def _stored_token() -> str | None:
    try:
        return get_token()
    except CLIENT:
        return None


def _root(error: BaseException) -> BaseException:
    """The client's wrappers ("cannot find it in the cache either", "error while uploading") hide what happened."""
    wrapper = isinstance(error, (LocalEntryNotFoundError, RuntimeError))
    if wrapper and isinstance(error.__cause__, CLIENT):
        return _root(error.__cause__)
    return error


def _absent(error: BaseException) -> bool:
    if isinstance(error, GatedRepoError):
        return False
    if isinstance(error, (RepositoryNotFoundError, RevisionNotFoundError, RemoteEntryNotFoundError)):
        return True
    return isinstance(error, (LocalEntryNotFoundError, OfflineModeIsEnabled, HFValidationError))


def _reason(error: BaseException, place: str) -> str:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason(error, place)
    if isinstance(error, HfHubHTTPError):
        return _status(error, place)
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"the disk is full ({error.strerror}): make room, or point HF_HOME to another disk, and do it again"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{sanitize(str(error.filename), 300)}: {error.strerror}"
    if isinstance(error, (TRANSPORT, ConnectionError, TimeoutError)):
        return f"the connection to the Hub broke off or could not be made ({_short(error)}); do it again"
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return "a file did not arrive whole; do it again"
    if isinstance(error, ValueError) and "Invalid metadata" in str(error):
        return f"the Hub does not accept the metadata of the card ({_short(error)}): this is a fault of sith-hf"
    return f"the Hub's answer could not be used ({_short(error)}); do it again"


def _status(error: HfHubHTTPError, place: str) -> str:
    status, said = error.response.status_code, sanitize(error.server_message or "", 200)
    quoted = f" ({said})" if said else ""
    if status == 401:
        return f"the Hub does not know the token{quoted}: log in with `hf auth login`, or make a new one at {_TOKENS}"
    if status == 403 and error.response.request.method in ("GET", "HEAD"):
        return f"this token may not read the {place}{quoted}: log in as somebody who may, or ask its owner"
    if status == 403:
        return (
            f"this token may not do that with the {place}{quoted}: check the namespace, use a token with write access "
            f"to it ({_TOKENS}), or propose the change with --create-pr"
        )
    if status == 404:
        return f"the Hub finds no {place}{quoted}: check its name, and that the token may see it"
    if status == 409:
        return f"it is in conflict with what is there{quoted}: look at the {place}, do it again, or take another name"
    if status == 412:
        return f"somebody else changed the {place} meanwhile: look at the change, and do it again to go on top of it"
    if status == 429:
        return "the Hub asks for fewer requests (429): wait some minutes, and do it again"
    if status >= 500:
        return f"the Hub has a fault of its own ({status}): do it again later; https://status.huggingface.co tells more"
    return f"the Hub refused it with status {status}{quoted}"


def _short(error: BaseException) -> str:
    text = sanitize(" ".join(str(error).split()), 160)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _unknown_repository(error: BaseException, place: str) -> str:
    return f"there is no {place}, or this token may not see it: check its name, or log in with `hf auth login`"


_REASONS: tuple[tuple[type[BaseException], Callable[[BaseException, str], str]], ...] = (
    (OfflineModeIsEnabled, lambda error, place: OFFLINE),
    (LocalTokenNotFoundError, lambda error, place: f"there is no token: log in with `hf auth login` ({_TOKENS})"),
    (HFValidationError, lambda error, place: f"this is no repository id ({_short(error)}): write namespace/name"),
    (GatedRepoError, lambda error, place: f"the {place} is gated: ask for access on its page, with this account"),
    (RepositoryNotFoundError, _unknown_repository),
    (RevisionNotFoundError, lambda error, place: f"the {place} has no such branch, tag or commit"),
    (RemoteEntryNotFoundError, lambda error, place: f"the {place} has no such file"),
    (LocalEntryNotFoundError, lambda error, place: f"it is not in the cache, and {OFFLINE}"),
)
