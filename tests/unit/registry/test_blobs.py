"""Large files are kept once, whole, and under the digest they have."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from hyprstream.core.errors import Conflict, Corrupt, Invalid, NotFound, SourceError, TooLarge
from hyprstream.core.versions import Pointer
from hyprstream.registry import blobs as blobs_module
from hyprstream.registry.blobs import BlobStore, LinkKind
from hyprstream.registry.extents import reflink, share_extents
from hyprstream.registry.sources import partial

CONTENT = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(CONTENT).hexdigest()
POINTER = Pointer(SHA256, len(CONTENT))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models" / ".blobs")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.gguf"
    path.write_bytes(CONTENT)
    return path


def incoming(blobs: BlobStore) -> list[str]:
    return sorted(path.name for path in blobs.incoming.glob("*"))


def test_an_added_file_is_found_by_its_digest_and_cannot_be_written_to(
    blobs: BlobStore, file: Path
) -> None:
    assert blobs.add(file) == POINTER

    path = blobs.path(SHA256)
    assert path == blobs.directory / "sha256" / SHA256[:2] / SHA256
    assert path.read_bytes() == file.read_bytes() == CONTENT
    assert path.stat().st_mode & 0o777 == 0o444
    assert (blobs.has(SHA256), blobs.size(SHA256), list(blobs)) == (True, len(CONTENT), [SHA256])
    assert blobs.verify(SHA256)
    assert incoming(blobs) == []


def test_adding_a_file_leaves_it_its_owners(blobs: BlobStore, file: Path) -> None:
    blobs.add(file)

    file.write_bytes(b"something else")

    assert blobs.verify(SHA256)


def test_a_moved_file_is_renamed_and_not_copied(blobs: BlobStore, file: Path) -> None:
    inode = file.stat().st_ino

    blobs.add(file, move=True)

    assert not file.exists()
    assert blobs.path(SHA256).stat().st_ino == inode


def test_moving_what_is_there_already_keeps_the_first(blobs: BlobStore, file: Path) -> None:
    blobs.add(file)
    inode = blobs.path(SHA256).stat().st_ino

    blobs.add(file, sha256=SHA256, move=True)

    assert not file.exists()
    assert blobs.path(SHA256).stat().st_ino == inode


def test_moving_a_symbolic_link_stores_what_it_leads_to(
    blobs: BlobStore, file: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)

    blobs.add(link, move=True)

    assert not blobs.path(SHA256).is_symlink()
    assert file.read_bytes() == CONTENT
    assert not link.exists()


def test_a_copy_that_has_not_the_digest_it_was_said_to_have_is_not_stored(
    blobs: BlobStore, file: Path
) -> None:
    file.write_bytes(CONTENT + b"!")

    with pytest.raises(Conflict, match="changes while it is read"):
        blobs.add(file, sha256=SHA256)

    assert (list(blobs), incoming(blobs)) == ([], [])


def test_a_copy_needs_room(blobs: BlobStore, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = type("Usage", (), {"free": 10})
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda path: full)

    with pytest.raises(TooLarge, match=r"0\.3 MB are needed"):
        blobs.add(file)

    assert incoming(blobs) == []


def test_eight_threads_that_add_one_file_store_it_once(blobs: BlobStore, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}" for i in range(8)]
    for file in files:
        file.write_bytes(CONTENT)
    ready = Barrier(len(files))

    def add(file: Path) -> Pointer:
        ready.wait()
        return blobs.add(file, move=file.name in "0123")

    with ThreadPoolExecutor(len(files)) as threads:
        assert set(threads.map(add, files)) == {POINTER}

    assert list(blobs) == [SHA256]
    assert blobs.verify(SHA256)
    assert incoming(blobs) == []


ADD = """
import sys
from pathlib import Path
from hyprstream.registry.blobs import BlobStore
sys.stdin.readline()
for _ in range(20):
    BlobStore(Path(sys.argv[1])).add(Path(sys.argv[2]))
