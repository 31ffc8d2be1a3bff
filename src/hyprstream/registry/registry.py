"""The models that are here, each a Git repository. Knows references and hands the work on; knows no source, engine or terminal.

Any number of processes may read. One at a time changes what is registered: all of it or nothing, and each change is a commit of
the registry's own history (`journal.py`, `state.py`). Where everything lies is in `shelf.py`.
"""

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from hyprstream.core.errors import Corrupt, Invalid, InvalidModelFile, NotFound
from hyprstream.core.models import StoredModel
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import TextVersion
from hyprstream.registry import (
    adopting,
    cloning,
    importing,
    listing,
    maintenance,
    removing,
    updating,
)
from hyprstream.registry.entries import (
    DedupReport,
    Entry,
    GcReport,
    RemovalPlan,
    Soundness,
    VerifyEvent,
)
from hyprstream.registry.importing import NewFile
from hyprstream.registry.lookup import Lookup
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.shelf import Shelf
from hyprstream.registry.sources.base import Event, Licence, combined_digest, ref_for_file
from hyprstream.registry.sources.file import shards_of
from hyprstream.registry.sources.partial import sha256_of
from hyprstream.registry.standing import Standing
from hyprstream.registry.weights import read_facts

__all__ = [
    "DedupReport",
    "Entry",
    "GcReport",
    "NewFile",
    "Registry",
    "RemovalPlan",
    "Soundness",
    "VerifyEvent",
]


