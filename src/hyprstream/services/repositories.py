"""What is done to one model: versions, worktrees, remotes. Knows who may; how it is done is the registry's business."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hyprstream.core.errors import Conflict, Invalid, NotFound
from hyprstream.core.ports import Policy
from hyprstream.core.principal import Action, Principal
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import MergeOutcome, Status, TextVersion, Worktree
from hyprstream.services.comparison import Comparison, Side, compare
from hyprstream.services.versions import Versions

if TYPE_CHECKING:
    from hyprstream.registry.registry import Registry
    from hyprstream.registry.repository import ModelRepository
    from hyprstream.registry.sources.base import Event

FastForward = Literal["auto", "only", "never"]


@dataclass(frozen=True, slots=True)
class Names:
    """The branches and tags of a model that a principal may see: name to commit id."""

    name: str
    branches: dict[str, str]
    tags: dict[str, str]
    worktrees: dict[str, Worktree]
    """By branch."""


class RepositoryService:
    """Reads and changes the repository of one model at a time."""

    def __init__(self, policy: Policy, registry: "Registry") -> None:
        self._policy = policy
        self._registry = registry
        self._versions = Versions(policy, registry)

    def names(self, principal: Principal, name: str) -> Names:
        """The branches, tags and worktrees of a model."""
        name = self._versions.require_model(principal, Action.QUERY, name)
        return visible_names(self._versions, self._registry.repository(name), principal, name)

    def status(self, principal: Principal, ref: ModelRef) -> Status:
        """A branch's worktree against the branch, and the branch against its remote."""
        ref = self._versions.require(principal, Action.QUERY, ref)
        return self._repository(ref).status(ref.ref)

    def log(self, principal: Principal, ref: ModelRef, limit: int) -> list[TextVersion]:
        """The commits a version is made of, newest first."""
        ref = self._versions.require(principal, Action.QUERY, ref)
        return self._repository(ref).log(commit_of(self._registry, ref), limit)

    def diff(self, principal: Principal, old: ModelRef, new: ModelRef) -> Comparison:
        """What changed from one version to another, of one model or of two."""
        old = self._versions.require(principal, Action.QUERY, old)
        new = self._versions.require(principal, Action.QUERY, new)
        return compare(self._side(old), self._side(new))

    def commit(
        self,
        principal: Principal,
        ref: ModelRef,
        message: str,
        author: str | None = None,
        allow_empty: bool = False,
    ) -> str:
        """Make what is in the worktree the branch's next version; returns its id.

        Raises:
            Conflict: nothing changed, or a merge waits.
            Invalid: the message says nothing.
        """
        ref = self._versions.require(principal, Action.WRITE, ref)
        if not message.strip():
            raise Invalid(
                "the message is empty", param="message", hint=f'hyprstream commit {ref} -m "Why"'
            )
        repository = self._repository(ref)
        _require_branch(repository, ref)
        return repository.commit(ref.ref, message, author=author, allow_empty=allow_empty)

    def branch(self, principal: Principal, new: ModelRef, start: ModelRef) -> Worktree:
        """Make a branch where another version is, and a worktree for it."""
        new = self._versions.require_new(principal, Action.WRITE, new)
        start = self._versions.require(principal, Action.QUERY, start)
        repository = self._repository(new)
        _require_room(new.ref, repository.branches(), "branch")
        repository.create_branch(new.ref, commit_of(self._registry, start))
        return repository.add_worktree(new.ref)

    def delete_branch(self, principal: Principal, ref: ModelRef, force: bool = False) -> None:
        """Delete a branch and its worktree.

        Raises:
            Conflict: its worktree has changes that are not committed, and `force` is not set; or it is the only branch.
        """
        ref = self._versions.require(principal, Action.WRITE, ref)
        _require_branch(self._repository(ref), ref)
        plan = self._registry.removal(ref)
        if plan.is_whole_model:
            raise Conflict(
                f"{ref.full} is the only branch of its model", hint=f"hyprstream remove {ref.name}"
            )
        self._registry.remove(plan, force=force)

    def tag(
        self, principal: Principal, new: ModelRef, start: ModelRef, message: str | None = None
    ) -> str:
        """Give a version a name that does not move; returns the commit's id."""
        new = self._versions.require_new(principal, Action.WRITE, new)
        start = self._versions.require(principal, Action.QUERY, start)
        repository = self._repository(new)
        commit = commit_of(self._registry, start)
        _require_room(new.ref, repository.tags(), "tag")
        repository.create_tag(new.ref, commit, message)
        return commit

    def delete_tag(self, principal: Principal, ref: ModelRef) -> None:
        """Take a tag away; the commit stays."""
        ref = self._versions.require_new(principal, Action.WRITE, ref)
        self._repository(ref).delete_tag(ref.ref)

    def merge(
        self,
        principal: Principal,
        target: ModelRef,
        source: ModelRef,
        message: str | None = None,
        ff: FastForward = "auto",
    ) -> MergeOutcome:
        """Bring another version's changes into a branch. Where both changed a file, its conflicts wait in the worktree."""
        target = self._versions.require(principal, Action.WRITE, target)
        source = self._versions.require(principal, Action.QUERY, source)
        if source.name != target.name:
            raise Invalid(
                f"{source} is another model than {target}",
                hint="only versions of one model can be merged",
            )
        repository = self._repository(target)
        _require_branch(repository, target)
        version = commit_of(self._registry, source) if source.is_digest else source.ref
        return repository.merge(target.ref, version, message=message, ff=ff)

    def merge_abort(self, principal: Principal, target: ModelRef) -> None:
        """Give up a merge whose conflicts wait."""
        target = self._versions.require(principal, Action.WRITE, target)
        self._repository(target).merge_abort(target.ref)

    def merge_continue(
        self,
        principal: Principal,
        target: ModelRef,
        message: str | None = None,
        take: Literal["ours", "theirs"] | None = None,
    ) -> str:
        """Commit a merge; returns the commit's id. `take` settles what is still open by one side's whole files.

        Raises:
            Conflict: no merge waits, or a conflict is open.
        """
        target = self._versions.require(principal, Action.WRITE, target)
        return self._repository(target).merge_continue(target.ref, message, take=take)

    def checkout(self, principal: Principal, ref: ModelRef, force: bool = False) -> Worktree:
        """A worktree of the branch with its files as committed. `force` throws away what is not committed.

        Raises:
            Conflict: something is not committed, and `force` is not set.
        """
        ref = self._versions.require(principal, Action.WRITE, ref)
        repository = self._repository(ref)
        _require_branch(repository, ref)
        if all(tree.branch != ref.ref for tree in repository.worktrees()):
            return repository.add_worktree(ref.ref)
        if force:
            repository.remove_worktree(ref.ref, force=True)
            return repository.add_worktree(ref.ref)
        if changes := repository.status(ref.ref).changes:
            raise Conflict(
                f"{ref.full} has changes that are not committed, the first in {changes[0].path}",
                hint=f"hyprstream commit {ref.full} -m MESSAGE, or checkout with --force",
            )
        repository.refresh_worktree(ref.ref)
        return repository.worktree(ref.ref)

    def fetch_files(self, principal: Principal, ref: ModelRef) -> Generator["Event"]:
        """Bring the large files of a version here that are not, from the remote its branch follows."""
        ref = self._versions.require(principal, Action.QUERY, ref)
        return _missing_files(self._repository(ref), ref)

    def worktree(self, principal: Principal, ref: ModelRef) -> tuple[Worktree, Status]:
        """The worktree of one branch and how it stands."""
        ref = self._versions.require(principal, Action.QUERY, ref)
        repository = self._repository(ref)
        return repository.worktree(ref.ref), repository.status(ref.ref)

    def is_dirty(self, principal: Principal, ref: ModelRef) -> bool:
        """Whether the worktree of a branch has changes; asks sizes and times alone."""
        ref = self._versions.require(principal, Action.QUERY, ref)
        return self._repository(ref).is_dirty(ref.ref)

    def add_worktree(self, principal: Principal, ref: ModelRef) -> Worktree:
        """Put the files of a branch on disk."""
        ref = self._versions.require(principal, Action.WRITE, ref)
        repository = self._repository(ref)
        _require_branch(repository, ref)
        return repository.add_worktree(ref.ref)

    def remove_worktree(self, principal: Principal, ref: ModelRef, force: bool = False) -> None:
        """Take the files of a branch off the disk; the branch stays.

        Raises:
            Conflict: something in it is not committed, and `force` is not set.
        """
        ref = self._versions.require(principal, Action.WRITE, ref)
        self._repository(ref).remove_worktree(ref.ref, force=force)

    def remotes(self, principal: Principal, name: str) -> dict[str, str]:
        """The remotes of a model: name to URL, without credentials."""
        name = self._versions.require_model(principal, Action.QUERY, name)
        return self._registry.repository(name).remotes()

    def add_remote(self, principal: Principal, name: str, remote: str, url: str) -> None:
        """Name a place this model can be fetched from and pushed to."""
        name = self._versions.require_model(principal, Action.WRITE, name)
        self._registry.repository(name).add_remote(remote, url)

    def set_remote_url(self, principal: Principal, name: str, remote: str, url: str) -> None:
        """Change where a remote is."""
        name = self._versions.require_model(principal, Action.WRITE, name)
        self._registry.repository(name).set_remote_url(remote, url)

    def rename_remote(self, principal: Principal, name: str, old: str, new: str) -> None:
        """Change what a remote is called."""
        name = self._versions.require_model(principal, Action.WRITE, name)
        self._registry.repository(name).rename_remote(old, new)

    def remove_remote(self, principal: Principal, name: str, remote: str) -> None:
        """Forget a remote."""
        name = self._versions.require_model(principal, Action.WRITE, name)
        self._registry.repository(name).remove_remote(remote)

    def push(
        self,
        principal: Principal,
        ref: ModelRef,
        remote: str,
        force: bool = False,
        set_upstream: bool = False,
    ) -> Generator["Event"]:
        """Send a branch to a remote, large files first."""
        ref = self._versions.require(principal, Action.WRITE, ref)
        repository = self._repository(ref)
        _require_branch(repository, ref)
        _require_remote(repository, ref.name, remote)
        from hyprstream.registry.transfer import shown

        return shown(repository.push(remote, ref.ref, force=force, set_upstream=set_upstream))

    def update(
        self,
        principal: Principal,
        ref: ModelRef,
        remote: str | None = None,
        rebase: bool = False,
    ) -> Generator["Event"]:
        """Bring a branch up to date with a remote. The last event is Updated."""
        ref = self._versions.require_new(principal, Action.WRITE, ref)
        if remote is not None:
            _require_remote(self._repository(ref), ref.name, remote)
        return self._registry.update(ref.name, remote, ref.ref, rebase=rebase)

    def _repository(self, ref: ModelRef) -> "ModelRepository":
        return self._registry.repository(ref.name)

    def _side(self, ref: ModelRef) -> Side:
        repository = self._repository(ref)
        commit = commit_of(self._registry, ref)
        try:
            facts = self._registry.resolve(ref).facts
        except (
            Invalid,
            NotFound,
        ):  # a version without a model that can be served can be compared all the same
            facts = None
        files = repository.files(commit)
        return Side(ref, commit, files, facts, lambda path: repository.read(commit, path))


