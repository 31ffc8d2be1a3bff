"""How models and branches go, change their names and come back. Knows no policy and no terminal.

What is removed is moved aside, so that `undo` brings it back; only `gc` deletes.
"""

from dataclasses import dataclass, field

from hyprstream.core.errors import Conflict, Invalid, NotFound
from hyprstream.core.refs import ModelRef, is_model_name
from hyprstream.core.versions import TextVersion
from hyprstream.registry.checkouts import has_changes
from hyprstream.registry.entries import RemovalPlan
from hyprstream.registry.journal import HELD, BranchMove, Change, Move
from hyprstream.registry.reach import Reach
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.shelf import Shelf
from hyprstream.registry.state import Record


def plan_removal(shelf: Shelf, name: str, branch: str | None) -> RemovalPlan:
    """What would go with a branch, or with a whole model. The last branch of a model is the model.

    Raises:
        NotFound: there is no such model or branch.
    """
    if not is_model_name(name):
        raise NotFound(f"no model {name[:80]!r}")
    record = shelf.state.find(name)
    unfinished = _unfinished(shelf, name, branch)
    if record is None or not shelf.has_files(name):
        if record is None and not unfinished:
            raise NotFound(f"no model {name!r}")
        what = name if record else f"what an unfinished pull of {name} left"
        return RemovalPlan(what, name, None, (), (), 0, 0, record is not None)
    repository = shelf.repository(name)
    heads = repository.branches()
    if branch is not None and branch not in heads:
        if not unfinished:
            raise NotFound(f"{name} has no branch {branch!r}", kind="branch")
        return RemovalPlan(
            f"what an unfinished pull of {name}:{branch} left", name, branch, (), (), 0, 0, False
        )
    is_whole = branch is None or list(heads) == [branch]
    trees = [tree.branch for tree in repository.worktrees() if is_whole or tree.branch == branch]
    freed, kept = _sizes(shelf, name, repository, None if is_whole else branch)
    return RemovalPlan(
        what=name if is_whole else f"{name}:{branch}",
        name=name,
        branch=None if is_whole else branch,
        worktrees=tuple(trees),
        dirty=tuple(tree for tree in trees if has_changes(repository, tree)),
        size_bytes=freed,
        shared_bytes=kept,
        is_whole_model=is_whole,
    )


def remove(
    shelf: Shelf, plan: RemovalPlan, *, registry_only: bool, files_only: bool, force: bool
) -> None:
    """Do what a plan says. `registry_only` keeps the files, `files_only` the registration.

    Raises:
        Conflict: a worktree has changes that are not committed, and `force` is not set; or another process is at it.
        NotFound: it is gone meanwhile.
    """
    if registry_only and files_only:
        raise Invalid("to keep the files and the registration is to remove nothing")
    for ref in _unfinished(shelf, plan.name, plan.branch):
        with shelf.staging(ref):
            pass  # leaving the block deletes it
    with shelf.changing():
        record = shelf.state.find(plan.name)
        if record is None:
            if plan.is_whole_model:
                raise NotFound(f"no model {plan.name!r}")
            return
        if shelf.has_files(plan.name) and not registry_only and not force:
            _require_clean(shelf, plan)
        if plan.branch is not None:
            _remove_branch(shelf, plan.name, plan.branch, record)
        elif plan.is_whole_model:
            _remove_model(shelf, plan.name, record, registry_only, files_only)


def rename(shelf: Shelf, name: str, new_name: str) -> None:
    """Call a model something else.

    Raises:
        NotFound: there is no such model.
        Conflict: the new name is taken.
        Invalid: it is none.
    """
    if not is_model_name(new_name):
        raise Invalid(f"{new_name[:80]!r} is no name for a model", param="name")
    with shelf.changing():
        record = shelf.state.read(name)
        if shelf.state.find(new_name) is not None:
            raise Conflict(f"there is a model {new_name} already", hint="choose another name")
        shelf.require_free(new_name)
        moves = (Move(source=name, target=new_name),) if shelf.has_files(name) else ()
        shelf.make(
            Change(
                message=f"rename {name} to {new_name}",
                before={name: record, new_name: None},
                after={name: None, new_name: record},
                moves=moves,
            )
        )


