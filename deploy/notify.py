"""Telling systemd what a service is about (sd_notify): a datagram to the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import contextlib
import os
import socket

__all__ = ["notify"]


def notify(*lines: str) -> None:
    """Send assignments such as `READY=1`; nothing happens where no service manager listens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        connection.sendall("\n".join(lines).encode())
