"""Issues, withdraws and recognises tokens. Knows a table and a cache; knows no HTTP, and never keeps a token itself.

A token is verified once and remembered by its digest for a while. A thread reads a revision number twice a second, which
every revocation raises, and forgets all tokens when it has changed; should it fall behind, they are looked up one by one.
"""

import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    Text,
    bindparam,
    exists,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from hyprstream.core.errors import Conflict, HyprstreamError, Invalid, NotFound, Unauthenticated
from hyprstream.core.principal import Principal, Scope
from hyprstream.policy import claims
from hyprstream.policy.claims import Claims
from hyprstream.policy.database import open_database, translated
from hyprstream.policy.keys import KeyRing

POLL_SECONDS = 0.5
STALE_SECONDS = 1.0
"""Longest that a revocation may go unseen."""
REMEMBER_SECONDS = 60.0
"""How long a verified token is taken for verified."""
USED_SECONDS = 60
"""How often the last use of a token is written down, at most."""
MAX_REMEMBERED = 10_000
MAX_YEARS = 100

_log = logging.getLogger(__name__)

_USER = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_EXPIRY = re.compile(r"([0-9]{1,6})([hdwy])")
_UNITS: Mapping[str, timedelta] = {
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
    "y": timedelta(days=365),
}

_TABLES = MetaData()
_TOKENS = Table(
    "tokens",
    _TABLES,
    Column("id", String(32), primary_key=True),
    Column("user", String(64), nullable=False, index=True),
    Column("name", String(64), nullable=False, index=True),
    Column("kid", String(32), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger),
    Column("scopes", Text),
    Column("last_used", BigInteger),
    Column("revoked", BigInteger),
)
_REVISION = Table(
    "token_revision",
    _TABLES,
    Column("id", Integer, primary_key=True),
    Column("value", BigInteger, nullable=False),
)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What is known of a token. Times are seconds since the epoch."""

    id: str
    user: str
    name: str
    created: int
    expires: int | None
    """None is never."""
    scopes: tuple[Scope, ...] | None
    """None is no limit beyond the policy's."""
    last_used: int | None
    """To the minute."""
    revoked: int | None
    kid: str


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token. Nobody can show it again."""

    token: str = field(repr=False)
    record: TokenRecord


def parse_expiry(text: str) -> timedelta | None:
    """How long `12h`, `30d`, `4w`, `1y` (365 days) is; None for `never`.

    Raises:
        Invalid: the text is none of these, nothing, or over a century.
    """
    if text == "never":
        return None
    match = _EXPIRY.fullmatch(text)
    lifetime = int(match[1]) * _UNITS[match[2]] if match else timedelta()
    if not timedelta() < lifetime <= MAX_YEARS * _UNITS["y"]:
        raise Invalid(
            f"{text[:80]!r} is not a time a token can be valid",
            param="expires",
            hint=f"write hours, days, weeks or years as 12h, 30d, 4w or 1y (up to {MAX_YEARS}y), or never",
        )
    return lifetime


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    id: str
    until: float


class TokenStore:
    """The tokens of a database at an SQLAlchemy URL, signed with the keys of a ring. Safe to use from several threads.

    Its tables are made on first use, and the thread that watches for revocations starts with the first token presented.
    """

    def __init__(
        self,
        url: str,
        keys: KeyRing,
        *,
        clock: Callable[[], float] = time.time,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._engine = open_database(url)
        self._keys = keys
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._lock = threading.Lock()
        self._is_prepared = False
        self._verified: dict[bytes, _Verified] = {}
        self._revision: int | None = None
        self._fresh_until = 0.0
        self._used: dict[str, int] = {}
        self._written: dict[str, int] = {}
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    def create(
        self, user: str, *, name: str, expires: timedelta | None, scopes: Sequence[Scope]
    ) -> IssuedToken:
        """Issue a token. `expires` is counted from now, None is never; no scopes is no limit beyond the policy's.

        Raises:
            Invalid: the user or name is not one, the time is over already, or there are too many scopes.
            Unavailable, Corrupt: the database or the key cannot be used.
        """
        _require_name("user", user, _USER)
        _require_name("name", name, _NAME)
        if expires is not None and expires < timedelta(seconds=1):
            raise Invalid("the token would have expired already", param="expires")
        issued = self._issued(user, name, expires, tuple(dict.fromkeys(scopes)) or None)
        with self._transaction() as connection:
            _insert(connection, issued.record)
        return issued

    def list(self, user: str | None = None, include_revoked: bool = False) -> list[TokenRecord]:
        """Tokens by user and name, expired ones among them; of one user or of all."""
        query = select(_TOKENS).order_by(
            _TOKENS.c.user, _TOKENS.c.name, _TOKENS.c.created, _TOKENS.c.id
        )
        if user is not None:
            query = query.where(_TOKENS.c.user == user)
        if not include_revoked:
            query = query.where(_TOKENS.c.revoked.is_(None))
        with self._transaction() as connection:
            return [_record(row) for row in connection.execute(query)]

    def revoke(self, id_or_name: str) -> TokenRecord:
        """Withdraw a token: every process refuses it within a second. By its id, again is no error.

        Raises:
            NotFound: there is no such token.
            Conflict: several have this name.
        """
        with self._transaction() as connection:
            record = self._find(connection, id_or_name)
            self._revoke(connection, _TOKENS.c.id == record.id)
            row = _row(connection, record.id)
        self._forget()
        assert row is not None, "no token is ever deleted"
        return _record(row)

    def rotate(self, id_or_name: str) -> IssuedToken:
        """Replace a token by a new one of the same user, name, scopes and lifetime, counted from now.

        Raises:
            NotFound: there is no such token.
            Conflict: several have this name, or it is revoked.
        """
        with self._transaction() as connection:
            old = self._find(connection, id_or_name)
            lifetime = None if old.expires is None else timedelta(seconds=old.expires - old.created)
            issued = self._issued(old.user, old.name, lifetime, old.scopes)
            if not self._revoke(connection, _TOKENS.c.id == old.id):
                raise Conflict(
                    f"token {old.id} is revoked",
                    hint=f"hyprstream policy token create {old.user} --name {old.name}",
                )
            _insert(connection, issued.record)
        self._forget()
        return issued

    def rotate_keys(self) -> str:
        """Sign new tokens with a new key, and return its id. Keys that no valid token needs any longer are retired."""
        before = self._keys.kids()[:-1]
        new = self._keys.rotate()
        is_valid = _TOKENS.c.revoked.is_(None) & or_(
            _TOKENS.c.expires.is_(None), _TOKENS.c.expires > int(self._clock())
        )
        with self._transaction() as connection:
            needed = set(connection.scalars(select(_TOKENS.c.kid).where(is_valid).distinct()))
        # `before` lacks the key just replaced: another process may be signing with it at this moment.
        for kid in before:
            if kid not in needed:
                self._keys.retire(kid)
        return new

    def retire_key(self, kid: str) -> int:
        """Forget a key that may be in wrong hands, and revoke what it signed. Returns how many tokens that were.

        Raises:
            NotFound: there is no such key.
            Conflict: it is the one that signs; rotate first.
        """
        self._keys.retire(kid)
        with self._transaction() as connection:
            n_revoked = self._revoke(connection, _TOKENS.c.kid == kid)
        self._forget()
        return n_revoked

    def identify(self, token: str) -> Principal:
        """Whom a token stands for.

        Raises:
            Unauthenticated: it is not one of ours, or no longer valid; the message says why.
            Unavailable, Corrupt: it is not remembered, and the database or its key cannot be used.
        """
        digest = sha256(token.encode()).digest()
        now = self._clock()
        known = self._verified.get(digest)
        if known is None or now >= known.until or time.monotonic() >= self._fresh_until:
            known = self._verify(token, digest, now)
        self._used[known.id] = int(now)
        return known.principal

    def close(self) -> None:
        """Write down what was used last, and let go of the database."""
        self._stopping.set()
        if self._watcher is not None:
            self._watcher.join()
            try:
                self._write_uses(self._used)
            except HyprstreamError as error:
                _log.warning("the last uses of tokens are lost: %s", error.message)
        self._engine.dispose()

    def _verify(self, token: str, digest: bytes, now: float) -> _Verified:
        # What is looked up before a revocation must not be remembered after it: `_forget` puts another dict here.
        verified = self._verified
        said = claims.verify(token, self._keys, now)
        with self._transaction() as connection:
            row = _row(connection, said.id)
        if row is None:
            raise Unauthenticated("the token is not, or no longer, on record here")
        if row.revoked is not None:
            raise Unauthenticated("the token was revoked")
        until = now + REMEMBER_SECONDS
        known = _Verified(
            Principal(f"token:{said.user}", scopes=said.scopes, credential=said.id),
            said.id,
            until if said.expires is None else min(until, said.expires),
        )
        with self._lock:
            if len(verified) >= MAX_REMEMBERED:
                del verified[next(iter(verified))]
            verified[digest] = known
            self._start_watching()
        return known

    def _issued(
        self, user: str, name: str, lifetime: timedelta | None, scopes: tuple[Scope, ...] | None
    ) -> IssuedToken:
        now = int(self._clock())
        expires = None if lifetime is None else now + int(lifetime.total_seconds())
        key = self._keys.current()
        said = Claims(secrets.token_hex(8), user, now, expires, scopes)
        record = TokenRecord(
            id=said.id,
            user=user,
            name=name,
            created=now,
            expires=expires,
            scopes=scopes,
            last_used=None,
            revoked=None,
            kid=key.kid,
        )
        return IssuedToken(claims.sign(said, key), record)

    @contextmanager
    def _transaction(self) -> Generator[Connection]:
        with translated():
            if not self._is_prepared:
                with self._engine.begin() as connection:
                    _make_tables(connection)
                self._is_prepared = True
            with self._engine.begin() as connection:
                yield connection

    def _find(self, connection: Connection, id_or_name: str) -> TokenRecord:
        """The token of this id, else the only valid one of this name, else the only one that has expired."""
        row = _row(connection, id_or_name)
        if row is not None:
            return _record(row)
        named = select(_TOKENS).where(_TOKENS.c.name == id_or_name, _TOKENS.c.revoked.is_(None))
        records = [_record(row) for row in connection.execute(named)]
        now = self._clock()
        records = [r for r in records if r.expires is None or r.expires > now] or records
        if not records:
            raise NotFound(
                f"no token {id_or_name[:80]!r}", kind="token", hint="hyprstream policy token list"
            )
        if len(records) > 1:
            ids = ", ".join(f"{record.id} of {record.user}" for record in records)
            raise Conflict(
                f"{len(records)} tokens are called {id_or_name!r}", hint=f"name one by id: {ids}"
            )
        return records[0]

    def _revoke(self, connection: Connection, which: ColumnElement[bool]) -> int:
        is_valid = _TOKENS.c.revoked.is_(None)
        statement = update(_TOKENS).where(which, is_valid).values(revoked=int(self._clock()))
        n_revoked = connection.execute(statement).rowcount
        connection.execute(update(_REVISION).values(value=_REVISION.c.value + 1))
        return n_revoked

    def _forget(self) -> None:
        self._verified = {}

    def _start_watching(self) -> None:
        if self._watcher is None and not self._stopping.is_set():
            self._watcher = threading.Thread(target=self._watch, name="tokens", daemon=True)
            self._watcher.start()

    def _watch(self) -> None:
        is_failing = False
        while not self._stopping.is_set():
            try:
                self._look()
                is_failing = False
            except HyprstreamError as error:
                if not is_failing:
                    _log.warning("tokens are looked up one by one: %s", error.message)
                is_failing = True
            self._stopping.wait(self._poll_seconds)

    def _look(self) -> None:
        started = time.monotonic()
        with self._transaction() as connection:
            revision = connection.scalar(select(_REVISION.c.value))
        if revision != self._revision:
            self._revision = revision
            self._forget()
        self._fresh_until = started + STALE_SECONDS
        self._write_uses(
            {
                id: used
                for id, used in self._used.copy().items()
                if used >= self._written.get(id, -USED_SECONDS) + USED_SECONDS
            }
        )

    def _write_uses(self, uses: Mapping[str, int]) -> None:
        fresh = {id: used for id, used in uses.items() if used != self._written.get(id)}
        if not fresh:
            return
        statement = update(_TOKENS).where(_TOKENS.c.id == bindparam("token"))
        with self._transaction() as connection:
            connection.execute(
                statement.values(last_used=bindparam("used")),
                [{"token": id, "used": used} for id, used in fresh.items()],
            )
        self._written.update(fresh)


def _make_tables(connection: Connection) -> None:
    # Two processes may do so at the same time.
    for table in _TABLES.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))
    first = select(literal(1), literal(0)).where(~exists().where(_REVISION.c.id == 1))
    connection.execute(insert(_REVISION).from_select(["id", "value"], first))


def _insert(connection: Connection, record: TokenRecord) -> None:
    values = {column.name: getattr(record, column.name) for column in _TOKENS.columns}
    scopes = None if record.scopes is None else " ".join(map(str, record.scopes))
    connection.execute(insert(_TOKENS).values(values | {"scopes": scopes}))


def _row(connection: Connection, id: str) -> Row[Any] | None:
    return connection.execute(select(_TOKENS).where(_TOKENS.c.id == id)).one_or_none()


def _record(row: Row[Any]) -> TokenRecord:
    values: dict[str, Any] = dict(zip(_TOKENS.columns.keys(), row, strict=True))
    if row.scopes is not None:
        values["scopes"] = tuple(map(Scope.parse, row.scopes.split()))
    return TokenRecord(**values)


def _require_name(what: str, text: str, pattern: re.Pattern[str]) -> None:
    if not pattern.fullmatch(text):
        raise Invalid(
            f"{text[:80]!r} is not a {what}",
            param=what,
            hint="use 1 to 64 letters, digits, dots, dashes, underscores or @",
        )
