"""What is put into the store comes out again, and nothing half done is ever seen in it."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hyprstream.core.errors import (
    Conflict,
    Invalid,
    InvalidModelFile,
    NotFound,
    SourceError,
    TooLarge,
)
from hyprstream.core.models import StoredModel
from hyprstream.core.refs import ModelRef
from hyprstream.registry.aliases import ALIASES
from hyprstream.registry.pull import open_source, parse_sha256, pull
from hyprstream.registry.sources import partial
from hyprstream.registry.sources.base import (
    Downloading,
    Event,
    Licence,
    Resolving,
    Stored,
    Verifying,
)
from hyprstream.registry.sources.file import FileSource
from hyprstream.registry.sources.hub import HubSource
from hyprstream.registry.sources.url import UrlSource
from hyprstream.registry.store import ModelStore, NewFile
from support.gguf_writer import METADATA, TENSORS, T, Tensor, V, sound, write
from support.loopback import Loopback, Served

TINY = bytes(sound().data)
SHA256 = hashlib.sha256(TINY).hexdigest()


def add(store: ModelStore, ref: str, data: bytes = TINY) -> StoredModel:
    with store.staging(ModelRef.parse(ref)) as directory:
        (directory / "new").write_bytes(data)
        file = NewFile(directory / "new", "model.gguf", hashlib.sha256(data).hexdigest())
        return store.add(ModelRef.parse(ref), [file], source="a test", licence=Licence("MIT"))


def gguf(directory: Path, name: str = "Tiny.gguf", data: bytes = TINY) -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


def stored(events: Sequence[Event]) -> Stored:
    assert isinstance(events[-1], Stored)
    return events[-1]


def files_of(store: ModelStore) -> list[str]:
    """Every file of the store but the locks."""
    paths = [path for path in store.models_dir.rglob("*") if path.is_file()]
    names = [str(path.relative_to(store.models_dir)) for path in paths if path.suffix != ".lock"]
    return sorted(names)


# --- adding, resolving, removing --------------------------------------------------------------------------------------


def test_a_model_comes_out_as_it_went_in(store: ModelStore) -> None:
    added = add(store, "tiny")

    assert store.resolve(ModelRef("tiny")) == added
    assert store.list() == [added]
    assert Path(added.path).read_bytes() == TINY
    assert (added.sha256, added.size_bytes, added.created) == (SHA256, len(TINY), 1_700_000_000)
    assert (added.facts.name, added.facts.license, added.facts.n_params) == (
        "Tiny",
        "apache-2.0",
        160,
    )
    assert files_of(store) == ["tiny/main/manifest.json", "tiny/main/model.gguf"]


def test_references_with_slashes_live_inside_each_other(store: ModelStore) -> None:
    refs = ["tiny", "tiny:lora", "tiny:lora/medical", "other:v1.0"]
    for ref in refs:
        add(store, ref)

    assert [str(model.ref) for model in store.list()] == [
        "other:v1.0",
        "tiny:lora",
        "tiny:lora/medical",
        "tiny",
    ]

    store.remove(ModelRef("tiny", "lora"))
    assert store.resolve(ModelRef("tiny", "lora/medical")).sha256 == SHA256
    store.remove(ModelRef("tiny", "lora/medical"))
    assert not (store.models_dir / "tiny" / "lora").exists()
    assert store.resolve(ModelRef("tiny")).sha256 == SHA256


def test_a_licence_the_file_does_not_name_is_the_sources(store: ModelStore) -> None:
    metadata = [(key, value) for key, value in METADATA if key != "general.license"]

    assert add(store, "tiny", bytes(write(metadata, TENSORS).data)).facts.license == "MIT"


def test_an_unsound_file_is_refused_with_its_reason(store: ModelStore) -> None:
    with pytest.raises(InvalidModelFile, match="GGUF"):
        add(store, "tiny", b"<html>not a model</html>")

    assert store.list() == []
    assert not (store.models_dir / "tiny").exists()


@pytest.mark.parametrize("ref", ["tiny:manifest.json", "tiny:a/model.gguf"])
def test_a_reference_that_looks_like_a_file_of_the_store_is_refused(
    store: ModelStore, ref: str
) -> None:
    with pytest.raises(Invalid, match="mistaken for a file"):
        add(store, ref)


def test_a_removed_model_is_gone_with_its_directories(store: ModelStore) -> None:
    add(store, "tiny")

    store.remove(ModelRef("tiny"))

    assert store.list() == []
    assert not (store.models_dir / "tiny").exists()
    with pytest.raises(NotFound):
        store.remove(ModelRef("tiny"))


def test_shards_keep_their_names_and_their_parameters_are_summed(
    store: ModelStore, tmp_path: Path
) -> None:
    for i, tensors in enumerate((TENSORS, [Tensor("blk.0.x", (32,), 0, 128)])):
        split = [
            ("split.no", V(T.U16, i)),
            ("split.count", V(T.U16, 2)),
            ("split.tensors.count", V(T.I32, 3)),
        ]
        metadata = [*METADATA, *split] if i == 0 else split
        gguf(tmp_path, f"Tiny-{i + 1:05d}-of-00002.gguf", bytes(write(metadata, tensors).data))

    model = stored(list(pull(store, str(tmp_path / "Tiny-00002-of-00002.gguf")))).model

    assert model.ref == ModelRef("tiny")
    assert Path(model.path).name == "Tiny-00001-of-00002.gguf"
    assert model.facts.n_params == 160 + 32
    assert model.size_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.gguf"))
    outside = store.resolve_path(tmp_path / "Tiny-00001-of-00002.gguf")
    assert (outside.sha256, outside.facts) == (model.sha256, model.facts)


def test_a_file_outside_the_store_can_be_described(store: ModelStore, tmp_path: Path) -> None:
    path = gguf(tmp_path)

    found = store.resolve_path(path)

    assert (str(found.ref), found.path, found.sha256) == ("tiny", str(path), SHA256)
    assert store.list() == []
    with pytest.raises(NotFound, match="no file"):
        store.resolve_path(tmp_path / "none.gguf")


# --- what is not there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ("smollm2", "hyprstream pull smollm2"),
        ("gemma3:270m", "hyprstream pull gemma3:270m"),
        ("tny-model", "did you mean tiny-model?"),
        ("smolm2", "hyprstream pull smollm2"),
        ("zzzz", "hyprstream list"),
    ],
)
def test_a_model_that_is_not_there_has_a_way_out(store: ModelStore, wanted: str, hint: str) -> None:
    add(store, "tiny-model")

    with pytest.raises(NotFound) as error:
        store.resolve(ModelRef.parse(wanted))

    assert error.value.hint == hint


def test_an_empty_store_suggests_the_default_model(store: ModelStore) -> None:
    assert store.list() == []
    with pytest.raises(NotFound) as error:
        store.resolve(ModelRef("zzzz"))
    assert error.value.hint == "hyprstream pull smollm2"


# --- manifests nobody should trust ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"schema_version": 2},
        {"files": []},
        {"files": [{"name": "../../secret.gguf", "sha256": SHA256, "size": 1}]},
        {"files": [{"name": "/etc/x.gguf", "sha256": SHA256, "size": 1}]},
        {"files": [{"name": "model.gguf", "sha256": "short", "size": 1}]},
        {"created": "yesterday"},
        {"facts": {}},
    ],
)
def test_a_manifest_that_breaks_the_schema_is_refused_and_hides_no_other_model(
    store: ModelStore, change: dict[str, object]
) -> None:
    broken, sound_one = add(store, "broken"), add(store, "sound")
    path = Path(broken.path).with_name("manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(InvalidModelFile, match="is not a manifest") as error:
        store.resolve(broken.ref)

    assert "hyprstream rm broken" in (error.value.hint or "")
    assert store.list() == [sound_one]
    store.remove(broken.ref)
    assert not (store.models_dir / "broken").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_is_refused(store: ModelStore, content: bytes) -> None:
    model = add(store, "tiny")
    Path(model.path).with_name("manifest.json").write_bytes(content)

    with pytest.raises(InvalidModelFile):
        store.resolve(model.ref)


def test_a_model_whose_file_was_deleted_is_not_there(store: ModelStore) -> None:
    model = add(store, "tiny")
    Path(model.path).unlink()

    with pytest.raises(NotFound, match=r"lacks its file model\.gguf"):
        store.resolve(model.ref)
    assert store.list() == []


# --- pulls ------------------------------------------------------------------------------------------------------------


def test_a_pull_tells_what_it_does_and_ends_with_the_stored_model(
    store: ModelStore, tmp_path: Path
) -> None:
    path = gguf(tmp_path)

    events = list(pull(store, str(path)))

    assert [type(event) for event in events] == [Resolving, Downloading, Verifying, Stored]
    assert stored(events) == Stored(store.resolve(ModelRef("tiny")), is_new=True)
    assert path.read_bytes() == TINY
    assert files_of(store) == ["tiny/main/manifest.json", "tiny/main/model.gguf"]


def test_pulling_the_same_bytes_again_changes_nothing(store: ModelStore, tmp_path: Path) -> None:
    path = gguf(tmp_path)
    first = stored(list(pull(store, str(path)))).model

    events = list(pull(store, path.as_uri()))

    assert [type(event) for event in events] == [Resolving, Stored]
    assert stored(events) == Stored(first, is_new=False)


def test_another_model_of_the_same_name_is_not_overwritten(
    store: ModelStore, tmp_path: Path
) -> None:
    first = stored(list(pull(store, str(gguf(tmp_path))))).model
    (tmp_path / "other").mkdir()
    other = gguf(tmp_path / "other", data=TINY + bytes(32))

    with pytest.raises(Conflict, match="tiny is stored already and is another model"):
        list(pull(store, str(other)))

    assert store.list() == [first]
    assert stored(list(pull(store, str(other), name=ModelRef("tiny", "v2")))).is_new


def test_a_name_of_ones_own_wins(store: ModelStore, tmp_path: Path) -> None:
    events = list(pull(store, str(gguf(tmp_path)), name=ModelRef("mine", "a/b")))

    assert stored(events).model.ref == ModelRef("mine", "a/b")
    assert files_of(store) == ["mine/a/b/manifest.json", "mine/a/b/model.gguf"]


def test_an_interrupted_pull_is_continued_by_the_next(store: ModelStore, web: Loopback) -> None:
    web.routes["/Tiny.gguf"] = Served(TINY)
    url = f"{web.url}/Tiny.gguf"
    part = store.models_dir / ".incoming" / "tiny@main" / f"{SHA256}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(TINY[:100])

    events = list(pull(store, url, sha256=SHA256))

    assert [request.headers["range"] for request in web.requests] == ["bytes=100-"]
    assert stored(events).model.source == url
    assert files_of(store) == ["tiny/main/manifest.json", "tiny/main/model.gguf"]


def test_a_pull_that_is_left_keeps_its_part_and_stores_nothing(
    store: ModelStore, web: Loopback
) -> None:
    web.routes["/tiny.gguf"] = Served(TINY)
    events = pull(store, f"{web.url}/tiny.gguf", sha256=SHA256)
    while not isinstance(next(events), Downloading):
        pass

    events.close()

    assert store.list() == []
    assert files_of(store) == [
        f".incoming/tiny@main/{SHA256}.etag",
        f".incoming/tiny@main/{SHA256}.part",
    ]
    store.remove(ModelRef("tiny"))
    assert files_of(store) == []


def test_a_wrong_digest_stores_nothing(store: ModelStore, web: Loopback) -> None:
    web.routes["/tiny.gguf"] = Served(TINY)

    with pytest.raises(SourceError, match=f"has the sha256 {SHA256}, expected {'0' * 64}"):
        list(pull(store, f"{web.url}/tiny.gguf", sha256="0" * 64))

    assert store.list() == []
    assert files_of(store) == []


def test_a_digest_the_source_does_not_have_is_refused_before_anything_moves(
    store: ModelStore, tmp_path: Path
) -> None:
    with pytest.raises(SourceError, match=f"has the sha256 {SHA256}, not {'0' * 64}"):
        list(pull(store, str(gguf(tmp_path)), sha256="0" * 64))

    assert not store.models_dir.exists()


def test_the_right_bytes_that_are_no_model_are_not_kept(store: ModelStore, web: Loopback) -> None:
    page = b"<html>please log in</html>"
    web.routes["/tiny.gguf"] = Served(page)

    with pytest.raises(InvalidModelFile, match="a web page"):
        list(pull(store, f"{web.url}/tiny.gguf", sha256=hashlib.sha256(page).hexdigest()))

    assert store.list() == []
    assert files_of(store) == []


def test_terms_that_are_not_accepted_stop_the_pull_before_the_network(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network() -> None:
        raise AssertionError("the index was looked for")

    alias = ModelRef("gemma3", "270m")
    monkeypatch.setitem(ALIASES, alias, replace(ALIASES[alias], pip_config=no_network))

    with pytest.raises(Invalid, match="Gemma Terms of Use must be accepted") as error:
        list(pull(store, "gemma3:270m"))

    assert "--accept-licence" in (error.value.hint or "")
    assert store.list() == []


def test_a_pull_the_disk_has_no_room_for_is_refused_first(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=1_000_000)
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda path: usage)

    with pytest.raises(TooLarge, match=r"191\.2 MB are needed, 1\.0 MB are free"):
        list(pull(store, "smollm2"))


def test_two_processes_do_not_pull_one_model_at_once(store: ModelStore, tmp_path: Path) -> None:
    path = gguf(tmp_path)
    hold = (
        "import sys; from pathlib import Path; from hyprstream.core.refs import ModelRef;"
        "from hyprstream.registry.store import ModelStore\n"
        f"with ModelStore(Path({str(store.models_dir)!r})).staging(ModelRef('tiny')):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "held\n"

        with pytest.raises(Conflict, match="another process is pulling or removing tiny"):
            list(pull(store, str(path)))
        assert stored(list(pull(store, str(path), name=ModelRef("other")))).is_new

        holder.stdin.close()
        assert holder.wait(30) == 0
    assert stored(list(pull(store, str(path)))).is_new


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
