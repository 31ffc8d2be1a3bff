"""How a Git repository of somebody else's becomes a model here. Knows addresses and branches; knows no protocol.

A clone is put together in its `staging` directory and enters the registry whole. What an interrupted one has fetched is there, or
in the blob store, when the same clone is asked for again.
"""

import re
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

from hyprstream.core.errors import Conflict, HyprstreamError, Invalid, NotFound, TooLarge
from hyprstream.core.refs import ModelRef, is_model_name, is_version
from hyprstream.registry import listing
from hyprstream.registry.checkouts import is_checked_out
from hyprstream.registry.entries import Entry
from hyprstream.registry.events import Cloned
from hyprstream.registry.journal import BranchMove, Change, Move
from hyprstream.registry.remote_urls import check_remote_url, redacted
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.shelf import Shelf
from hyprstream.registry.sources.base import Event, Noted, Resolving
from hyprstream.registry.state import Record
from hyprstream.registry.transfer import shown

ORIGIN = "origin"
OUR_REPOSITORY = "repo.git"


def clone(
    shelf: Shelf,
    url: str,
    *,
    name: str | None,
    branch: str | None,
    depth: int | None,
    is_full: bool,
) -> Generator[Event, None, None]:
    """Register a repository and bring its large files here. The last event is Cloned."""
    address = check_remote_url(url)
    name = _checked_name(name or suggested_name(address))
    yield Resolving(redacted(address))
    with shelf.staging(ModelRef(name)) as directory:
        before = shelf.state.find(name)
        _require_same(name, before, address)
        is_new = before is None or not shelf.has_files(name)
        if is_new:
            if before is None:
                shelf.require_free(name)
            yield from _clone(shelf, name, address, directory, branch, depth, is_full)
        elif branch is not None:
            yield from _check_out(shelf, name, branch)
        chosen = branch or shelf.repository(name).git.head_branch or "main"
        found = _entry(shelf, ModelRef(name, chosen))
    if is_new and found.problem is not None:
        yield Noted(f"{found.ref.full} cannot be served: {found.problem}")
    yield Cloned(found, is_new)


def suggested_name(address: str) -> str:
    """The last part of an address, without `.git`; characters a name cannot have become `-`."""
    path = address.partition("?")[0].rstrip("/").removesuffix(f"/{OUR_REPOSITORY}")
    last = re.split(r"[/:]", path.removesuffix(".git"))[-1]
    return re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", last)).strip("._-")


def _checked_name(name: str) -> str:
    if not is_model_name(name):
        raise Invalid(
            f"{name[:80]!r} is no name for a model",
            param="name",
            hint="choose one with --name NAME",
        )
    return name


def _require_same(name: str, record: Record | None, address: str) -> None:
    if record is not None and _normalised(record.origin or "") != _normalised(address):
        raise Conflict(
            f"{name} is registered already, and comes from {record.origin or 'elsewhere'}",
            hint="choose another name with --name NAME",
        )


def _normalised(address: str) -> str:
    return address.rstrip("/").removesuffix(".git")


def _clone(
    shelf: Shelf,
    name: str,
    address: str,
    directory: Path,
    branch: str | None,
    depth: int | None,
    is_full: bool,
) -> Generator[Event, None, None]:
    staged = directory / "model"
    repository = _begin(shelf, staged, address)
    try:
        branch = branch or (yield from _default_branch(repository, address, shelf))
        yield from shown(repository.fetch(ORIGIN, None, depth=depth, large_files=False))
        theirs = _their_branches(repository)
        if branch not in theirs:
            raise NotFound(
                f"{redacted(address)} has no branch {branch!r}",
                kind="branch",
                hint=f"it has {', '.join(sorted(theirs)) or 'none'}",
            )
        wanted = [branch, *sorted(theirs.keys() - {branch})] if is_full else [branch]
        for one in wanted:
            repository.files(theirs[one])  # refuses what no model may hold
            yield from shown(repository.download(ORIGIN, theirs[one]))
    except (Invalid, NotFound, TooLarge):
        rmtree(staged)  # another attempt would find the same
        raise
    _make_branches(repository, theirs, branch)
    with shelf.changing():
        shelf.require_free(name)
        before = shelf.state.find(name)
        record = before or Record(id=str(uuid4()), origin=address, created=int(shelf.clock()))
        record = record.model_copy(
            update={"branches": {one: theirs[one] for one in sorted(wanted)}}
        )
        shelf.make(
            Change(
                message=f"clone {name} from {redacted(address)}",
                before={name: before},
                after={name: record},
                moves=(Move(source=shelf.relative(staged), target=name),),
                branches=tuple(
                    BranchMove(model=name, branch=one, old=theirs[one], new=theirs[one])
                    for one in wanted
                ),
            )
        )


