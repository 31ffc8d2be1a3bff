"""What keeps a registry small and sound: collecting what nobody needs, reading what is there. Knows blobs, references, transfers."""

import fcntl
import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath

from hyprstream.core.errors import HyprstreamError, NotFound
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import Pointer
from hyprstream.registry.entries import GcReport, Soundness, VerifyEvent
from hyprstream.registry.git import Git
from hyprstream.registry.journal import HELD
from hyprstream.registry.lfs import LfsRemote
from hyprstream.registry.origins import open_source
from hyprstream.registry.reach import Reach
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.shelf import INCOMING, TRASH, Shelf
from hyprstream.registry.sources.base import GivenAnswers

WAIT_SECONDS = 2.0
"""How long a collection waits for whoever is changing a model."""


def collect(shelf: Shelf, *, is_dry_run: bool) -> GcReport:
    """Delete what no version needs any more, or only say what that is.

    A large file is needed as long as any reference of any repository leads to a version with it, also of one that is being
    cloned; nobody can commit while this runs.

    Raises:
        Conflict: another process is changing a model.
    """
    with ExitStack() as stack:
        stack.enter_context(shelf.changing())
        trash = sorted((shelf.models_dir / TRASH).glob("*"))
        kept = [
            stack.enter_context(repository.git.exclusive(WAIT_SECONDS))
            for _, repository in shelf.repositories()
            if repository.git.git_dir.parent not in trash
        ]
        reach = Reach(shelf.library.directory)
        needed = _needed(shelf, reach, kept)
        unneeded = [digest for digest in shelf.blobs if digest not in needed]
        leftovers = list(_leftovers(shelf))
        freed = sum(_cost(shelf, digest) for digest in unneeded) + sum(
            _disk_bytes(path) for path in (*trash, *leftovers)
        )
        kept_bytes = sum(_cost(shelf, digest) for digest in shelf.blobs if digest in needed)
        if not is_dry_run:
            # References first: what a crash leaves behind is unneeded, and the next collection finds it.
            for path in trash:
                shutil.rmtree(path)
            for git in kept:
                for ref in git.refs(HELD):
                    git.run("update-ref", "-d", ref)
            for digest in unneeded:
                shelf.blobs.remove(digest)
            for path in leftovers:
                _delete(path)
            shelf.library.forget({oid for git in kept for oid in git.branches().values()})
            reach.forget()
    return GcReport(
        is_dry_run=is_dry_run,
        n_blobs=len(unneeded),
        n_removed_models=len(trash),
        n_transfers=len(leftovers),
        freed_bytes=freed,
        kept_bytes=kept_bytes,
    )


def verify(shelf: Shelf, names: Sequence[str]) -> Generator[VerifyEvent, None, None]:
    """Read the large files of these models to the last byte, and fetch again what is broken."""
    done: set[str] = set()
    for name in names:
        repository = shelf.repository(name)
        for file, pointer in _checked_out(repository).items():
            if pointer.sha256 not in done:
                done.add(pointer.sha256)
                yield _verified(shelf, name, repository, file, pointer)
        oids = {found.oid for found in repository.git.refs().values()}
        for pointer in sorted(
            Reach(shelf.library.directory).pointers(repository.git, oids),
            key=lambda pointer: pointer.sha256,
        ):
            # What an old version needs may never have been fetched, and is not missed.
            if pointer.sha256 not in done and shelf.blobs.has(pointer.sha256):
                done.add(pointer.sha256)
                yield _verified(shelf, name, repository, pointer.sha256[:12], pointer)


def _needed(shelf: Shelf, reach: Reach, gits: Sequence[Git]) -> set[str]:
    needed: set[str] = set()
    for git in gits:
        refs = git.refs()
        oids = {found.oid for ref, found in refs.items() if not ref.startswith(HELD)}
        needed |= {pointer.sha256 for pointer in reach.pointers(git, oids)}
        for oid in oids:
            # Weights that git itself holds are no pointers; what is served is a copy of them.
            if (contents := shelf.library.known(oid)) is not None:
                needed |= {file.sha256 for file in contents.weights}
    return needed


def _leftovers(shelf: Shelf) -> Iterator[Path]:
    """What transfers have left that are done, or that nobody can continue."""
    incoming = shelf.models_dir / INCOMING
    yield from shelf.blobs.leftovers()
    for path in sorted(incoming.glob("*@*")):
        lock = path.with_name(f"{path.name}.lock")
        name, _, branch = path.name.partition("@")
        if not path.is_dir() or _is_held(lock) or not shelf.has_files(name):
            continue
        if branch.replace("@", "/") in shelf.repository(name).branches():
            yield path


