"""Where the page is served: whether an address is free, and who reaches it."""

from __future__ import annotations

import errno
import ipaddress
import socket

from sith_hf.core.escaping import sanitize
from sith_hf.core.reading import reason
from sith_hf.core.validation import whole_number
from sith_hf.errors import InputError

# As many ports above the wanted one are tried for the advice in the message.
_TRIED = 100


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(host: str, port: int) -> None:
    """Raise InputError unless a server can be bound to ``host`` and ``port``."""
    whole_number(port, "the port", least=1, most=65535)
    try:
        _bind(host, port)
    except socket.gaierror:
        raise _no_address(host) from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise in_use(host, port) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise _no_address(host) from None
        raise InputError(f"port {port} cannot be used ({reason(error)}): choose another with --port") from None
    except UnicodeError:
        raise _no_address(host) from None


def in_use(host: str, port: int) -> InputError:
    """Return the error about a port in use, which names a free one."""
    for other in range(port + 1, min(port + _TRIED, 65536)):
        try:
            _bind(host, other)
        except OSError:
            continue
        return InputError(f"port {port} is in use: choose another, such as --port {other}")
    return InputError(f"port {port} is in use: choose another with --port")


def _bind(host: str, port: int) -> None:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    socket.create_server(address[:2], family=family).close()


def _no_address(host: str) -> InputError:
    return InputError(
        f"{sanitize(host)!r} is no address of this machine: use --host 127.0.0.1 for yourself, or 0.0.0.0 for everyone "
        "in the network"
    )
