"""Which server gets the judge's token, and how it stays out of logs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.parse import urlsplit

from sith_hf.core.escaping import sanitize
from sith_hf.core.secrets import JUDGE_TOKEN, mask
from sith_hf.errors import InputError

SERVER_VARIABLE = "SITH_HF_JUDGE_URL"

_LOCAL = (".local", ".internal", ".lan", ".home.arpa", ".localhost")
_PORTS = {"http": 80, "https": 443}


def environment_token() -> str | None:
    """Return the token for a server that the user named, from the environment."""
    return os.environ.get(JUDGE_TOKEN, "").strip() or None


def chat_url(base_url: str) -> str:
    """Return the URL of the chat, from one that ends there, with ``/v1``, or with the host."""
    base = base_url.rstrip("/")
    if base.endswith("/chat/completions"):
        return base
    return f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"


def check_named(base_url: str, named: Iterable[str]) -> None:
    """Refuse a server that somebody else's file names.

    The token, and the concepts of the user's files, go to a server only if the user named it, in ``named`` or in the
    environment variable ``SITH_HF_JUDGE_URL``. Without a token to send, a server on this machine needs no name.

    Args:
        base_url: the server in the file.
        named: the servers that the user named.

    Raises:
        InputError: the user did not name this server.
    """
    known = [*named, os.environ.get(SERVER_VARIABLE, "").strip()]
    if _identity(base_url) in [_identity(url) for url in known if url]:
        return
    if environment_token() is None and _host(base_url)[1]:
        return
    shown = sanitize(base_url)
    raise InputError(
        f"the recipe names the server {shown} for its judge, and nothing was sent there: allow it with "
        f"--base-url {shown}, or set {SERVER_VARIABLE}, if you trust it with your token and the concepts"
    )


def check_encrypted(base_url: str) -> None:
    """Refuse to send a token unencrypted beyond the local network. Raises InputError."""
    if urlsplit(base_url).scheme == "http" and not _host(base_url)[0]:
        raise InputError(
            f"the token would go unencrypted to {sanitize(base_url)}: use https://, or unset {JUDGE_TOKEN} if the "
            "server needs no token"
        )


@contextmanager
def masked_logs(*tokens: str | None) -> Iterator[None]:
    """Mask the logs of the HTTP library inside the block: at the level DEBUG it logs what a server sends back."""

    def masked(record: logging.LogRecord) -> bool:
        record.msg, record.args = mask(record.getMessage(), *tokens), None
        return True

    names = [name for name in logging.root.manager.loggerDict if name.startswith(("httpcore", "httpx"))]
    loggers = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addFilter(masked)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(masked)


def _identity(url: str) -> tuple[str, str, int | None, str]:
    """Return what makes two URLs one server: scheme, host, port and path of the chat."""
    try:
        parts = urlsplit(chat_url(url.strip()))
        return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme), parts.path
    except ValueError:
        return "", url, None, ""


def _host(url: str) -> tuple[bool, bool]:
    """Return whether a URL leads to the local network, and whether to this machine."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False, False
    try:
        address = ip_address(host)
    except ValueError:
        here = host == "localhost" or host.endswith(".localhost")
        return here or "." not in host or host.endswith(_LOCAL), here
    return address.is_private or address.is_loopback, address.is_loopback
