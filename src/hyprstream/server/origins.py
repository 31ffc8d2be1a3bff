"""Which Host and Origin headers are ours. Knows headers; sends nothing.

A browser lets any page talk to a server on its user's machine. Two headers that a page cannot forge tell such a request
apart: after DNS rebinding the Host is the page's own name, and a request across origins carries an Origin.
"""

import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from hyprstream.core.errors import Denied, Invalid

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?")


class HostRule:
    """Accepts the names of the bound address and the configured ones; any name if the address is a public one."""

    def __init__(self, *, is_loopback: bool, allowed: tuple[str, ...]) -> None:
        self._is_checked = is_loopback or bool(allowed)
        self._allowed = frozenset(host.lower() for host in allowed)

    def __call__(self, scope: Scope) -> None:
        """Return if the request's Host is one of ours.

        Raises:
            Invalid: there is no Host header, more than one, or it is not `name[:port]`.
            Denied: the name is foreign, or the port is not the one we listen on.
        """
        hosts = Headers(scope=scope).getlist("host")
        match = _HOST.fullmatch(hosts[0].lower()) if len(hosts) == 1 else None
        if match is None:
            raise Invalid("the request needs exactly one Host header, as name or name:port")
        if self._is_checked and not self._is_ours(match["name"], match["port"], scope):
            raise Denied(
                "the Host header names another server",
                hint="add the name to HYPRSTREAM_SERVER_ALLOWED_HOSTS",
            )

    def _is_ours(self, name: str, port: str | None, scope: Scope) -> bool:
        if name in self._allowed or f"{name}:{port}" in self._allowed:
            return True
        address, our_port = scope["server"]
        return name in LOOPBACK_NAMES | {address} and port in (None, str(our_port))


class OriginRule:
    """Accepts requests of programs (no Origin), of our own pages, and of the configured origins."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._allowed = frozenset(origin.lower() for origin in allowed)

    def __call__(self, scope: Scope) -> None:
        """Return if the request may come from where it comes from.

        Raises:
            Denied: it is sent by a page of another origin, or of none (`null`).
        """
        headers = Headers(scope=scope)
        for origin in headers.getlist("origin"):
            if not self._is_allowed(origin.lower(), headers.get("host", "").lower()):
                raise Denied(
                    "pages of this origin may not use this server",
                    hint="set HYPRSTREAM_CORS_ENABLED and HYPRSTREAM_CORS_ORIGINS",
                )

    def _is_allowed(self, origin: str, host: str) -> bool:
        if "*" in self._allowed or origin in self._allowed:
            return True
        # A proxy in front may speak https: only the authority has to be ours.
        return origin != "null" and _authority(origin) == host


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:  # an unclosed bracket
        return None
