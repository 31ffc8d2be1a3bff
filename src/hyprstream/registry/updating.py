"""How a branch is brought up to date with a remote: forward, merged, or its own commits put on top. Knows no URL."""

from collections.abc import Generator, Mapping, Sequence

from hyprstream.core.errors import Conflict, NotFound
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import FileChange
from hyprstream.registry.checkouts import has_changes, is_checked_out
from hyprstream.registry.commits import read_log, write_commit, write_tree
from hyprstream.registry.events import Updated
from hyprstream.registry.journal import BranchMove, Change
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.shelf import Shelf
from hyprstream.registry.sources.base import Event, Resolving
from hyprstream.registry.transfer import shown


def update(
    shelf: Shelf, name: str, remote: str | None, branch: str | None, *, is_rebase: bool
) -> Generator[Event, None, None]:
    """Fetch a branch and move ours; one without a worktree gets one. The last event is Updated."""
    repository = shelf.repository(name)
    remote = _remote(name, repository, remote)
    branch = branch or repository.git.head_branch or "main"
    ref = ModelRef(name, branch)
    _require_clean(repository, ref)
    yield Resolving(f"{ref.full} from {remote}")
    yield from shown(repository.fetch(remote, branch))
    theirs = repository.git.refs(f"refs/remotes/{remote}/").get(f"refs/remotes/{remote}/{branch}")
    if theirs is None:
        raise NotFound(f"{remote} has no branch {branch!r}", kind="branch")
    with shelf.changing():
        old = repository.branches().get(branch)
        new = _new_tip(repository, ref, old, theirs.oid, is_rebase=is_rebase)
        record = shelf.state.read(name)
        moved = record.with_branch(branch, new)
        if new != old or not is_checked_out(repository, branch):
            shelf.make(
                Change(
                    message=f"update {ref.full} from {remote}: {old[:12] if old else 'nothing'} to {new[:12]}",
                    before={name: record},
                    after={name: moved},
                    branches=(BranchMove(model=name, branch=branch, old=old, new=new),),
                )
            )
    yield Updated(ref, old or "", new)


def _remote(name: str, repository: ModelRepository, remote: str | None) -> str:
    remotes = repository.remotes()
    if remote is None:
        remote = "origin" if "origin" in remotes or len(remotes) != 1 else next(iter(remotes))
    if remote not in remotes:
        raise NotFound(
            f"{name} has no remote {remote!r}",
            kind="remote",
            hint=f"hyprstream remote add {name} {remote} URL",
        )
    return remote


def _require_clean(repository: ModelRepository, ref: ModelRef) -> None:
    if has_changes(repository, ref.ref):
        raise Conflict(
            f"{ref.full} has changes that are not committed",
            hint=f"hyprstream commit {ref.full} -m MESSAGE",
        )


def _new_tip(
    repository: ModelRepository, ref: ModelRef, old: str | None, theirs: str, *, is_rebase: bool
) -> str:
    """The commit where a branch should be."""
    if old is None or old == theirs:
        return theirs
    base = repository.git.run("merge-base", old, theirs, ok=(0, 1)).decode().strip() or None
    if base == old:
        return theirs
    if base == theirs:
        return old
    if base is None:
        raise Conflict(
            f"{ref.full} and its remote have no commit in common",
            hint="was the remote's history rewritten, or fetched with too small a --depth?",
        )
    if is_rebase:
        return _rebase(repository, ref, base, old, theirs)
    return _merge(repository, ref, theirs)


def _merge(repository: ModelRepository, ref: ModelRef, theirs: str) -> str:
    outcome = repository.merge(ref.ref, theirs, message=f"Merge the remote's {ref.ref}")
    if outcome.commit is None:
        raise Conflict(
            f"both sides changed {', '.join(outcome.conflicts)}",
            hint=f"settle it in the worktree, then hyprstream merge {ref.full} --continue; or --abort",
        )
    return outcome.commit


def _rebase(repository: ModelRepository, ref: ModelRef, base: str, old: str, theirs: str) -> str:
    """Our commits since `base` once more, on top of the remote's; no branch moves."""
    theirs_by_path = {change.path: change for change in repository.diff(base, theirs)}
    with repository.git.exclusive() as git:
        output = git.run("rev-list", "--reverse", "--topo-order", f"{base}..{old}", "--")
        tip = theirs
        for commit in output.decode().split():
            version = read_log(git, commit, 1)[0]
            if len(version.parents) != 1:
                raise Conflict(
                    f"{commit[:12]} merges, and cannot be put on top of the remote's commits",
                    hint="update without --rebase",
                )
            changes = repository.diff(version.parents[0], commit)
            _require_apart(changes, theirs_by_path)
            oids = {change.path: change.new.oid if change.new else None for change in changes}
            tip = write_commit(
                git, write_tree(git, tip, oids), [tip], version.message, version.author
            )
        return tip


def _require_apart(ours: Sequence[FileChange], theirs: Mapping[str, FileChange]) -> None:
    for change in ours:
        other = theirs.get(change.path)
        if other is not None and _oid(other) != _oid(change):
            raise Conflict(
                f"both sides changed {change.path}",
                hint="update without --rebase, and settle it in the worktree",
            )


def _oid(change: FileChange) -> str | None:
    return change.new.oid if change.new else None
