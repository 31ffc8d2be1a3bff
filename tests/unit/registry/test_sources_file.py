"""A file on this machine is copied into the store under a name made from its own."""

import hashlib
from collections import deque
from pathlib import Path

import pytest

from hyprstream.core.errors import NotFound, SourceError
from hyprstream.core.refs import ModelRef
from hyprstream.registry.sources.base import GivenAnswers, ref_for_file
from hyprstream.registry.sources.file import FileSource

NOBODY = GivenAnswers()


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct.q4_1"),
        ("sub/dir/Tiny.GGUF", "tiny"),
        ("My Model (final).gguf", "my-model-final"),
        ("big-Q8_0-00001-of-00003.gguf", "big-q8_0"),
        ("..hidden..model.gguf", "hidden.model"),
        ("model.lock.gguf", "model"),
        ("模型.gguf", "model"),
        ("", "model"),
        (f"{'x' * 100}.gguf", "x" * 64),
        (f"{'x' * 63}.yz.gguf", "x" * 63),
    ],
)
def test_a_file_name_becomes_a_model_name(file: str, name: str) -> None:
    assert ref_for_file(file) == ModelRef(name)


def test_a_file_is_copied_and_stays_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "Tiny.gguf"
    path.write_bytes(b"bytes")
    source = FileSource(path)
    found = source.offer(NOBODY)

    progress = list(source.fetch(found, tmp_path))

    sha256 = hashlib.sha256(b"bytes").hexdigest()
    assert (found.files[0].name, found.sha256) == ("model.gguf", sha256)
    assert [(event.completed, event.total) for event in progress] == [(5, 5)]
    assert (tmp_path / sha256).read_bytes() == path.read_bytes() == b"bytes"


def test_one_shard_names_them_all(tmp_path: Path) -> None:
    names = [f"big-{i:05d}-of-00002.gguf" for i in (1, 2)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())

    found = FileSource(tmp_path / names[1]).offer(NOBODY)

    assert [file.name for file in found.files] == names
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    assert found.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    (tmp_path / "big-00001-of-00002.gguf").write_bytes(b"1")

    with pytest.raises(NotFound, match=r"big-00002-of-00002\.gguf"):
        FileSource(tmp_path / "big-00001-of-00002.gguf").offer(NOBODY)


def test_a_file_that_changes_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"before")
    source = FileSource(path)
    found = source.offer(NOBODY)
    path.write_bytes(b"after!")

    with pytest.raises(SourceError, match="expected"):
        deque(source.fetch(found, tmp_path), maxlen=0)

    assert not (tmp_path / found.sha256).exists()