def commit_of(registry: "Registry", ref: ModelRef) -> str:
    """The full id of the commit a reference names."""
    # Git knows no digests; the weights that one names are here, or it would name nothing.
    return (
        registry.resolve(ref).commit
        if ref.is_digest
        else registry.repository(ref.name).resolve(ref.ref)
    )


def _require_branch(repository: "ModelRepository", ref: ModelRef) -> None:
    if ref.ref not in repository.branches():
        raise Conflict(
            f"{ref.full} is no branch, and only a branch can change",
            hint=f"hyprstream branch {ref.name} NAME --from {ref.ref}",
        )


def _require_room(name: str, others: Iterable[str], what: str) -> None:
    # A name is a path to Git, and what is a file there cannot be a directory too.
    for other in others:
        if other.startswith(f"{name}/") or name.startswith(f"{other}/"):
            raise Conflict(
                f"there is a {what} {other!r}, and one name cannot be the beginning of another",
                hint="choose another name",
            )


def _missing_files(repository: "ModelRepository", ref: ModelRef) -> Generator["Event"]:
    from hyprstream.registry.transfer import shown

    if ref.is_digest:  # its weights are here, or it would name nothing
        return
    version = ref.ref

    remotes = repository.remotes()
    upstream = repository.status(version).upstream if version in repository.branches() else None
    remote = (upstream or "origin").partition("/")[0]
    remote = next(iter(remotes)) if len(remotes) == 1 else remote
    if remote in remotes:
        yield from shown(repository.download(remote, repository.resolve(version)))


def _require_remote(repository: "ModelRepository", name: str, remote: str) -> None:
    remotes = repository.remotes()
    if remote not in remotes:
        raise NotFound(
            f"{name} has no remote {remote!r}",
            kind="remote",
            hint=f"it has {', '.join(sorted(remotes))}"
            if remotes
            else f"hyprstream remote add {name} {remote} URL",
        )


def visible_names(
    versions: Versions, repository: "ModelRepository", principal: Principal, name: str
) -> Names:
    """What of a model's names a principal may see."""

    def visible(commits: dict[str, str]) -> dict[str, str]:
        return {
            version: commit
            for version, commit in sorted(commits.items())
            if versions.sees(principal, ModelRef(name, version))
        }

    branches = visible(repository.branches())
    worktrees = {tree.branch: tree for tree in repository.worktrees() if tree.branch in branches}
    return Names(name, branches, visible(repository.tags()), worktrees)
