"""Where everything of a registry lies, and the right to change it. Knows the layout of directories; knows no use of it.

<models>/.registry/                  which models there are (`state.py`), and what was found out about them (`contents.py`)
<models>/.blobs/                     large files by their digests (`blobs.py`)
<models>/.incoming/<name>@<branch>/  what an unfinished import or clone has so far
<models>/.incoming/<name>@….lock     held by whoever is at it
<models>/.trash/<uuid>@<time>/       models that were removed, until they are collected
<models>/<name>/                     one model (`repository.py`)
"""

import fcntl
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from hyprstream.core.errors import Conflict, NotFound
from hyprstream.core.refs import ModelRef
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.contents import Contents, Library
from hyprstream.registry.journal import Change, Journal
from hyprstream.registry.remote_urls import host_of, transport_of
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.sources import hub
from hyprstream.registry.state import Record, State

INCOMING = ".incoming"
TRASH = ".trash"


class Shelf:
    """The parts of one registry, put together."""

    def __init__(self, models_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self.models_dir = models_dir.absolute()
        self.clock = clock
        self.blobs = BlobStore(self.models_dir / ".blobs")
        self.state = State(self.models_dir / ".registry", clock=clock)
        self.library = Library(self.models_dir / ".registry", self.blobs)
        self._journal = Journal(self.models_dir, self.state, self.repository)

    @property
    def is_interrupted(self) -> bool:
        """Whether a change was begun and not ended, by a crash or by somebody who is at it."""
        return self._journal.is_pending

    def directory(self, name: str) -> Path:
        """Where a model is."""
        return self.models_dir / name

    def relative(self, path: Path) -> str:
        """A path as changes name it: relative to the directory of models."""
        return path.relative_to(self.models_dir).as_posix()

    def require_free(self, name: str) -> None:
        """Return if nothing stands where a new model of this name goes.

        Raises:
            Conflict: something does.
        """
        if self.directory(name).exists():
            raise Conflict(
                f"{self.directory(name)} is in the way of a model called {name}",
                hint="move it elsewhere, or choose another name",
            )

    def has_files(self, name: str) -> bool:
        """Whether there is a repository of this name."""
        return (self.directory(name) / "repo.git").is_dir()

    def repository(self, name: str) -> ModelRepository:
        """A registered model's repository.

        Raises:
            NotFound: its files are not here.
        """
        if not self.has_files(name):
            raise NotFound(
                f"the files of {name} are not here",
                kind="file",
                hint="hyprstream registry undo, or clone it again",
            )
        return self.repository_at(self.directory(name))

    def repository_at(self, directory: Path) -> ModelRepository:
        """The repository in a directory, which need not be there."""
        return ModelRepository(directory, self.blobs, token=hub.token_for, clock=self.clock)

    def token_for(self, url: str) -> str | None:
        """What a remote may be shown: the hub's token, if it is the hub."""
        host = host_of(url) if transport_of(url) in ("https", "http") else None
        return hub.token_for(host) if host else None

    def contents(self, name: str, commit: str) -> Contents:
        """What a commit of a model holds; neither git nor a model is opened where that is known."""
        return self.library.known(commit) or self.library.read(self.repository(name), commit)

    @contextmanager
    def changing(self) -> Generator[None]:
        """The right to change what is registered; what a crash has interrupted is ended first."""
        with self.state.lock():
            self._journal.recover()
            yield

    def make(self, change: Change) -> None:
        """Do all of a change or nothing of it; the caller holds `changing`."""
        self._journal.make(change)

    @contextmanager
    def staging(self, ref: ModelRef) -> Generator[Path]:
        """The directory where a version is put together, and the only right to do so.

        Leaving the block deletes the directory; leaving it by an exception keeps it, to be continued.

        Raises:
            Conflict: another process is at it.
        """
        directory = self.incoming(ref)
        directory.parent.mkdir(parents=True, exist_ok=True)
        # The lock's file stays: to delete it would let two processes hold a lock on two files of one name.
        with directory.with_name(f"{directory.name}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Conflict(
                    f"another process is pulling or removing {ref}",
                    hint="wait until it is done, or end it",
                ) from None
            directory.mkdir(exist_ok=True)
            yield directory
            shutil.rmtree(directory)

    def incoming(self, ref: ModelRef) -> Path:
        """Where `staging` puts a version together."""
        # `@` is in no reference, so no two references share a directory.
        return self.models_dir / INCOMING / f"{ref.name}@{ref.ref.replace('/', '@')}"

    def new_trash(self, record: Record) -> str:
        """Where a model that is removed now goes, relative to the directory of models."""
        return f"{TRASH}/{record.id}@{time.time_ns()}"

    def trashed(self, model_id: str) -> str | None:
        """Where a model is since it was last removed, relative to the directory of models."""
        found = sorted(path.name for path in (self.models_dir / TRASH).glob(f"{model_id}@*"))
        return f"{TRASH}/{found[-1]}" if found else None

    def repositories(self) -> Iterator[tuple[str, ModelRepository]]:
        """Every repository there is, with a name to show: registered, unfinished and removed ones."""
        for pattern in ("*/repo.git", f"{INCOMING}/*/*/repo.git", f"{TRASH}/*/repo.git"):
            for path in sorted(self.models_dir.glob(pattern)):
                yield path.parent.name, self.repository_at(path.parent)
