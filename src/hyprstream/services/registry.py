"""Which models there are, where they came from and what they cost. Knows who may; how it is done is the registry's business."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyprstream.core.errors import Invalid, NotFound
from hyprstream.core.models import StoredModel
from hyprstream.core.ports import Policy
from hyprstream.core.principal import REGISTRY, Action, Principal
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import TextVersion, TreeFile
from hyprstream.services.repositories import Names, RepositoryService, commit_of, visible_names
from hyprstream.services.versions import Versions

if TYPE_CHECKING:
    from hyprstream.registry.entries import DedupReport, Entry, GcReport, RemovalPlan, VerifyEvent
    from hyprstream.registry.registry import Registry
    from hyprstream.registry.sources.base import Answers, Event


@dataclass(frozen=True, slots=True)
class Listed:
    """One branch of one model, as a list shows it."""

    entry: "Entry"
    model: StoredModel | None
    """None where the branch holds nothing that can be served."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """One version of one model, from every side."""

    ref: ModelRef
    id: str
    commit: TextVersion
    model: StoredModel | None
    problem: str | None
    """Why it cannot be served, if it cannot."""
    entry: "Entry | None"
    """None where this version has no worktree."""
    files: tuple[TreeFile, ...]
    names: Names
    remotes: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """Of all its files, as they are when read."""
        return sum(file.size for file in self.files)


class RegistryService:
    """Lists, brings in, describes and removes models, and looks after their store."""

    def __init__(self, policy: Policy, registry: "Registry") -> None:
        self._policy = policy
        self._registry = registry
        self._versions = Versions(policy, registry)

    def list(self, principal: Principal) -> list[Listed]:
        """Every branch with a worktree that this principal may see, by reference."""
        self._policy.require(principal, Action.QUERY, REGISTRY)
        return [
            Listed(entry, model)
            for entry, model in self._registry.overview()
            if self._versions.sees(principal, entry.ref)
        ]

    def show(self, principal: Principal, ref: ModelRef) -> StoredModel:
        """A model that can be served.

        Raises:
            NotFound: there is none that this principal may see.
            Invalid: the version holds none.
        """
        ref = self._versions.require(principal, Action.QUERY, ref)
        return self._registry.resolve(ref)

    def show_file(self, principal: Principal, path: Path) -> StoredModel:
        """What a GGUF file outside the registry is."""
        self._policy.require(principal, Action.QUERY, REGISTRY)
        return self._registry.resolve_path(path)

    def inspect(self, principal: Principal, ref: ModelRef) -> Inspection:
        """One version with its files, and the branches, tags and remotes around it."""
        ref = self._versions.require(principal, Action.QUERY, ref)
        repository = self._registry.repository(ref.name)
        commit = commit_of(self._registry, ref)
        model, problem = self._served(ref)
        return Inspection(
            ref=ref,
            id=self._registry.id_of(ref.name),
            commit=repository.log(commit, 1)[0],
            model=model,
            problem=problem,
            entry=next((e for e in self._registry.entries() if e.ref == ref), None),
            files=tuple(repository.files(commit).values()),
            names=visible_names(self._versions, repository, principal, ref.name),
            remotes=repository.remotes(),
        )

    def clone(
        self,
        principal: Principal,
        url: str,
        name: str | None = None,
        branch: str | None = None,
        depth: int | None = None,
        full: bool = False,
    ) -> Generator["Event"]:
        """Register a Git repository and bring its models here. The last event is Cloned."""
        self._policy.require(principal, Action.WRITE, REGISTRY)
        return self._registry.clone(url, name=name, branch=branch, depth=depth, full=full)

    def pull(
        self,
        principal: Principal,
        source: str,
        name: ModelRef | None,
        sha256: str | None,
        answers: "Answers",
        in_place: bool = False,
    ) -> Generator["Event"]:
        """Bring in one model from any source. The last event is Stored."""
        self._policy.require(principal, Action.WRITE, REGISTRY)
        from hyprstream.registry.pull import pull

        return pull(
            self._registry, source, name=name, sha256=sha256, answers=answers, in_place=in_place
        )

    def removal(self, principal: Principal, target: str) -> "RemovalPlan":
        """What removing `name` (the whole model) or `name:branch` (that worktree and branch) would take away."""
        self._policy.require(principal, Action.WRITE, REGISTRY)
        ref, is_branch = ModelRef.parse(target), ":" in target
        try:
            if is_branch:
                ref = self._versions.require_new(principal, Action.QUERY, ref)
            else:
                ref = ModelRef(self._versions.require_model(principal, Action.QUERY, ref.name))
        except NotFound:
            # An unfinished pull has left something and is no model yet.
            if ref.is_uuid or ref.name in self._registry.names():
                raise
        return self._registry.removal(ref if is_branch else ref.name)

    def remove(
        self,
        principal: Principal,
        plan: "RemovalPlan",
        registry_only: bool = False,
        files_only: bool = False,
        force: bool = False,
    ) -> None:
        """Do what a plan says. `registry_only` keeps the files, `files_only` the registration.

        Raises:
            Conflict: something is not committed, and `force` is not set.
        """
        self._policy.require(principal, Action.WRITE, REGISTRY)
        self._registry.remove(plan, registry_only=registry_only, files_only=files_only, force=force)

    def rename(self, principal: Principal, name: str, new_name: str) -> None:
        """Call a model something else; its UUID stays."""
        self._policy.require(principal, Action.WRITE, REGISTRY)
        name = self._versions.require_model(principal, Action.QUERY, name)
        self._registry.rename(name, new_name)

    def gc(self, principal: Principal, dry_run: bool = False) -> "GcReport":
        """Delete large files that no version needs any more, or only count them."""
        self._policy.require(principal, Action.MANAGE, REGISTRY)
        return self._registry.gc(dry_run=dry_run)

    def verify(
        self, principal: Principal, names: Sequence[str] | None = None
    ) -> Generator["VerifyEvent"]:
        """Hash every large file again, and fetch those that are broken once more."""
        self._policy.require(principal, Action.MANAGE, REGISTRY)
        if names is not None:
            names = [self._versions.require_model(principal, Action.QUERY, name) for name in names]
        return self._registry.verify(names)

    def dedup_report(self, principal: Principal) -> "DedupReport":
        """What sharing saves, of all models together."""
        self._policy.require(principal, Action.QUERY, REGISTRY)
        return self._registry.dedup_report()

    def history(self, principal: Principal, limit: int = 10) -> Sequence[TextVersion]:
        """The changes of the registry itself, newest first."""
        self._policy.require(principal, Action.QUERY, REGISTRY)
        return self._registry.log(limit)

    def undo(self, principal: Principal, revision: str = "HEAD") -> TextVersion:
        """Take one change of the registry back by another.

        Raises:
            NotFound: there is no such change.
            Conflict: a later change stands in its way.
        """
        self._policy.require(principal, Action.MANAGE, REGISTRY)
        try:
            return self._registry.undo(revision)
        except NotFound:
            raise NotFound(
                f"the registry has no change {revision[:80]!r}",
                kind="version",
                hint="hyprstream registry log",
            ) from None

    def _served(self, ref: ModelRef) -> tuple[StoredModel | None, str | None]:
        try:
            return self._registry.resolve(ref), None
        except (Invalid, NotFound) as error:
            return None, error.message


@dataclass(frozen=True, slots=True)
class RegistryTools:
    """What the commands about models call."""

    registry: RegistryService
    repositories: RepositoryService

    @classmethod
    def of(cls, policy: Policy, registry: "Registry") -> "RegistryTools":
        """The use cases around one registry."""
        return cls(RegistryService(policy, registry), RepositoryService(policy, registry))