def _begin(shelf: Shelf, staged: Path, address: str) -> ModelRepository:
    """The repository an interrupted clone of the same address has left, or a new one."""
    repository = shelf.repository_at(staged)
    if staged.exists():
        try:
            if repository.remotes() == {ORIGIN: address}:
                return repository
        except HyprstreamError:
            pass
        rmtree(staged)
    ModelRepository.create(staged, shelf.blobs)
    repository.add_remote(ORIGIN, address)
    return repository


def _default_branch(
    repository: ModelRepository, address: str, shelf: Shelf
) -> Generator[Event, None, str]:
    said = yield from shown(
        repository.git.stream(
            "ls-remote",
            "--symref",
            "--",
            address,
            "HEAD",
            url=address,
            token=shelf.token_for(address),
        )
    )
    if found := re.search(r"^ref: refs/heads/(\S+)\tHEAD$", said or "", re.MULTILINE):
        return found[1]
    return "main"


def _their_branches(repository: ModelRepository) -> dict[str, str]:
    prefix = f"refs/remotes/{ORIGIN}/"
    found = {
        name.removeprefix(prefix): ref.oid for name, ref in repository.git.refs(prefix).items()
    }
    return {branch: commit for branch, commit in found.items() if is_version(branch)}


def _make_branches(repository: ModelRepository, theirs: dict[str, str], chosen: str) -> None:
    """Ours where theirs are, each following its own; what an interrupted attempt has made is moved there."""
    with repository.git.exclusive() as git:
        lines = [f"update refs/heads/{branch} {commit}\n" for branch, commit in theirs.items()]
        git.run("update-ref", "--stdin", stdin="".join(lines).encode())
        git.run("symbolic-ref", "HEAD", f"refs/heads/{chosen}")
    for branch in theirs:
        repository.set_upstream(branch, ORIGIN)


def _check_out(shelf: Shelf, name: str, branch: str) -> Generator[Event, None, None]:
    """Give a registered clone a worktree of one more branch."""
    repository = shelf.repository(name)
    if is_checked_out(repository, branch):
        return
    commit = repository.branches().get(branch)
    if commit is None:
        raise NotFound(
            f"{name} has no branch {branch!r}",
            kind="branch",
            hint=f"hyprstream pull {name} {ORIGIN} {branch}",
        )
    yield from shown(repository.download(ORIGIN, commit))
    with shelf.changing():
        record = shelf.state.read(name)
        shelf.make(
            Change(
                message=f"check out {name}:{branch}",
                before={name: record},
                after={name: record.with_branch(branch, commit)},
                branches=(BranchMove(model=name, branch=branch, old=commit, new=commit),),
            )
        )


def _entry(shelf: Shelf, ref: ModelRef) -> Entry:
    record = shelf.state.read(ref.name)
    for branch in listing.branches_of(shelf, ref.name, record):
        if branch.ref == ref:
            holders = (
                Counter(file.sha256 for file in branch.contents.large)
                if branch.contents
                else Counter[str]()
            )
            return listing.entry(shelf, branch, holders)
    raise NotFound(
        f"{ref.full} has no worktree", kind="worktree", hint=f"hyprstream worktree add {ref.full}"
    )
