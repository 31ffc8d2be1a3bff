"""Which branches of which models are here, and how they lie on disk. Reads; starts no process for what was found out before."""

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyprstream.core.errors import Corrupt, HyprstreamError, NotFound
from hyprstream.core.models import StoredModel
from hyprstream.core.refs import ModelRef
from hyprstream.registry.blobs import BlobStore, LinkKind
from hyprstream.registry.checkouts import has_changes, made
from hyprstream.registry.contents import Contents
from hyprstream.registry.entries import DedupReport, Entry
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.shelf import Shelf
from hyprstream.registry.state import Record

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Branch:
    """A branch that has a worktree."""

    ref: ModelRef
    record: Record
    repository: ModelRepository
    commit: str
    worktree: Path
    created: int
    """When the worktree was made, in seconds since the epoch."""
    contents: Contents | None
    """None where its weights are not here."""
    problem: str | None
    """Why `contents` is None."""


def branches(shelf: Shelf) -> Iterator[Branch]:
    """Every branch that has a worktree. A model that cannot be read is logged and left out."""
    for name in shelf.state.names():
        try:
            yield from branches_of(shelf, name, shelf.state.read(name))
        except (HyprstreamError, OSError) as error:
            _log.warning("model %s left out: %s", name, error)


def branches_of(shelf: Shelf, name: str, record: Record) -> Iterator[Branch]:
    """Every branch of one model that has a worktree.

    Raises:
        NotFound: the model's files are not here.
    """
    repository = shelf.repository(name)
    for branch, commit in repository.branches().items():
        if (created := made(repository, branch)) is None:
            continue
        try:
            contents, problem = shelf.contents(name, commit), None
        except HyprstreamError as error:
            contents, problem = None, error.message
        ref, path = ModelRef(name, branch), repository.worktree_path(branch)
        yield Branch(ref, record, repository, commit, path, created, contents, problem)


def stored_model(
    shelf: Shelf, ref: ModelRef, record: Record, repository: ModelRepository, contents: Contents
) -> StoredModel:
    """A version that can be served.

    Raises:
        NotFound: a file of the weights is not here.
        Corrupt: a file that is referred to in place has changed.
    """
    assert contents.facts is not None, "only what can be served is a stored model"
    return StoredModel(
        ref=ref,
        path=str(shelf.library.path(repository, contents)),
        size_bytes=sum(file.size for file in contents.weights),
        sha256=contents.sha256,
        source=record.origin or contents.source or "",
        created=contents.created,
        facts=contents.facts,
        id=record.id,
        commit=contents.commit,
    )


def models(shelf: Shelf) -> list[StoredModel]:
    """Every branch with a worktree that can be served, by reference."""
    found = (served(shelf, branch) for branch in branches(shelf))
    return sorted((model for model in found if model is not None), key=lambda model: model.ref)


def served(shelf: Shelf, branch: Branch) -> StoredModel | None:
    """The model a branch holds; None where it cannot be served. What is wrong with its files is logged."""
    if branch.contents is None or branch.contents.facts is None:
        return None
    try:
        return stored_model(shelf, branch.ref, branch.record, branch.repository, branch.contents)
    except (HyprstreamError, OSError) as error:
        _log.warning("model %s left out: %s", branch.ref, error)
        return None


def entries(shelf: Shelf) -> list[tuple[Entry, StoredModel | None]]:
    """Every branch with a worktree by reference, and the model it holds where that can be served."""
    found = sorted(branches(shelf), key=lambda branch: branch.ref)
    holders = Counter(
        digest
        for branch in found
        if branch.contents
        for digest in {file.sha256 for file in branch.contents.large}
    )
    return [(entry(shelf, branch, holders), served(shelf, branch)) for branch in found]


def entry(shelf: Shelf, branch: Branch, holders: Counter[str]) -> Entry:
    """How one branch lies on disk. `holders` counts in how many branches a large file is."""
    contents = branch.contents
    large = contents.large if contents else ()
    problem = branch.problem or (contents.problem if contents else None)
    return Entry(
        ref=branch.ref,
        id=branch.record.id,
        commit=branch.commit,
        is_dirty=_is_dirty(branch),
        size_bytes=contents.size_bytes if contents else 0,
        shared_bytes=sum(file.size for file in large if holders[file.sha256] > 1),
        created=branch.created,
        driver=driver(shelf.blobs, branch),
        worktree=str(branch.worktree),
        has_weights=contents is not None and contents.facts is not None,
        source=branch.record.origin or (contents.source if contents else None) or "",
        problem=problem,
    )


def _is_dirty(branch: Branch) -> bool:
    try:
        return has_changes(branch.repository, branch.ref.ref)
    except (HyprstreamError, OSError) as error:  # what cannot be compared may hold somebody's work
        _log.warning("the files of %s: %s", branch.ref, error)
        return True


def driver(blobs: BlobStore, branch: Branch) -> LinkKind:
    """How the first large file came into a worktree; a copy where there is none."""
    for file in branch.contents.large if branch.contents else ():
        return link_kind(blobs, file.sha256, branch.worktree / file.path)
    return LinkKind.COPY


def link_kind(blobs: BlobStore, sha256: str, path: Path) -> LinkKind:
    """How a file of a worktree holds a blob."""
    if path.is_symlink():
        return LinkKind.SYMLINK
    try:
        if blobs.path(sha256).samefile(path):
            return LinkKind.HARDLINK
    except (NotFound, Corrupt, OSError):
        return LinkKind.COPY
    return LinkKind.REFLINK if blobs.shares(sha256, path) else LinkKind.COPY


def dedup_report(shelf: Shelf) -> DedupReport:
    """What sharing saves, of all models together."""
    found = list(branches(shelf))
    drivers: Counter[str] = Counter()
    copied = 0
    for branch in found:
        for file in branch.contents.large if branch.contents else ():
            path = branch.worktree / file.path
            kind = link_kind(shelf.blobs, file.sha256, path)
            drivers[kind.value] += 1
            if kind is LinkKind.COPY and path.exists():
                copied += file.size
    sizes = [shelf.blobs.size(sha256) or 0 for sha256 in shelf.blobs]
    return DedupReport(
        n_models=len({branch.ref.name for branch in found}),
        n_worktrees=len(found),
        logical_bytes=sum(branch.contents.size_bytes for branch in found if branch.contents),
        stored_bytes=sum(sizes) + copied,
        n_blobs=len(sizes),
        drivers=dict(drivers),
    )
