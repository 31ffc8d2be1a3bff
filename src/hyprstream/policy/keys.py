"""The keys tokens are signed with. Knows Ed25519, files and their modes; knows no tokens.

`<kid>.key` is the private key that signs (PEM, PKCS #8), `<kid>.pub` the public half of one that signed before: a key that
no longer signs is no longer there to be stolen. A key's id begins with the time it was made, so the last by name is the
newest.
"""

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from hyprstream.core.errors import Conflict, Corrupt, NotFound
from hyprstream.core.files import make_private, sync_directory, write_durably

PRIVATE, PUBLIC = ".key", ".pub"

_KID = re.compile(r"[0-9a-f]{18}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The private key in use, and its id."""

    kid: str
    private: Ed25519PrivateKey = field(repr=False)


class KeyRing:
    """The key that signs and those that signed before, in a directory only its owner may enter.

    Nothing is kept in memory: what another process rotates or retires holds here at once.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock

    def current(self) -> SigningKey:
        """The key to sign with; the first call makes it.

        Raises:
            Corrupt: its file does not hold one.
        """
        if not self._kids(PRIVATE):
            self._make()
        # Of two processes that make the first key at once both take the later one from then on.
        kid = self._kids(PRIVATE)[-1]
        path = self._path(kid, PRIVATE)
        return SigningKey(kid, _private(path, path.read_bytes()))

    def public(self, kid: str) -> Ed25519PublicKey | None:
        """The key that verifies what `kid` signed; None if there is none, or it was retired.

        Raises:
            Corrupt: its file does not hold one.
        """
        if not _KID.fullmatch(kid):
            return None
        # In this order, as `rotate` writes the public file before it removes the private one.
        for suffix in (PRIVATE, PUBLIC):
            path = self._path(kid, suffix)
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            return _public(path, content)
        return None

    def kids(self) -> list[str]:
        """Ids of all keys, the newest last."""
        return sorted({*self._kids(PRIVATE), *self._kids(PUBLIC)})

    def rotate(self) -> str:
        """Sign with a new key from now on, and return its id. What the old ones signed still verifies."""
        old = self._kids(PRIVATE)
        for kid in old:
            path = self._path(kid, PRIVATE)
            write_durably(self._path(kid, PUBLIC), _pem(_public(path, path.read_bytes())))
        new = self._make()
        for kid in old:
            self._path(kid, PRIVATE).unlink(missing_ok=True)
        sync_directory(self._directory)
        return new

    def retire(self, kid: str) -> None:
        """Forget an old key: nothing it signed verifies any longer.

        Raises:
            NotFound: there is no such key.
            Conflict: it is the one that signs.
        """
        if kid in self._kids(PRIVATE):
            raise Conflict(f"key {kid} is in use", hint="hyprstream policy token rotate-keys")
        if kid not in self._kids(PUBLIC):
            raise NotFound(f"no key {kid[:80]!r}", kind="key")
        self._path(kid, PUBLIC).unlink(missing_ok=True)
        sync_directory(self._directory)

    def _make(self) -> str:
        make_private(self._directory).chmod(0o700)
        # Fourteen digits of microseconds last for two thousand years.
        kid = f"{int(self._clock() * 1e6):014x}{secrets.token_hex(2)}"
        pem = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
        write_durably(self._path(kid, PRIVATE), pem)
        return kid

    def _kids(self, suffix: str) -> list[str]:
        paths = self._directory.glob(f"*{suffix}")
        return sorted(path.stem for path in paths if _KID.fullmatch(path.stem))

    def _path(self, kid: str, suffix: str) -> Path:
        return self._directory / f"{kid}{suffix}"


def _private(path: Path, content: bytes) -> Ed25519PrivateKey:
    key = _parsed(path, content, lambda pem: load_pem_private_key(pem, None))
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_a_key(path)
    return key


def _public(path: Path, content: bytes) -> Ed25519PublicKey:
    if path.suffix == PRIVATE:
        return _private(path, content).public_key()
    key = _parsed(path, content, load_pem_public_key)
    if not isinstance(key, Ed25519PublicKey):
        raise _not_a_key(path)
    return key


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _parsed(path: Path, content: bytes, load: Callable[[bytes], T]) -> T:
    try:
        return load(content)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _not_a_key(path) from None


def _not_a_key(path: Path) -> Corrupt:
    return Corrupt(
        f"{path} does not hold an Ed25519 key",
        hint="restore the file, or delete it; the tokens it signed must then be issued again",
    )
