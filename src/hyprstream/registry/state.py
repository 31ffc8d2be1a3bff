"""Which models there are: one small file for each, and the history of them all. Knows `.registry`; knows no model.

<models>/.registry/models/<name>.json   what the registry knows of a model: read without git, by anybody
<models>/.registry/.git                 every state there was, one commit for each change
<models>/.registry/lock                 held by whoever changes something
"""

import fcntl
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hyprstream.core.errors import Corrupt, NotFound
from hyprstream.core.files import sync_directory, write_durably
from hyprstream.core.refs import is_model_name
from hyprstream.core.versions import TextVersion
from hyprstream.registry.commits import read_log
from hyprstream.registry.git import AUTHOR, Git

MAX_RECORD_BYTES = 1 << 20
BRANCH = "main"

CommitId = Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]


class Record(BaseModel):
    """What the registry knows of one model."""

    model_config = ConfigDict(frozen=True)

    id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
    """UUID. It survives every change of name."""
    origin: Annotated[str, Field(max_length=4096)] | None = None
    """The URL it was cloned from, without credentials."""
    created: Annotated[int, Field(ge=0)]
    """Seconds since the epoch."""
    branches: dict[str, CommitId] = {}
    """Where the registry itself last put a branch. What was committed since is the repository's business."""

    def with_branch(self, branch: str, commit: str | None) -> "Record":
        """The same with one branch elsewhere, or with none of this name."""
        others = {name: at for name, at in self.branches.items() if name != branch}
        branches = others if commit is None else {**others, branch: commit}
        return self.model_copy(update={"branches": dict(sorted(branches.items()))})


Records = Mapping[str, Record | None]
"""Records by the model's name; None where there is none."""


class State:
    """The records of one registry. Whoever changes them holds `lock`."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.directory = directory
        self._models = directory / "models"
        self._clock = clock
        self._git = Git(directory / ".git")
        self._mutex = threading.RLock()
        self._n_holds = 0

    def names(self) -> list[str]:
        """Names of all models, in order."""
        try:
            files = [path.name for path in self._models.iterdir()]
        except FileNotFoundError:
            return []
        names = (file.removesuffix(".json") for file in files if file.endswith(".json"))
        return sorted(name for name in names if is_model_name(name))

    def read(self, name: str) -> Record:
        """What is known of one model.

        Raises:
            NotFound: it is not registered.
            Corrupt: its file is damaged.
        """
        if not is_model_name(name):
            raise NotFound(f"no model {name[:80]!r}")
        try:
            with self.path(name).open("rb") as file:
                return parse_record(file.read(MAX_RECORD_BYTES), name)
        except FileNotFoundError:
            raise NotFound(f"no model {name!r}") from None

    def find(self, name: str) -> Record | None:
        """What is known of one model, or None."""
        try:
            return self.read(name)
        except NotFound:
            return None

    @contextmanager
    def lock(self) -> Generator[None]:
        """The right to change something here; waits for whoever has it. The same thread may take it again."""
        with self._mutex:
            if self._n_holds:
                yield
                return
            self.directory.mkdir(parents=True, exist_ok=True)
            with (self.directory / "lock").open("ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._n_holds += 1
                try:
                    yield
                finally:
                    self._n_holds -= 1

    def write(self, records: Records) -> None:
        """Put records in their places, or take them away. Not in the history before `commit`."""
        self._models.mkdir(parents=True, exist_ok=True)
        for name, record in records.items():
            if record is None:
                self.path(name).unlink(missing_ok=True)
                sync_directory(self._models)
            elif self.find(name) != record:
                write_durably(self.path(name), encode_record(record), mode=0o644)

    def commit(self, records: Records, message: str) -> None:
        """Make one version of the history that differs in these records; none where nothing differs."""
        if self.head is None:
            Git.init(self.directory / ".git", bare=True, branch=BRANCH)
        with self._git.exclusive() as git:
            parent = self.head
            before = self.at(parent, list(records)) if parent else dict.fromkeys(records)
            lines = [
                _change(name, record) for name, record in records.items() if before[name] != record
            ]
            if not lines:
                return
            text = message.encode()
            stream = [
                f"commit refs/heads/{BRANCH}\n".encode(),
                f"committer {AUTHOR} {int(self._clock())} +0000\n".encode(),
                b"data %d\n%s\n" % (len(text), text),
                f"from {parent}\n".encode() if parent else b"",
                *lines,
                b"done\n",
            ]
            git.run("fast-import", "--quiet", "--done", stdin=b"".join(stream))

    @property
    def head(self) -> str | None:
        """The newest version of the history; None before the first."""
        return self._git.head()

    def resolve(self, revision: str) -> str:
        """The full id of a version.

        Raises:
            NotFound: there is none.
        """
        is_sound = revision.isprintable() and not set(":@") & set(revision)
        if self.head is None or not is_sound:
            raise NotFound(f"the registry has no change {revision[:80]!r}", kind="revision")
        output = self._git.run(
            "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}"
        )
        return output.decode().strip()

    def at(self, revision: str, names: list[str]) -> dict[str, Record | None]:
        """What a version says of these models."""
        if not names:
            return {}
        paths = [f"models/{name}.json" for name in names]
        output = self._git.run("ls-tree", "-z", revision, "--", *paths).decode()
        blobs = {
            path: info.split()[2]
            for info, _, path in (e.partition("\t") for e in output.split("\0"))
            if path
        }
        return {
            name: parse_record(self._git.run("cat-file", "blob", blobs[path]), name)
            if path in blobs
            else None
            for name, path in zip(names, paths, strict=True)
        }

    def changed(self, revision: str) -> list[str]:
        """Names of the models in which a version differs from the one before it."""
        output = self._git.run(
            "diff-tree", "--root", "-r", "-z", "--no-commit-id", "--name-only", revision
        )
        paths = (Path(path) for path in output.decode().split("\0") if path)
        return [path.stem for path in paths if path.suffix == ".json"]

    def log(self, limit: int, revision: str = "HEAD") -> list[TextVersion]:
        """The versions, newest first; empty before the first."""
        return [] if self.head is None else read_log(self._git, revision, limit)

    def path(self, name: str) -> Path:
        assert is_model_name(name), "only a checked name becomes a path"
        return self._models / f"{name}.json"


def encode_record(record: Record) -> bytes:
    """As it stands in its file."""
    return record.model_dump_json(indent=2).encode() + b"\n"


def parse_record(content: bytes, name: str) -> Record:
    """Read and check a record.

    Raises:
        Corrupt: it does not follow the schema.
    """
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise Corrupt(
            f"the registry's record of {name} is damaged: {first['msg']}",
            hint="hyprstream registry log; git in .registry has what it was",
        ) from error


def _change(name: str, record: Record | None) -> bytes:
    path = f"models/{name}.json"
    if record is None:
        return f"D {path}\n".encode()
    content = encode_record(record)
    return f"M 100644 inline {path}\ndata {len(content)}\n".encode() + content + b"\n"