def undo(shelf: Shelf, revision: str) -> TextVersion:
    """Take one change of the registry back by another.

    Raises:
        NotFound: there is no such change.
        Conflict: what it changed was changed again, or is collected.
    """
    with shelf.changing():
        commit = shelf.state.resolve(revision)
        version = shelf.state.log(1, commit)[0]
        names = shelf.state.changed(commit)
        parent = version.parents[0] if version.parents else None
        old = shelf.state.at(parent, names) if parent else dict.fromkeys(names)
        new = shelf.state.at(commit, names)
        back = _Back(shelf)
        for model_id in sorted({record.id for record in (*old.values(), *new.values()) if record}):
            back.take_back(_named(old, model_id), _named(new, model_id))
        change = Change(
            message=f"undo: {version.message}",
            before={name: shelf.state.find(name) for name in back.after},
            after=back.after,
            moves=tuple(back.moves),
            branches=tuple(back.branches),
        )
        shelf.make(change)
        return shelf.state.log(1)[0]


@dataclass(slots=True)
class _Back:
    """What leads from the present back to what one change found. `old` is what it found, `new` what it left: names and records."""

    shelf: Shelf
    after: dict[str, Record | None] = field(default_factory=dict[str, Record | None])
    moves: list[Move] = field(default_factory=list[Move])
    branches: list[BranchMove] = field(default_factory=list[BranchMove])

    def take_back(self, old: "_Named | None", new: "_Named | None") -> None:
        """Add the way back of one model."""
        if new is not None:
            now = self.shelf.state.find(new[0])
            if now is None or now.id != new[1].id:
                raise Conflict(f"{new[0]} was removed or renamed since", hint="undo that first")
        if old is None:
            assert new is not None, "a change changed something"
            self._remove(*new)
        elif new is None:
            self._restore(*old)
        elif old[0] != new[0]:
            self._rename(old, new)
        else:
            self._reset(old[0], old[1], new[1])

    def _remove(self, name: str, record: Record) -> None:
        self.after[name] = None
        if self.shelf.has_files(name):
            self.moves.append(Move(source=name, target=self.shelf.new_trash(record)))

    def _restore(self, name: str, record: Record) -> None:
        if self.shelf.state.find(name) is not None:
            raise Conflict(f"there is another model {name} now", hint="rename or remove it first")
        self.after[name] = record
        self._restore_files(name, record)

    def _restore_files(self, name: str, record: Record) -> None:
        if self.shelf.has_files(name):  # only the registration was removed
            return
        source = self.shelf.trashed(record.id)
        if source is None:
            raise Conflict(
                f"the files of {name} are collected and cannot be brought back",
                hint=f"hyprstream clone {record.origin}" if record.origin else "pull it again",
            )
        self.moves.append(Move(source=source, target=name))

    def _rename(self, old: "_Named", new: "_Named") -> None:
        if self.shelf.state.find(old[0]) is not None:
            raise Conflict(f"there is another model {old[0]} now", hint="rename or remove it first")
        self.after |= {new[0]: None, old[0]: self.shelf.state.read(new[0])}
        if self.shelf.has_files(new[0]):
            self.moves.append(Move(source=new[0], target=old[0]))

    def _reset(self, name: str, old: Record, new: Record) -> None:
        self.after[name] = old
        if not self.shelf.has_files(name):
            self._restore_files(name, old)
            return
        repository = self.shelf.repository(name)
        heads = repository.branches()
        for branch in sorted(old.branches.keys() | new.branches.keys()):
            before, after = old.branches.get(branch), new.branches.get(branch)
            if before == after:
                continue
            if heads.get(branch) != after or has_changes(repository, branch):
                raise Conflict(
                    f"{name}:{branch} was changed since", hint="a branch can be moved by hand"
                )
            self.branches.append(BranchMove(model=name, branch=branch, old=after, new=before))


