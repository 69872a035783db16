"""Ports that are taken, hosts that are not ours, and the address to knock at."""

from __future__ import annotations

import socket

import pytest

from deploy.ports import free_port, is_open, probe_host, require_bindable, url_of
from errors import EngineFailed, UsageError


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("[::1]", "http://[::1]:80"),
        ("192.168.7.1", "http://192.168.7.1:80"),
        ("localhost", "http://localhost:80"),
    ],
)
def test_where_a_client_knocks(host: str, url: str) -> None:
    assert url_of(host, 80) == url


@pytest.mark.parametrize("listening", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("wanted", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_told_with_its_owner(listening: str, wanted: str) -> None:
    with socket.create_server((listening, 0)) as server:
        port = server.getsockname()[1]
        assert is_open(listening, port)
        with pytest.raises(EngineFailed, match=rf"Port {port} .*in use by process \d+ \(.+\)"):
            require_bindable(wanted, port)
    require_bindable(wanted, port)
    assert not is_open(listening, port)


def test_a_free_port_can_be_bound() -> None:
    require_bindable("127.0.0.1", free_port())
    require_bindable("0.0.0.0", free_port("0.0.0.0"))


def test_an_address_of_another_machine() -> None:
    with pytest.raises(UsageError, match=r"Cannot listen on 192\.0\.2\.1"):
        require_bindable("192.0.2.1", 8000)


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(UsageError, match="does not name an address"):
        require_bindable("no-such-host.invalid", 8000)
    assert probe_host("no-such-host.invalid") == "no-such-host.invalid"
