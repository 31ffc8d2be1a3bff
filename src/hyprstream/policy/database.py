"""Opens a database. Knows SQLAlchemy, and SQLite's files and pragmas; knows no tables."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from sqlite3 import Connection

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError, SQLAlchemyError

from hyprstream.core.errors import Corrupt, Invalid, Unavailable
from hyprstream.core.files import make_private

BUSY_SECONDS = 10
"""How long a write waits for that of another process."""

_PRAGMAS = (
    f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}",
    "PRAGMA journal_mode = WAL",
    # A revocation that a power cut takes back would be none.
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


def open_database(url: str) -> Engine:
    """The database at an SQLAlchemy URL: `sqlite:////var/lib/hyprstream.db`, `postgresql+psycopg://host/name`.

    Nothing is opened, and no file made, before the first connection. An SQLite file is in WAL mode and its owner's alone.

    Raises:
        Invalid: the URL is none, or the driver it names is not installed.
    """
    try:
        parsed = make_url(url)
        engine = create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
    except ImportError as error:
        raise _unusable(f"its driver {error.name} is not installed") from None
    except ArgumentError:
        # Without the URL: it may hold a password.
        raise _unusable("its URL is not one of SQLAlchemy's") from None
    if parsed.get_backend_name() == "sqlite":
        # `:memory:` and `file:...` name no path.
        if parsed.database and not parsed.database.startswith((":", "file:")):
            _keep_private(engine, Path(parsed.database))
        event.listen(engine, "connect", _prepare)
    return engine


@contextmanager
def translated() -> Generator[None]:
    """A block in which what the database raises becomes an error of ours.

    Raises:
        Unavailable: it does not answer, is locked, or cannot be written.
        Corrupt: it is not a database, or a damaged one.
    """
    try:
        yield
    except OperationalError as error:
        raise Unavailable(f"the database does not answer: {error.orig}") from error
    except DatabaseError as error:
        raise Corrupt(
            f"the database is damaged: {error.orig}", hint="restore it from a backup"
        ) from error
    except SQLAlchemyError as error:
        raise Unavailable(f"the database does not answer: {error}") from error


def _keep_private(engine: Engine, path: Path) -> None:
    def make_file(*_: object) -> None:
        try:
            make_private(path.parent)
            # SQLite gives the files beside it (-wal, -shm) the mode of the first.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise Unavailable(f"the database cannot be opened: {error}") from None

    event.listen(engine, "do_connect", make_file)


def _prepare(connection: Connection, _record: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _unusable(reason: str) -> Invalid:
    return Invalid(
        f"the database cannot be used: {reason}",
        param="data.database_url",
        hint="write it as sqlite:////path/to/file.db",
    )