"""


def test_processes_that_add_and_remove_one_file_leave_nothing_half(
    blobs: BlobStore, file: Path
) -> None:
    args = [sys.executable, "-c", ADD, str(blobs.directory), str(file)]
    processes = [subprocess.Popen(args, stdin=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    while any(process.poll() is None for process in processes):
        blobs.remove(SHA256)
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()

    assert [process.returncode for process in processes] == [0, 0, 0]
    blobs.add(file)
    assert blobs.verify(SHA256)
    assert incoming(blobs) == []


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", SHA256.upper(), SHA256 + "0"])
def test_what_is_no_digest_leads_to_no_file(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(Invalid, match="is no sha256"):
        blobs.path(digest)
    with pytest.raises(Invalid, match="is no sha256"), blobs.partial(digest):
        pass


def test_what_is_not_here_says_how_to_get_it(blobs: BlobStore) -> None:
    with pytest.raises(NotFound, match=SHA256) as error:
        blobs.path(SHA256)

    assert "hyprstream pull" in (error.value.hint or "")
    assert (blobs.has(SHA256), blobs.size(SHA256), list(blobs)) == (False, None, [])


# Files kept in place.


def test_a_file_referred_to_is_used_where_it_is(blobs: BlobStore, file: Path) -> None:
    assert blobs.refer(file) == POINTER

    assert blobs.path(SHA256) == file
    assert blobs.is_reference(SHA256)
    assert (blobs.has(SHA256), blobs.size(SHA256), list(blobs)) == (True, len(CONTENT), [SHA256])
    assert blobs.verify(SHA256)
    assert not (blobs.directory / "sha256").exists()


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_file_referred_to_that_changed_is_not_used(
    blobs: BlobStore, file: Path, change: str
) -> None:
    blobs.refer(file)
    if change == "size":
        file.write_bytes(CONTENT + b"!")
    else:
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))

    with pytest.raises(Corrupt, match="has changed since"):
        blobs.path(SHA256)
    assert (blobs.has(SHA256), blobs.verify(SHA256)) == (False, False)


def test_a_file_referred_to_that_is_gone_is_missed(blobs: BlobStore, file: Path) -> None:
    blobs.refer(file)
    file.unlink()

    with pytest.raises(NotFound, match=r"weights\.gguf"):
        blobs.path(SHA256)


def test_a_reference_that_is_forgotten_leaves_the_file_alone(blobs: BlobStore, file: Path) -> None:
    for forget in (blobs.remove, blobs.discard):
        blobs.refer(file)
        forget(SHA256)
        assert list(blobs) == []
    assert file.read_bytes() == CONTENT


def test_a_damaged_reference_says_so(blobs: BlobStore, file: Path) -> None:
    blobs.refer(file)
    record = next(blobs.directory.glob("references/*"))
    record.write_text('{"path": 1}')

    with pytest.raises(Corrupt, match=r"references.* is damaged"):
        blobs.path(SHA256)


def test_what_is_no_regular_file_is_not_referred_to(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="not a regular file"):
        blobs.refer(tmp_path)


# Links.


def test_a_link_has_the_content_and_costs_nothing_or_says_that_it_is_a_copy(
    blobs: BlobStore, file: Path, tmp_path: Path
) -> None:
    blobs.add(file)
    target = tmp_path / "models" / "model.gguf"

    kind = blobs.link(POINTER, target)

    assert target.read_bytes() == CONTENT
    assert blobs.shares(SHA256, target) is (kind is not LinkKind.COPY)
    is_same = target.stat().st_ino == blobs.path(SHA256).stat().st_ino
    assert is_same is (kind is LinkKind.HARDLINK)
    assert incoming(blobs) == []


def test_without_reflinks_a_link_is_another_name_of_the_blob(
    blobs: BlobStore, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "reflink", lambda source, target: False)
    blobs.add(file)
    target = tmp_path / "models" / "model.gguf"
    target.write_bytes(b"what was there")

    assert [blobs.link(POINTER, target) for _ in range(2)] == [LinkKind.HARDLINK] * 2

    assert target.stat().st_mode & 0o777 == 0o444
    assert blobs.shares(SHA256, target)
    assert incoming(blobs) == []


def test_on_another_disk_a_link_is_a_copy_of_its_own(
    blobs: BlobStore, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(blobs_module, "reflink", lambda source, target: False)
    blobs.add(file)
    target = tmp_path / "model.gguf"

    assert blobs.link(POINTER, target) is LinkKind.COPY

    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o200
    assert not blobs.shares(SHA256, target)


def test_a_link_to_a_file_in_place_neither_copies_nor_guards_it(
    blobs: BlobStore, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs_module, "reflink", lambda source, target: False)
    blobs.refer(file)
    target = tmp_path / "models" / "model.gguf"

    assert blobs.link(POINTER, target) is LinkKind.SYMLINK

    assert target.resolve() == file
    assert blobs.shares(SHA256, target)
    assert file.stat().st_nlink == 1


def test_a_link_to_what_is_not_here_leaves_what_was_there(blobs: BlobStore, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"what was there")

    with pytest.raises(NotFound):
        blobs.link(POINTER, target)

    assert target.read_bytes() == b"what was there"


def test_an_equal_file_of_its_own_shares_nothing(blobs: BlobStore, file: Path) -> None:
    blobs.add(file)
    copy = file.with_name("copy")
    copy.write_bytes(CONTENT)

    assert not blobs.shares(SHA256, copy)
    assert not blobs.shares(SHA256, file.with_name("absent"))


def test_a_reflink_shares_its_blocks_until_it_is_written_to(file: Path) -> None:
    clone = file.with_name("clone")
    if not reflink(file, clone):
        assert not clone.exists()
        pytest.skip("this file system has no reflinks")

    assert share_extents(file, clone)
    with clone.open("r+b") as opened:
        opened.write(b"!")
    assert not share_extents(file, clone)


# Broken and unfinished ones.


def test_broken_bytes_are_found_and_set_aside(blobs: BlobStore, file: Path) -> None:
    blobs.add(file)
    path = blobs.path(SHA256)
    path.chmod(0o644)
    path.write_bytes(CONTENT[:-1] + b"!")
    assert not blobs.verify(SHA256)

    blobs.discard(SHA256)

    assert not blobs.has(SHA256)
    assert (blobs.directory / "broken" / SHA256).read_bytes() == CONTENT[:-1] + b"!"
    blobs.add(file)
    assert blobs.verify(SHA256)


def test_a_transfer_is_continued_where_it_stopped_and_stored_when_it_is_whole(
    blobs: BlobStore,
) -> None:
    with blobs.partial(SHA256) as part:
        part.write(CONTENT[:1000])
    assert not blobs.has(SHA256)

    with blobs.partial(SHA256) as part:
        assert part.size == 1000
        part.write(CONTENT[1000:])
        part.publish()

    assert blobs.verify(SHA256)
    assert incoming(blobs) == []


def test_a_transfer_of_other_bytes_is_not_stored(blobs: BlobStore) -> None:
    with pytest.raises(SourceError, match="expected"), blobs.partial(SHA256) as part:
        part.write(b"other bytes")
        part.publish()

    assert (list(blobs), incoming(blobs)) == ([], [])


def test_what_a_crash_left_between_transfer_and_store_is_stored(blobs: BlobStore) -> None:
    blobs.incoming.mkdir(parents=True)
    (blobs.incoming / SHA256).write_bytes(CONTENT)

    with blobs.partial(SHA256):
        assert blobs.verify(SHA256)

    assert incoming(blobs) == []


def test_who_wants_the_same_file_waits_and_finds_it(blobs: BlobStore) -> None:
    ready, n_written = Barrier(8), []

    def fetch(_: int) -> None:
        ready.wait()
        with blobs.partial(SHA256) as part:
            if not blobs.has(SHA256):
                for i in range(0, len(CONTENT), 4096):
                    part.write(CONTENT[i : i + 4096])
                n_written.append(part.size)
                part.publish()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(fetch, range(8)))

    assert n_written == [len(CONTENT)]
    assert blobs.verify(SHA256)
    assert incoming(blobs) == []


def test_left_over_is_what_nobody_can_continue(blobs: BlobStore, file: Path) -> None:
    with blobs.partial(SHA256) as part:
        part.write(CONTENT[:1000])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    crashed = blobs.incoming / f"{ended.pid}-{'0' * 16}.copy"
    busy = blobs.incoming / f"{os.getpid()}-{'0' * 16}.link"
    for path in (crashed, busy, blobs.incoming / "tiny@main"):
        path.touch()
    assert list(blobs.leftovers()) == [crashed]

    blobs.add(file)

    assert set(blobs.leftovers()) == {crashed, blobs.incoming / f"{SHA256}.part"}
