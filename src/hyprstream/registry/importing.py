"""How weights become a version of a model: a commit of their pointers and a manifest. Knows no source, and not how names are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from uuid import uuid4

from hyprstream.core.errors import Conflict, Invalid
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import Pointer
from hyprstream.registry.commits import hash_bytes, write_commit, write_tree
from hyprstream.registry.journal import BranchMove, Change, Move
from hyprstream.registry.lfs import encode_pointer
from hyprstream.registry.manifest import MANIFEST_FILE, encode_manifest, manifest_of
from hyprstream.registry.repository import ModelRepository
from hyprstream.registry.shelf import Shelf
from hyprstream.registry.sources.base import Licence
from hyprstream.registry.state import Record
from hyprstream.registry.weights import read_facts

ATTRIBUTES_FILE = ".gitattributes"
ATTRIBUTES = b"*.gguf filter=lfs diff=lfs merge=lfs -text\n"
"""Without it, other programs would take a pointer for the file itself (`git-lfs(1)`)."""


@dataclass(frozen=True, slots=True)
class NewFile:
    """A whole file about to enter the registry."""

    path: Path
    """Where it is now: in the `staging` directory, unless it is referred to in place or in the blob store already."""
    name: str
    sha256: str


def add(
    shelf: Shelf,
    ref: ModelRef,
    files: Sequence[NewFile],
    *,
    source: str,
    licence: Licence | None,
    in_place: bool,
) -> str:
    """Make whole files the next version of a branch, of a new model where there is none; returns the commit's id.

    The caller holds the version's `staging` block. The files' bytes are never changed.

    Raises:
        InvalidModelFile: not a sound GGUF; nothing is stored.
        Invalid: the version is named by something that is no branch.
    """
    if ref.is_digest or ref.is_uuid:
        raise Invalid(
            f"{ref} is no name for a new model", param="name", hint="write NAME or NAME:BRANCH"
        )
    facts = read_facts([file.path for file in files], [file.name for file in files])
    facts = replace(facts, license=facts.license or (licence.name if licence else None))
    with shelf.changing():
        weights = {file.name: _keep(shelf, file, in_place=in_place) for file in files}
        manifest = manifest_of(facts, weights, source=source, licence=licence)
        changes = {
            ATTRIBUTES_FILE: ATTRIBUTES,
            MANIFEST_FILE: encode_manifest(manifest),
            **{name: encode_pointer(pointer) for name, pointer in weights.items()},
        }
        message = f"import {ref.full} from {source}"
        if shelf.has_files(ref.name):
            return _add_version(shelf, ref, changes, message)
        return _add_model(shelf, ref, changes, message)


def _keep(shelf: Shelf, file: NewFile, *, in_place: bool) -> Pointer:
    if in_place:
        return shelf.blobs.refer(file.path, sha256=file.sha256)
    if not shelf.blobs.has(file.sha256):
        return shelf.blobs.add(file.path, sha256=file.sha256, move=True)
    return Pointer(file.sha256, file.path.stat().st_size)


def _add_model(shelf: Shelf, ref: ModelRef, changes: Mapping[str, bytes], message: str) -> str:
    staged = shelf.incoming(ref) / "model"
    rmtree(staged, ignore_errors=True)
    repository = ModelRepository.create(staged, shelf.blobs)
    commit = commit_files(repository, None, changes, message)
    before = shelf.state.find(ref.name)
    record = before or Record(id=str(uuid4()), created=int(shelf.clock()))
    change = Change(
        message=message,
        before={ref.name: before},
        after={ref.name: record.with_branch(ref.ref, commit)},
        moves=(Move(source=shelf.relative(staged), target=ref.name),),
        branches=(BranchMove(model=ref.name, branch=ref.ref, old=None, new=commit),),
    )
    shelf.require_free(ref.name)
    shelf.make(change)
    return commit


def _add_version(shelf: Shelf, ref: ModelRef, changes: Mapping[str, bytes], message: str) -> str:
    before = shelf.state.find(ref.name)
    if before is None:
        raise Conflict(
            f"{shelf.directory(ref.name)} holds a repository that is not registered",
            hint="move it elsewhere, or choose another name",
        )
    repository = shelf.repository(ref.name)
    parent = repository.branches().get(ref.ref)
    commit = commit_files(repository, parent, changes, message)
    shelf.make(
        Change(
            message=message,
            before={ref.name: before},
            after={ref.name: before.with_branch(ref.ref, commit)},
            branches=(BranchMove(model=ref.name, branch=ref.ref, old=parent, new=commit),),
        )
    )
    return commit


def commit_files(
    repository: ModelRepository, parent: str | None, changes: Mapping[str, bytes], message: str
) -> str:
    """A commit with these files on top of another, or that other one if it has them already. No branch moves."""
    with repository.git.exclusive() as git:
        oids = {path: hash_bytes(git, content) for path, content in changes.items()}
        tree = write_tree(git, parent, oids)
        if (
            parent is not None
            and git.run("rev-parse", f"{parent}^{{tree}}").decode().strip() == tree
        ):
            return parent
        return write_commit(git, tree, [parent] if parent else [], message)
