"""The grammar of references: what can be written, what it means, and that nothing is read in two ways."""

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyprstream.core.errors import Invalid
from hyprstream.core.refs import (
    MAX_NAME_LENGTH,
    MAX_REF_LENGTH,
    ModelRef,
    is_model_name,
    is_version,
)

WORD = r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}"
names = st.from_regex(WORD, fullmatch=True).filter(is_model_name)
uuids = st.uuids().map(str)
versions = st.from_regex(rf"{WORD}(/{WORD}){{0,3}}", fullmatch=True).filter(is_version)
commits = st.from_regex(r"[0-9a-f]{7,40}", fullmatch=True)
digests = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
refs = st.builds(ModelRef, names | uuids, versions | commits | digests)


@given(refs)
def test_what_is_written_is_what_was_read(ref: ModelRef) -> None:
    assert ModelRef.parse(str(ref)) == ref
    assert ModelRef.parse(ref.full) == ref


@given(refs, refs)
def test_two_references_are_never_written_alike(one: ModelRef, other: ModelRef) -> None:
    assert (str(one) == str(other)) == (one == other)
    assert (one.full == other.full) == (one == other)


@given(names | uuids)
def test_a_name_alone_means_its_main(name: str) -> None:
    assert ModelRef.parse(name) == ModelRef.parse(f"{name}:main") == ModelRef(name, "main")


@given(st.text(max_size=200))
def test_any_text_is_a_reference_that_reads_back_or_is_refused(text: str) -> None:
    try:
        ref = ModelRef.parse(text)
    except Invalid:
        return
    assert ref.full == text or str(ref) == text or text == f"{ref.name}:main"


@given(st.text(alphabet="abc019._-/:@~^*?[\\ \n", max_size=60))
def test_whatever_is_accepted_stays_inside_its_directory(text: str) -> None:
    try:
        ref = ModelRef.parse(text)
    except Invalid:
        return
    parts = (ref.name, *PurePosixPath(ref.ref).parts)
    assert not {"", ".", ".."} & set(parts)
    assert not ref.ref.startswith(("/", "-", ".")) and not ref.name.startswith(("-", "."))
    assert not re.search(r"[\\~^*?\[\s]", text)


@given(digests, names)
def test_a_digest_is_a_digest_and_a_commit_is_not(digest: str, name: str) -> None:
    ref = ModelRef.parse(f"{name}@{digest}")
    assert ref.is_digest and not ref.may_be_commit
    assert not ModelRef.parse(f"{name}:{digest[7:47]}").is_digest


@given(uuids, versions)
def test_a_uuid_names_a_model_and_is_no_name(uuid: str, version: str) -> None:
    assert ModelRef.parse(f"{uuid}:{version}").is_uuid
    assert not is_model_name(uuid)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":main",
        "name:",
        "name@",
        "name@main",
        "name@sha256:" + "0" * 63,
        "name@sha256:" + "A" * 64,
        "name:x@sha256:" + "0" * 64,
        "a/b",
        "../b",
        "name:../b",
        "name:a//b",
        "name:/a",
        "name:a/",
        "name:a..b",
        "name:-x",
        "name:a/.b",
        "name:HEAD",
        "name:a/HEAD",
        "name:FETCH_HEAD",
        "name:x.lock",
        "name:x.lock/y",
        "repo.git",
        "name:v1.",
        "name:a~1",
        "name:a^",
        "name:a@{1}",
        "name:a b",
        "con",
        "NUL.txt",
        "-name",
        ".hidden",
        "n" * (MAX_NAME_LENGTH + 1),
        "name:" + "v" * (MAX_REF_LENGTH + 1),
        "näme",
        "name\n",
    ],
)
def test_what_git_or_a_file_system_would_read_differently_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="is not a model reference"):
        ModelRef.parse(text)


@pytest.mark.parametrize(
    ("text", "name", "version"),
    [
        ("qwen3-small", "qwen3-small", "main"),
        ("qwen3:feature/medical-v2", "qwen3", "feature/medical-v2"),
        ("qwen3:v1.0", "qwen3", "v1.0"),
        ("qwen3:abc1234", "qwen3", "abc1234"),
        ("q" * MAX_NAME_LENGTH, "q" * MAX_NAME_LENGTH, "main"),
    ],
)
def test_references_as_people_write_them(text: str, name: str, version: str) -> None:
    assert ModelRef.parse(text) == ModelRef(name, version)