_Named = tuple[str, Record]


def _named(records: dict[str, Record | None], model_id: str) -> _Named | None:
    return next(
        ((name, record) for name, record in records.items() if record and record.id == model_id),
        None,
    )


def _unfinished(shelf: Shelf, name: str, branch: str | None) -> list[ModelRef]:
    """What pulls of a model, or of one of its branches, have left."""
    found: list[ModelRef] = []
    for path in (shelf.models_dir / ".incoming").glob(f"{name}@*/"):
        ref = ModelRef(name, path.name.partition("@")[2].replace("@", "/"))
        if path.is_dir() and branch in (None, ref.ref):
            found.append(ref)
    return found


def _sizes(
    shelf: Shelf, name: str, repository: ModelRepository, branch: str | None
) -> tuple[int, int]:
    """Bytes of large files that only what goes needs, and bytes of those that something else needs too."""
    reach = Reach(shelf.library.directory)
    refs = {ref: found.oid for ref, found in repository.git.refs().items()}
    refs = {ref: oid for ref, oid in refs.items() if not ref.startswith(HELD)}
    gone = refs.keys() if branch is None else {f"refs/heads/{branch}"}
    going = reach.pointers(repository.git, {refs[ref] for ref in gone})
    needed = reach.pointers(repository.git, {refs[ref] for ref in refs.keys() - gone})
    for other, other_repository in shelf.repositories():
        if other != name and going:
            oids = {found.oid for found in other_repository.git.refs().values()}
            needed |= reach.pointers(other_repository.git, oids) & going
    here = {pointer for pointer in going if shelf.blobs.has(pointer.sha256)}
    freed = sum(
        pointer.size for pointer in here - needed if not shelf.blobs.is_reference(pointer.sha256)
    )
    return freed, sum(pointer.size for pointer in here & needed)


def _require_clean(shelf: Shelf, plan: RemovalPlan) -> None:
    repository = shelf.repository(plan.name)
    dirty = [branch for branch in plan.worktrees if has_changes(repository, branch)]
    if dirty:
        raise Conflict(
            f"{plan.name}:{dirty[0]} has changes that are not committed",
            hint=f"hyprstream commit {plan.name}:{dirty[0]} -m MESSAGE, or remove it with --force",
        )


def _remove_branch(shelf: Shelf, name: str, branch: str, record: Record) -> None:
    tip = shelf.repository(name).branches().get(branch)
    if tip is None:
        raise NotFound(f"{name} has no branch {branch!r}", kind="branch")
    if record.branches.get(branch) != tip:
        # So that the version before the removal says what to bring back.
        noted = record.with_branch(branch, tip)
        shelf.make(
            Change(
                message=f"{name}:{branch} is at {tip[:12]}",
                before={name: record},
                after={name: noted},
            )
        )
        record = noted
    shelf.make(
        Change(
            message=f"remove {name}:{branch}",
            before={name: record},
            after={name: record.with_branch(branch, None)},
            branches=(BranchMove(model=name, branch=branch, old=tip, new=None),),
        )
    )


def _remove_model(
    shelf: Shelf, name: str, record: Record, registry_only: bool, files_only: bool
) -> None:
    what = "registration" if registry_only else "files" if files_only else ""
    moves_files = shelf.has_files(name) and not registry_only
    moves = (Move(source=name, target=shelf.new_trash(record)),) if moves_files else ()
    kept = record.model_copy(update={"branches": {}}) if files_only else None
    shelf.make(
        Change(
            message=f"remove the {what} of {name}" if what else f"remove {name}",
            before={name: record},
            after={name: kept},
            moves=moves,
        )
    )
