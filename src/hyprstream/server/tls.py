"""Makes the TLS side of a listener from PEM files. Knows certificates; knows no sockets."""

import ssl
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from hyprstream.core.errors import Invalid

CERT, KEY, CLIENT_CA = "server.tls_cert", "server.tls_key", "server.tls_client_ca"

T = TypeVar("T")


def tls_context(
    cert: Path | None, key: Path | None, client_ca: Path | None
) -> ssl.SSLContext | None:
    """What a TLS listener needs, TLS 1.2 or later; None if no file is given.

    Args:
        cert: the chain, the server's own certificate first.
        key: its private key, not encrypted.
        client_ca: authorities of clients; where given, a client without a certificate of theirs is not let in.

    Raises:
        Invalid: a file is missing, unreadable, not what its setting says, or the key is not the certificate's.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        missing = CERT if cert is None else KEY
        raise Invalid(f"{missing} is not set", param=missing, hint=f"set both {CERT} and {KEY}")
    _require_pair(cert, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with _refusing(CERT, cert):
        context.load_cert_chain(cert, key, password=_no_password)
    if client_ca is not None:
        _loaded(CLIENT_CA, client_ca, "PEM certificates", x509.load_pem_x509_certificates)
        with _refusing(CLIENT_CA, client_ca):
            context.load_verify_locations(cafile=client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _require_pair(cert: Path, key: Path) -> None:
    certificates = _loaded(CERT, cert, "PEM certificates", x509.load_pem_x509_certificates)
    private = _loaded(
        KEY, key, "a PEM key without a password", lambda pem: load_pem_private_key(pem, None)
    )
    if private.public_key() != certificates[0].public_key():
        raise Invalid(f"{KEY}: {key} is not the key of {cert}", param=KEY)


def _loaded(setting: str, path: Path, what: str, load: Callable[[bytes], T]) -> T:
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise Invalid(
            f"{setting}: {path} cannot be read: {error.strerror}", param=setting
        ) from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Invalid(f"{setting}: {path} does not hold {what}", param=setting) from None


@contextmanager
def _refusing(setting: str, path: Path) -> Generator[None]:
    try:
        yield
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"{setting}: {path} is refused: {error}", param=setting) from None


def _no_password() -> str:
    # Without this OpenSSL would ask on the terminal.
    return ""
