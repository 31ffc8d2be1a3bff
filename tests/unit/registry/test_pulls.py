"""A pull brings what was asked for or nothing, says what it does, and goes on where it was left."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hyprstream.core.errors import (
    Conflict,
    Corrupt,
    Invalid,
    InvalidModelFile,
    NotFound,
    SourceError,
    TooLarge,
)
from hyprstream.core.refs import ModelRef
from hyprstream.registry.aliases import ALIASES
from hyprstream.registry.origins import open_source, parse_sha256
from hyprstream.registry.pull import pull
from hyprstream.registry.registry import Registry
from hyprstream.registry.sources import partial
from hyprstream.registry.sources.base import (
    Downloading,
    Event,
    Resolving,
    Stored,
    Verifying,
)
from hyprstream.registry.sources.file import FileSource
from hyprstream.registry.sources.hub import HubSource
from hyprstream.registry.sources.url import UrlSource
from support.gguf_writer import sound
from support.loopback import Loopback, Served

TINY = bytes(sound().data)
SHA256 = hashlib.sha256(TINY).hexdigest()


def gguf(directory: Path, name: str = "Tiny.gguf", data: bytes = TINY) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def stored(events: Sequence[Event]) -> Stored:
    assert isinstance(events[-1], Stored)
    return events[-1]


def incoming(registry: Registry) -> list[str]:
    """What unfinished pulls have left, without the locks."""
    directory = registry.models_dir / ".incoming"
    paths = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return sorted(str(path.relative_to(directory)) for path in paths)


# --- pulls ------------------------------------------------------------------------------------------------------------


def test_a_pull_tells_what_it_does_and_ends_with_the_stored_model(
    registry: Registry, tmp_path: Path
) -> None:
    path = gguf(tmp_path)

    events = list(pull(registry, str(path)))

    assert [type(event) for event in events] == [Resolving, Downloading, Verifying, Stored]
    assert stored(events) == Stored(registry.resolve(ModelRef("tiny")), is_new=True)
    assert path.read_bytes() == TINY
    assert incoming(registry) == []


def test_pulling_the_same_bytes_again_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    path = gguf(tmp_path)
    first = stored(list(pull(registry, str(path)))).model

    events = list(pull(registry, path.as_uri()))

    assert [type(event) for event in events] == [Resolving, Stored]
    assert stored(events) == Stored(first, is_new=False)


def test_another_model_of_the_same_name_is_not_overwritten(
    registry: Registry, tmp_path: Path
) -> None:
    first = stored(list(pull(registry, str(gguf(tmp_path))))).model
    (tmp_path / "other").mkdir()
    other = gguf(tmp_path / "other", data=TINY + bytes(32))

    with pytest.raises(Conflict, match="tiny is stored already and is another model"):
        list(pull(registry, str(other)))

    assert registry.list() == [first]
    assert stored(list(pull(registry, str(other), name=ModelRef("tiny", "v2")))).is_new


def test_a_name_of_ones_own_wins(registry: Registry, tmp_path: Path) -> None:
    events = list(pull(registry, str(gguf(tmp_path)), name=ModelRef("mine", "a/b")))

    assert stored(events).model.ref == ModelRef("mine", "a/b")
    worktree = registry.models_dir / "mine" / "worktrees" / "a" / "b"
    assert (worktree / "model.gguf").read_bytes() == TINY


def test_an_interrupted_pull_is_continued_by_the_next(registry: Registry, web: Loopback) -> None:
    web.routes["/Tiny.gguf"] = Served(TINY)
    url = f"{web.url}/Tiny.gguf"
    part = registry.models_dir / ".incoming" / "tiny@main" / f"{SHA256}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(TINY[:100])

    events = list(pull(registry, url, sha256=SHA256))

    assert [request.headers["range"] for request in web.requests] == ["bytes=100-"]
    assert stored(events).model.source == url
    assert incoming(registry) == []


def test_a_pull_that_is_left_keeps_its_part_and_stores_nothing(
    registry: Registry, web: Loopback
) -> None:
    web.routes["/tiny.gguf"] = Served(TINY)
    events = pull(registry, f"{web.url}/tiny.gguf", sha256=SHA256)
    while not isinstance(next(events), Downloading):
        pass

    events.close()

    assert registry.list() == []
    assert incoming(registry) == [f"tiny@main/{SHA256}.etag", f"tiny@main/{SHA256}.part"]
    registry.remove(registry.removal(ModelRef("tiny")))
    assert incoming(registry) == []


def test_a_wrong_digest_stores_nothing(registry: Registry, web: Loopback) -> None:
    web.routes["/tiny.gguf"] = Served(TINY)

    with pytest.raises(SourceError, match=f"has the sha256 {SHA256}, expected {'0' * 64}"):
        list(pull(registry, f"{web.url}/tiny.gguf", sha256="0" * 64))

    assert registry.list() == []
    assert incoming(registry) == []


def test_a_digest_the_source_does_not_have_is_refused_before_anything_moves(
    registry: Registry, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=f"has the sha256 {SHA256}, not {'0' * 64}"):
        list(pull(registry, str(gguf(tmp_path)), sha256="0" * 64))

    assert not registry.models_dir.exists()


def test_the_right_bytes_that_are_no_model_are_not_kept(registry: Registry, web: Loopback) -> None:
    page = b"<html>please log in</html>"
    web.routes["/tiny.gguf"] = Served(page)

    with pytest.raises(InvalidModelFile, match="a web page"):
        list(pull(registry, f"{web.url}/tiny.gguf", sha256=hashlib.sha256(page).hexdigest()))

    assert registry.list() == []
    assert incoming(registry) == []


def test_terms_that_are_not_accepted_stop_the_pull_before_the_network(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network() -> None:
        raise AssertionError("the index was looked for")

    alias = ModelRef("gemma3", "270m")
    monkeypatch.setitem(ALIASES, alias, replace(ALIASES[alias], pip_config=no_network))

    with pytest.raises(Invalid, match="Gemma Terms of Use must be accepted") as error:
        list(pull(registry, "gemma3:270m"))

    assert "--accept-licence" in (error.value.hint or "")
    assert registry.list() == []


def test_a_pull_the_disk_has_no_room_for_is_refused_first(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda path: usage)

    with pytest.raises(TooLarge, match=r"191\.2 MB are needed, 1\.0 MB are free"):
        list(pull(registry, "smollm2"))


def test_two_processes_do_not_pull_one_model_at_once(registry: Registry, tmp_path: Path) -> None:
    path = gguf(tmp_path)
    hold = (
        "import sys; from pathlib import Path; from hyprstream.core.refs import ModelRef;"
        "from hyprstream.registry.registry import Registry\n"
        f"with Registry(Path({str(registry.models_dir)!r})).staging(ModelRef('tiny')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        with pytest.raises(Conflict, match="another process is pulling or removing tiny"):
            list(pull(registry, str(path)))
        assert stored(list(pull(registry, str(path), name=ModelRef("other")))).is_new

        holder.stdin.close()
        assert holder.wait(30) == 0
    assert stored(list(pull(registry, str(path)))).is_new


def test_bytes_that_another_model_has_are_not_fetched_again(
    registry: Registry, web: Loopback, tmp_path: Path
) -> None:
    list(pull(registry, str(gguf(tmp_path))))

    model = stored(list(pull(registry, f"{web.url}/x.gguf", sha256=SHA256))).model

    assert web.requests == []
    assert (str(model.ref), model.sha256) == ("x", SHA256)


def test_a_file_can_be_left_where_it_is(registry: Registry, tmp_path: Path) -> None:
    path = gguf(tmp_path)

    model = stored(list(pull(registry, str(path), in_place=True))).model

    assert model.path == str(path)
    assert not list((registry.models_dir / ".blobs" / "sha256").rglob("*"))
    assert registry.resolve(ModelRef("tiny")) == model


def test_a_file_left_in_place_that_changes_is_not_served(
    registry: Registry, tmp_path: Path
) -> None:
    path = gguf(tmp_path)
    list(pull(registry, str(path), in_place=True))

    path.write_bytes(TINY + bytes(32))

    with pytest.raises(Corrupt, match="has changed since"):
        registry.resolve(ModelRef("tiny"))
    assert registry.list() == []
    assert [str(entry.ref) for entry in registry.entries()] == ["tiny"]


def test_only_a_file_can_be_left_where_it_is(registry: Registry) -> None:
    with pytest.raises(Invalid, match="not a file that could be left"):
        list(pull(registry, "smollm2", in_place=True))


# --- what a reference means -------------------------------------------------------------------------------------------


def test_each_kind_of_reference_has_its_source(tmp_path: Path) -> None:
    assert open_source("smollm2") is open_source("smollm2:main") is ALIASES[ModelRef("smollm2")]
    assert open_source("hf:ann/tiny:Q8_0") == HubSource("ann/tiny", "Q8_0")
    assert open_source("https://a.example/x.gguf", SHA256) == UrlSource(
        "https://a.example/x.gguf", SHA256
    )
    assert open_source("file:///a%20b/x.gguf") == FileSource(Path("/a b/x.gguf"))
    assert open_source("./x.gguf") == FileSource(Path("x.gguf"))
    odd = gguf(tmp_path, "no-suffix")
    assert open_source(str(odd)) == FileSource(odd)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("smolm2", "hyprstream pull smollm2"),
        ("ann/tiny", "hyprstream pull hf:ann/tiny"),
        ("zzzz", "smollm2 or gemma3:270m, hf:user/repo, an https:// URL, the path of a .gguf file"),
    ],
)
def test_a_reference_nobody_knows_has_a_way_out(text: str, hint: str) -> None:
    with pytest.raises(NotFound) as error:
        open_source(text)

    assert error.value.hint == hint


def test_a_url_without_a_digest_is_refused_without_showing_its_secrets() -> None:
    with pytest.raises(Invalid, match="needs a digest") as error:
        open_source("https://alice:hunter2@a.example/x.gguf?token=hunter3")

    assert "hunter" not in f"{error.value.message} {error.value.hint}"


@pytest.mark.parametrize("text", [SHA256, SHA256.upper(), f"sha256:{SHA256}", f" {SHA256}\n"])
def test_a_digest_is_read_in_every_usual_spelling(text: str) -> None:
    assert parse_sha256(text) == SHA256


@pytest.mark.parametrize("text", ["", SHA256[:-1], SHA256 + "0", "g" * 64, f"md5:{SHA256}"])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="64 hexadecimal digits"):
        parse_sha256(text)


def test_every_alias_is_pinned_to_its_last_byte() -> None:
    for source in ALIASES.values():
        for digest in (source.sha256, *(wheel.sha256 for wheel in source.wheels)):
            assert parse_sha256(digest) == digest
        assert all(wheel.size > 0 and wheel.member_size > 0 for wheel in source.wheels)
