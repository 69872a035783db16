"""Addresses and ports: can one listen there, and where does one knock.

Knows sockets and, on Linux, who holds a port. Does not know engines.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from pathlib import Path
from typing import Any

from errors import EngineFailed, UsageError

__all__ = ["free_port", "is_loopback", "is_open", "probe_host", "require_bindable", "url_of"]

_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1", "[::]": "::1", "*": "127.0.0.1"}


def probe_host(host: str) -> str:
    """Return the address at which a client on this machine reaches a server that listens on `host`."""
    return _WILDCARDS.get(host, host.strip("[]"))


def url_of(host: str, port: int) -> str:
    """Return `http://HOST:PORT` for clients on this machine; IPv6 addresses get their brackets."""
    address = probe_host(host)
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody uses on `host` at this moment."""
    family, address = _resolve(host, 0)
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.bind(address)
        port: int = listener.getsockname()[1]
        return port


def require_bindable(host: str, port: int) -> None:
    """Make sure that a server can listen on `host`:`port`; engines find out only after loading weights.

    Raises `UsageError` for an address that is not this machine's or a name that does not resolve,
    `EngineFailed` when the port is taken or reserved.
    """
    family, address = _resolve(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
        try:
            listener.bind(address)
            listener.listen(1)
        except OSError as error:
            raise _refusal(error, host, port) from error


def is_open(host: str, port: int, timeout: float = 1.0) -> bool:
    """Tell whether something accepts connections there."""
    try:
        with socket.create_connection((probe_host(host), port), timeout=timeout):
            return True
    except OSError:
        return False


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches a server that listens on `host`.

    Raises `UsageError` for a name that does not resolve.
    """
    _, address = _resolve(host, 0)
    return ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(
            host.strip("[]") or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise UsageError(
            f"The host {host!r} does not name an address: {error}.",
            hint="Use 127.0.0.1 for this machine only, 0.0.0.0 for every network.",
        ) from error
    return found[0][0], found[0][4]


def _refusal(error: OSError, host: str, port: int) -> UsageError | EngineFailed:
    if error.errno == errno.EADDRINUSE:
        owner = _owner(port)
        by = f" by {owner}" if owner else ""
        return EngineFailed(
            f"Port {port} on {host} is in use{by}.",
            hint="Choose another with --port, or --port 0 for any free one.",
        )
    if error.errno == errno.EACCES:
        return EngineFailed(
            f"This user may not listen on port {port}.", hint="Ports below 1024 are reserved; choose another."
        )
    return UsageError(
        f"Cannot listen on {host}: {error.strerror or error}.",
        hint="The host must be an address of this machine; 0.0.0.0 stands for all of them.",
    )


def _owner(port: int) -> str | None:
    """Return "process PID (NAME)" of the listener on `port`; None where /proc does not tell."""
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) in sockets:
                process = descriptor.parents[1]
                return f"process {process.name} ({(process / 'comm').read_text().strip()})"
    return None


def _listening_inodes(port: int) -> list[str]:
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    found.append(fields[9])
    return found