def _is_held(lock: Path) -> bool:
    """Whether another process is at it."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _cost(shelf: Shelf, digest: str) -> int:
    """Bytes a blob takes here; one that is only referred to takes none."""
    return 0 if shelf.blobs.is_reference(digest) else shelf.blobs.size(digest) or 0


def _disk_bytes(path: Path) -> int:
    """What deleting a file or directory frees: files with other names stay."""
    paths = (
        [path]
        if path.is_file()
        else [Path(at, file) for at, _, files in os.walk(path) for file in files]
    )
    return sum(found.st_size for found in (path.lstat() for path in paths) if found.st_nlink == 1)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _checked_out(repository: ModelRepository) -> dict[str, Pointer]:
    """The large files of all worktrees by path, those of later branches under their branch's name too."""
    found: dict[str, Pointer] = {}
    heads = repository.branches()
    for tree in repository.worktrees():
        if (commit := heads.get(tree.branch)) is None:
            continue
        for path, file in repository.files(commit).items():
            if file.pointer is not None and file.pointer not in found.values():
                found[f"{tree.branch}/{path}"] = file.pointer
    return found


def _verified(
    shelf: Shelf, name: str, repository: ModelRepository, file: str, pointer: Pointer
) -> VerifyEvent:
    def event(soundness: Soundness, message: str = "") -> VerifyEvent:
        return VerifyEvent(name, file, pointer.sha256, pointer.size, soundness, message)

    try:
        if shelf.blobs.verify(pointer.sha256):
            return event(Soundness.SOUND)
        shelf.blobs.discard(pointer.sha256)
        outcome = Soundness.BROKEN
    except NotFound:
        outcome = Soundness.MISSING
    problem = _repair(shelf, repository, pointer)
    if problem is not None:
        return event(outcome, problem)
    _relink(shelf, pointer)
    return event(Soundness.REPAIRED)


def _repair(shelf: Shelf, repository: ModelRepository, pointer: Pointer) -> str | None:
    """Fetch a large file again; returns why it could not be."""
    problems: list[str] = []
    for remote, url in repository.remotes().items():
        try:
            for _ in LfsRemote(url, token=shelf.token_for(url)).download([pointer], shelf.blobs):
                pass
        except HyprstreamError as error:
            problems.append(f"{remote}: {error.message}")
        else:
            return None
    for source in _sources(shelf, repository, pointer):
        try:
            _fetch_from_source(shelf, source, pointer)
        except HyprstreamError as error:
            problems.append(f"{source}: {error.message}")
        else:
            return None
    return "; ".join(problems) or "it has no remote and no source it could be fetched from"


def _sources(shelf: Shelf, repository: ModelRepository, pointer: Pointer) -> list[str]:
    """Where manifests say that a file comes from."""
    found: dict[str, None] = {}
    for commit in repository.branches().values():
        contents = shelf.library.known(commit)
        if contents and contents.source and pointer in [file.pointer for file in contents.weights]:
            found[contents.source] = None
    return list(found)


def _fetch_from_source(shelf: Shelf, text: str, pointer: Pointer) -> None:
    source = open_source(text, pointer.sha256)
    # Terms were agreed to when the file was first fetched.
    offer = source.offer(GivenAnswers(accept_licence=True))
    if pointer.sha256 not in [file.sha256 for file in offer.files]:
        raise NotFound("it has another file now", kind="file")
    with shelf.staging(ModelRef(f"repair-{pointer.sha256[:12]}")) as directory:
        for _ in source.fetch(offer, directory):
            pass
        shelf.blobs.add(directory / pointer.sha256, sha256=pointer.sha256, move=True)


def _relink(shelf: Shelf, pointer: Pointer) -> None:
    """Give the worktrees the repaired file in place of the broken one, which they were linked to."""
    for name in shelf.state.names():
        if not shelf.has_files(name):
            continue
        repository = shelf.repository(name)
        heads = repository.branches()
        for tree in repository.worktrees():
            contents = shelf.library.known(heads.get(tree.branch, ""))
            for file in contents.large if contents else ():
                if file.sha256 == pointer.sha256:
                    path = Path(tree.path, *PurePosixPath(file.path).parts)
                    _replace(shelf, pointer, path)
            with suppress(HyprstreamError):
                repository.status(tree.branch)  # takes notice that only the inode is another


def _replace(shelf: Shelf, pointer: Pointer, path: Path) -> None:
    broken = shelf.blobs.directory / "broken" / pointer.sha256
    try:
        was_linked = path.is_symlink() or path.samefile(broken)
    except FileNotFoundError:
        was_linked = False
    # A copy of its own may have been changed on purpose.
    if was_linked:
        shelf.blobs.link(pointer, path)
