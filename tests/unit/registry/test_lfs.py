"""Pointers are read to the letter; large files come from directories of this machine, and secrets go nowhere else."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprstream.core.errors import Invalid, NotFound, SourceError
from hyprstream.core.versions import Pointer
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.lfs import (
    MAX_POINTER_BYTES,
    Downloading,
    LfsRemote,
    Uploading,
    encode_pointer,
    parse_pointer,
)
from hyprstream.registry.lfs_http import server_url
from support.model_remote import git

CONTENT = bytes(range(256)) * 8192
SHA256 = hashlib.sha256(CONTENT).hexdigest()
POINTER = Pointer(SHA256, len(CONTENT))
TEXT = f"version https://git-lfs.github.com/spec/v1\noid sha256:{SHA256}\nsize {len(CONTENT)}\n"

DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
POINTERS = st.builds(Pointer, DIGESTS, st.integers(0, (1 << 63) - 1))


@given(POINTERS)
def test_a_pointer_that_is_written_is_read(pointer: Pointer) -> None:
    content = encode_pointer(pointer)

    assert parse_pointer(content) == pointer
    assert len(content) <= MAX_POINTER_BYTES


def test_a_pointer_is_written_as_the_format_says() -> None:
    assert encode_pointer(POINTER) == TEXT.encode()


def test_keys_nobody_knows_are_allowed_in_their_order() -> None:
    assert parse_pointer(TEXT.replace("oid", "made.by x\noid").encode()) == POINTER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "GGUF",
        TEXT[:-1],
        TEXT + "\n",
        TEXT + "x" * MAX_POINTER_BYTES,
        TEXT + f"zzz {'x' * MAX_POINTER_BYTES}\n",
        "\ufeff" + TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace("spec/v1", "spec/v2"),
        TEXT.replace("sha256:", "sha512:"),
        TEXT.replace(SHA256, SHA256.upper()),
        TEXT.replace(SHA256, SHA256[:-1]),
        TEXT.replace("size ", "size  "),
        TEXT.replace("size ", "size -"),
        TEXT.replace("size ", "size 0"),
        TEXT.replace("size ", "size 99999999999999"),
        TEXT.replace("size ", "size \u0661"),
        TEXT.replace(f"size {len(CONTENT)}\n", ""),
        TEXT.replace("oid", "zzz x\noid"),
        TEXT.replace("oid", "oid x\noid"),
        TEXT.replace("oid", "ext-0-foo sha256:" + SHA256 + "\noid"),
        TEXT.replace("oid", "Oid"),
        f"oid sha256:{SHA256}\n" + TEXT,
    ],
)
def test_anything_else_is_no_pointer(text: str) -> None:
    assert parse_pointer(text.encode()) is None


def test_a_pointer_that_is_not_text_is_none() -> None:
    assert parse_pointer(TEXT.encode().replace(b"oid", b"a \xff\noid")) is None


@given(POINTERS, st.data())
def test_a_pointer_with_a_wrong_byte_is_another_one_or_none(
    pointer: Pointer, data: st.DataObject
) -> None:
    content = bytearray(encode_pointer(pointer))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))

    found = parse_pointer(bytes(content))

    assert found is None or encode_pointer(found) == content or found == pointer


@pytest.mark.parametrize(
    ("remote", "server"),
    [
        ("https://host/foo/bar", "https://host/foo/bar.git/info/lfs"),
        ("https://host/foo/bar/", "https://host/foo/bar.git/info/lfs"),
        ("https://host/foo/bar.git", "https://host/foo/bar.git/info/lfs"),
        ("http://127.0.0.1:8080/bar", "http://127.0.0.1:8080/bar.git/info/lfs"),
    ],
)
def test_the_server_follows_from_the_address_of_the_repository(remote: str, server: str) -> None:
    assert server_url(remote) == server


# Repositories on this machine.


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models" / ".blobs")


def repository(path: Path, *, has_worktree: bool = False) -> Path:
    """An empty repository; returns its git directory."""
    git("init", "--quiet", *([] if has_worktree else ["--bare"]), str(path))
    return path / ".git" if has_worktree else path


def put(git_dir: Path, content: bytes = CONTENT, name: str = SHA256) -> Path:
    path = git_dir / "lfs" / "objects" / name[:2] / name[2:4] / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", ["file", "path", "without .git", "with a work tree"])
def test_large_files_come_from_a_repository_on_this_machine(
    blobs: BlobStore, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "a hub" / "tiny.git"
    put(repository(path, has_worktree=form == "with a work tree"))
    url = {"file": path.as_uri(), "without .git": str(path.with_suffix(""))}.get(form, str(path))

    events = list(LfsRemote(url).download([POINTER, POINTER], blobs))

    assert blobs.verify(SHA256)
    assert events[-1] == Downloading(SHA256, len(CONTENT), len(CONTENT))
    assert [event.completed for event in events] == sorted({event.completed for event in events})
    assert list(LfsRemote(url).download([POINTER], blobs)) == []


def test_an_interrupted_copy_goes_on_where_it_ended(blobs: BlobStore, tmp_path: Path) -> None:
    put(repository(tmp_path / "tiny.git"))
    remote = LfsRemote(str(tmp_path / "tiny.git"))
    copying = remote.download([POINTER], blobs)
    first = next(copying)
    copying.close()
    assert 0 < first.completed < len(CONTENT)

    events = list(remote.download([POINTER], blobs))

    assert events[0].completed > first.completed
    assert blobs.verify(SHA256)


def test_wrong_bytes_and_missing_files_are_named_after_all_others_came(
    blobs: BlobStore, tmp_path: Path
) -> None:
    git_dir = repository(tmp_path / "tiny.git")
    put(git_dir)
    wrong, absent = Pointer("1" * 64, len(CONTENT)), Pointer("2" * 64, 10)
    put(git_dir, CONTENT, wrong.sha256)

    with pytest.raises(SourceError, match=r"lacks 2 of 3 large files: 111.*; 222.*") as error:
        list(LfsRemote(str(git_dir)).download([wrong, absent, POINTER], blobs))

    assert "git lfs push" in (error.value.hint or "")
    assert list(blobs) == [SHA256]


def test_our_own_repositories_give_and_take_from_their_store(
    blobs: BlobStore, tmp_path: Path
) -> None:
    theirs = BlobStore(tmp_path / "theirs" / ".blobs")
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    theirs.add(file)
    git_dir = repository(tmp_path / "theirs" / "tiny" / "repo.git")
    remote = LfsRemote(git_dir.as_uri())

    list(remote.download([POINTER], blobs))
    file.write_bytes(b"more")
    more = blobs.add(file)
    events = list(remote.upload([POINTER, more], blobs))

    assert blobs.verify(SHA256)
    assert theirs.verify(more.sha256)
    assert events == [Uploading(more.sha256, 4, 4)]
    assert not (git_dir / "lfs").exists()


def test_a_repository_of_git_takes_what_it_lacks(blobs: BlobStore, tmp_path: Path) -> None:
    git_dir = repository(tmp_path / "tiny.git")
    file = tmp_path / "file"
    file.write_bytes(CONTENT)
    blobs.add(file)

    events = list(LfsRemote(str(git_dir)).upload([POINTER], blobs))

    stored = git_dir / "lfs" / "objects" / SHA256[:2] / SHA256[2:4] / SHA256
    assert stored.read_bytes() == CONTENT
    assert events[-1] == Uploading(SHA256, len(CONTENT), len(CONTENT))
    assert list((git_dir / "lfs" / "tmp").iterdir()) == []
    assert list(LfsRemote(str(git_dir)).upload([POINTER], blobs)) == []


def test_what_both_lack_cannot_be_given(blobs: BlobStore, tmp_path: Path) -> None:
    git_dir = repository(tmp_path / "tiny.git")

    with pytest.raises(NotFound, match=SHA256):
        list(LfsRemote(str(git_dir)).upload([POINTER], blobs))


def test_where_there_is_no_repository_nothing_is_fetched(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is no repository"):
        list(LfsRemote(str(tmp_path)).download([POINTER], blobs))


# Addresses.


@pytest.mark.parametrize("url", ["git@host:ann/tiny.git", "ssh://git@host/ann/tiny.git"])
def test_over_ssh_the_way_out_is_named_as_soon_as_a_file_is_wanted(
    blobs: BlobStore, url: str
) -> None:
    remote = LfsRemote(url)
    assert list(remote.download([], blobs)) == []

    with pytest.raises(SourceError, match="over ssh") as error:
        list(remote.download([POINTER], blobs))

    assert "lfs_url" in (error.value.hint or "")


@pytest.mark.parametrize(
    "url", ["http://example.com/tiny.git", "ftp://host/tiny", "https://ann:s3cret@host/tiny", ""]
)
def test_other_addresses_are_refused_without_repeating_a_password(url: str) -> None:
    for make in (lambda: LfsRemote(url), lambda: LfsRemote("https://host/x", lfs_url=url or "-x")):
        with pytest.raises(Invalid) as error:
            make()
        assert "s3cret" not in f"{error.value.message} {error.value.hint}"