class Registry:
    """Models by reference."""

    def __init__(self, models_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open it; what a crash has interrupted is ended, and models of the first layout are adopted.

        Raises:
            Corrupt: what a crash has left can be neither ended nor taken back.
        """
        self._shelf = Shelf(models_dir, clock)
        self._lookup = Lookup(self._shelf)
        self._standing = Standing(self._shelf)
        self.models_dir = self._shelf.models_dir
        self.blobs = self._shelf.blobs
        if self._shelf.is_interrupted:
            with self._shelf.changing():
                pass  # entering the block ends it
        if adopting.has_work(self._shelf):
            adopting.adopt(self._shelf)

    # --- what is here -------------------------------------------------------------------------------------------------

    def entries(self) -> list[Entry]:
        """Every branch with a worktree, whether it can be served or not, by reference."""
        return [entry for entry, _ in self.overview()]

    def overview(self) -> list[tuple[Entry, StoredModel | None]]:
        """As `entries` and `list`, found in one pass; None where there is nothing to be served."""
        self._require_directory()
        return listing.entries(self._shelf)

    def names(self) -> list[str]:
        """Names of all models, in order."""
        return self._shelf.state.names()

    def id_of(self, name: str) -> str:
        """A model's UUID."""
        return self._lookup.model(ModelRef(name))[1].id

    def repository(self, name: str) -> ModelRepository:
        """The repository of a model, by name or UUID.

        Raises:
            NotFound: there is none.
        """
        return self._shelf.repository(self._lookup.model(ModelRef(name))[0])

    def resolve(self, ref: ModelRef) -> StoredModel:
        """Exactly the version that a reference names, to be served.

        Raises:
            NotFound: there is none, or its weights are not here; the hint says what is near, or how to get it.
            Invalid: it holds nothing that can be served; says what it holds.
            InvalidModelFile: what it holds is not a sound GGUF.
            Conflict: it is the beginning of several commits.
            Corrupt: the weights are kept in place and have changed.
        """
        return self._standing.resolve(ref, lambda: self._resolve(ref))

    def _resolve(self, ref: ModelRef) -> StoredModel:
        name, record = self._lookup.model(ref)
        repository = self._shelf.repository(name)
        commit = self._lookup.commit(name, repository, ref)
        try:
            contents = self._shelf.contents(name, commit)
        except NotFound as error:
            if record.origin is not None and ref.ref in repository.branches():
                error.hint = f"hyprstream pull {name} {ref.ref}"
            raise
        if contents.facts is None:
            kind = InvalidModelFile if contents.is_unsound else Invalid
            raise kind(
                f"{ref} cannot be served: {contents.problem}",
                hint=f"hyprstream inspect {ref} shows all it holds",
            )
        return listing.stored_model(
            self._shelf, ModelRef(name, ref.ref), record, repository, contents
        )

    def find(self, ref: ModelRef) -> StoredModel | None:
        """The model a reference names, if it is here and can be served."""
        try:
            return self.resolve(ref)
        except (NotFound, Invalid, Corrupt):
            return None

    def resolve_path(self, path: Path) -> StoredModel:
        """What a GGUF outside the registry is. Reads all of it, for the digest; a split model is named by any shard.

        Raises:
            NotFound: no such file.
            InvalidModelFile: not a sound GGUF.
        """
        paths = [shard.absolute() for shard in shards_of(path.expanduser())]
        if missing := next((path for path in paths if not path.is_file()), None):
            raise NotFound(f"no file {missing}", kind="file")
        facts = read_facts(paths)
        return StoredModel(
            ref=ref_for_file(path.name),
            path=str(paths[0]),
            size_bytes=sum(path.stat().st_size for path in paths),
            sha256=combined_digest([sha256_of(path) for path in paths]),
            source=str(path),
            created=int(paths[0].stat().st_mtime),
            facts=facts,
        )

    def canonical(self, ref: ModelRef) -> ModelRef:
        """The same version, with the model's name in place of its UUID.

        Raises:
            NotFound: there is no such model.
        """
        return ref if self._standing.knows(ref) else ModelRef(self._lookup.model(ref)[0], ref.ref)

    def branches_of(self, ref: ModelRef) -> tuple[ModelRef, ...]:
        """The branches that hold the version a reference names; of a branch, itself.

        Raises:
            NotFound: there is no such version.
        """
        return (ref,) if self._standing.knows(ref) else self._lookup.branches_of(ref)

    # --- what comes and goes ------------------------------------------------------------------------------------------

    def staging(self, ref: ModelRef) -> AbstractContextManager[Path]:
        """The directory where a version is put together, and the only right to do so.

        Leaving the block deletes the directory; leaving it by an exception keeps it, to be continued.

        Raises:
            Conflict: another process is at it.
        """
        return self._shelf.staging(ref)

    def add(
        self,
        ref: ModelRef,
        files: Sequence[NewFile],
        *,
        source: str,
        licence: Licence | None = None,
        in_place: bool = False,
    ) -> StoredModel:
        """Make whole files the next version of a branch; the caller holds its `staging` block.

        Args:
            source: where they come from, as the user wrote it.
            in_place: leave the files where they are, and refer to them.

        Raises:
            InvalidModelFile: not a sound GGUF; nothing is stored.
            Invalid: the reference cannot name a branch.
        """
        importing.add(self._shelf, ref, files, source=source, licence=licence, in_place=in_place)
        return self.resolve(ref)

    def clone(
        self,
        url: str,
        *,
        name: str | None = None,
        branch: str | None = None,
        depth: int | None = None,
        full: bool = False,
    ) -> Generator[Event, None, None]:
        """Register a Git repository and bring its large files here. The last event is Cloned.

        A clone that was left or interrupted is continued by the same clone; one that is done is done.

        Args:
            name: what the model is called here; else the URL's last part.
            branch: which branch gets a worktree; else the remote's default branch.
            depth: how many commits to fetch; all of them unless given.
            full: also bring the large files of all other branches, with a worktree for each.

        Raises:
            Invalid: no such address may be used, or it yields no name.
            NotFound: the remote has no such branch.
            SourceError: the remote cannot be reached, or gave other bytes than promised.
            Conflict: the name is taken, or another process is at it.
            TooLarge: the disk has no room.
        """
        return cloning.clone(self._shelf, url, name=name, branch=branch, depth=depth, is_full=full)

    def update(
        self,
        name: str,
        remote: str | None = None,
        branch: str | None = None,
        *,
        rebase: bool = False,
    ) -> Generator[Event, None, None]:
        """Bring a branch up to date with a remote. The last event is Updated.

        Args:
            rebase: put own commits on top of the remote's, where both have some; otherwise the remote's are merged.

        Raises:
            NotFound: there is no such model, remote or branch.
            Conflict: the worktree has changes, or both sides changed the same file.
            SourceError: as `clone`.
        """
        name, _ = self._lookup.model(ModelRef(name))
        return updating.update(self._shelf, name, remote, branch, is_rebase=rebase)

    def removal(self, target: ModelRef | str) -> RemovalPlan:
        """What removing a branch (a reference), or a whole model (a name or UUID), would take away.

        Raises:
            NotFound: there is no such model or branch.
        """
        ref, branch = (
            (target, target.ref) if isinstance(target, ModelRef) else (ModelRef(target), None)
        )
        try:
            name, _ = self._lookup.model(ref)
        except NotFound:
            try:
                return removing.plan_removal(self._shelf, ref.name, branch)
            except NotFound:
                pass
            raise
        return removing.plan_removal(self._shelf, name, branch)

    def remove(
        self,
        plan: RemovalPlan,
        *,
        registry_only: bool = False,
        files_only: bool = False,
        force: bool = False,
    ) -> None:
        """Do what a plan says. `registry_only` keeps the files where they are, `files_only` the registration.

        Raises:
            Conflict: a worktree has changes that are not committed, and `force` is not set.
            NotFound: it is gone meanwhile.
        """
        removing.remove(
            self._shelf, plan, registry_only=registry_only, files_only=files_only, force=force
        )

    def rename(self, name: str, new_name: str) -> None:
        """Call a model something else; its UUID stays.

        Raises:
            NotFound: there is no such model.
            Conflict: the new name is taken.
            Invalid: it is none.
        """
        removing.rename(self._shelf, self._lookup.model(ModelRef(name))[0], new_name)

    # --- care ---------------------------------------------------------------------------------------------------------

    def gc(self, dry_run: bool = False) -> GcReport:
        """Delete what no version needs any more: large files, removed models, left-overs of transfers.

        Raises:
            Conflict: another process is changing a model.
        """
        return maintenance.collect(self._shelf, is_dry_run=dry_run)

    def verify(self, names: Sequence[str] | None = None) -> Generator[VerifyEvent, None, None]:
        """Read every large file of these models, or of all, to its last byte; fetch again what is broken."""
        chosen = (
            self.names() if names is None else [self._lookup.model(ModelRef(n))[0] for n in names]
        )
        return maintenance.verify(self._shelf, chosen)

    def dedup_report(self) -> DedupReport:
        """What sharing saves, of all models together."""
        return listing.dedup_report(self._shelf)

    def log(self, limit: int = 10) -> list[TextVersion]:
        """The changes of the registry itself, newest first."""
        return self._shelf.state.log(limit)

    def undo(self, revision: str = "HEAD") -> TextVersion:
        """Take one change of the registry back by another.

        Raises:
            NotFound: there is no such change.
            Conflict: what it changed was changed again, or is collected.
        """
        return removing.undo(self._shelf, revision)

    def _require_directory(self) -> None:
        if self.models_dir.exists() and not self.models_dir.is_dir():
            raise Invalid(
                f"{self.models_dir} is not a directory",
                param="models.dir",
                hint="set HYPRSTREAM_MODELS_DIR to one, or to a path where one can be made",
            )

    def list(self) -> list[StoredModel]:
        """Every branch with a worktree that can be served, by reference. One that cannot be read is logged and left out.

        Raises:
            Invalid: what should be the directory of models is something else.
        """
        self._require_directory()
        return listing.models(self._shelf)
