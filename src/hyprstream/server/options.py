"""What the HTTP front door needs to know besides the use cases. Values only; `bootstrap` fills them in from the settings."""

from dataclasses import dataclass

from hyprstream.core.refs import ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How requests are let in and how long an answer may take."""

    is_loopback: bool
    """Bound to an address only this machine reaches: only that address's names are accepted as Host."""
    max_body_bytes: int
    """Largest request body."""
    allowed_hosts: tuple[str, ...] = ()
    """Further accepted Host names, `name` for any port or `name:port`."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may ask, `*` for all; empty switches CORS off."""
    default_model: ModelRef | None = None
    """Model of a request that names none; without one such a request is refused."""
    preload: tuple[ModelRef, ...] = ()
    """Models to load before `/health` says ok."""
    generation_timeout: float | None = None
    """Seconds one answer may take, waiting included."""
    max_in_flight: int = 256
    """Generation requests inside the server at once for each loaded model; the next one is refused before its body is read."""
    body_seconds: float = 60.0
    """Seconds a client has to send its whole body."""
    send_seconds: float = 30.0
    """Seconds a client may read nothing of a stream before it is given up."""
    ping_seconds: float = 15.0
    """Seconds of silence after which a stream carries a comment, so that nothing on the way gives it up."""
