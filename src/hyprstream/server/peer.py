"""Who is at the other end of a connection? Knows connections and certificates; knows no keys and no policy.

A connection proves one of two things: a client certificate that our own authority signed (`peer:<name>`), or, on loopback,
which user of this machine made the socket (`local:<user>`).
"""

import asyncio
import re
import ssl
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from typing import Any, cast

from starlette.requests import HTTPConnection

from hyprstream.core.principal import local_subject
from hyprstream.server.socket_table import Address, owner_of_socket

STATE = "connection"
"""Where `protocol` leaves the Connection in a scope's state."""

_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,128}")


def proven_peer(connection: HTTPConnection) -> str | None:
    """The subject a request's connection proves, or None.

    Whoever forwards for others, and says so, is not taken for the user it runs as.
    """
    wire = connection.scope.get("state", {}).get(STATE)
    if not isinstance(wire, Connection):
        return None
    if wire.has_certificate:
        # Never its machine's user instead: what passes TLS on for strangers runs as somebody here.
        return wire.certified
    if any(name in connection.headers for name in _FORWARDED):
        return None
    return wire.local


class Connection:
    """One accepted connection. What it proves is looked up when it is first asked for, and then kept."""

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    @cached_property
    def has_certificate(self) -> bool:
        """Whether the other end has shown a certificate, with a name that can be used or without."""
        tls = cast("ssl.SSLObject | None", self._transport.get_extra_info("ssl_object"))
        return tls is not None and bool(tls.getpeercert())

    @cached_property
    def certified(self) -> str | None:
        """`peer:<name>` of the client's certificate, which the TLS layer has verified."""
        tls = cast("ssl.SSLObject | None", self._transport.get_extra_info("ssl_object"))
        certificate = tls.getpeercert() if tls is not None else None
        name = _certified_name(certificate) if certificate else None
        return f"peer:{name}" if name else None

    @cached_property
    def local(self) -> str | None:
        """`local:<user>` of the process at the other end, if it runs on this machine and came over loopback."""
        ours = _address(self._transport.get_extra_info("sockname"))
        theirs = _address(self._transport.get_extra_info("peername"))
        if ours is None or theirs is None or not ours[0].is_loopback or not theirs[0].is_loopback:
            return None
        uid = owner_of_socket(local=theirs, remote=ours)
        return None if uid is None else local_subject(uid)


def _address(name: object) -> Address | None:
    if not isinstance(name, tuple):
        return None
    host, port, *_ = cast("tuple[str, int]", name)
    address = ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address, port


def _certified_name(certificate: Any) -> str | None:
    """The common name if there is exactly one, else the first DNS name; None where neither can be a subject."""
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    names = [value for key, value in pairs if key == "commonName"]
    if len(names) != 1:
        names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    return names[0] if names and _NAME.fullmatch(names[0]) else None
