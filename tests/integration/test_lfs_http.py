"""Large files over HTTP: resumed, verified, given back, and the token told to nobody else."""

import hashlib
import json
import random
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from hyprstream.core.errors import NotFound, SourceError
from hyprstream.core.versions import Pointer
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.lfs import Downloading, LfsRemote, Uploading, parse_pointer
from support.git_http import git_http
from support.lfs_server import LfsServer, lfs_server
from support.loopback import Reply
from support.model_remote import ModelRemote, gguf, git

CONTENT = random.Random(6).randbytes(3 << 20)
HALF = len(CONTENT) // 2
TOKEN = "hf_s3cret"


@pytest.fixture
def server() -> Iterator[LfsServer]:
    with lfs_server() as server:
        yield server


@pytest.fixture
def pointer(server: LfsServer) -> Pointer:
    """A file the server has."""
    return Pointer(server.add(CONTENT), len(CONTENT))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "models" / ".blobs")


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it would have been slept; nobody sleeps."""
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    return sleeps


def remote(server: LfsServer, *, n_retries: int = 0, token: str | None = None) -> LfsRemote:
    url = server.url.removesuffix(".git/info/lfs")
    return LfsRemote(url, token=token, retry_delays=(0,) * n_retries)


def download(
    server: LfsServer, pointers: list[Pointer], blobs: BlobStore, *, n_retries: int = 0
) -> list[Downloading]:
    return list(remote(server, n_retries=n_retries).download(pointers, blobs))


def stored(blobs: BlobStore, content: bytes) -> Pointer:
    """A file only we have."""
    path = blobs.directory.with_name("new")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return blobs.add(path, move=True)


def test_a_download_counts_up_to_what_is_missing_and_asks_nothing_twice(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    other = Pointer(server.add(b"small"), 5)

    events = download(server, [pointer, other, pointer], blobs)

    assert blobs.verify(pointer.sha256)
    assert blobs.verify(other.sha256)
    completed = [event.completed for event in events]
    assert completed == sorted(completed)
    assert events[-1] == Downloading(other.sha256, len(CONTENT) + 5, len(CONTENT) + 5)
    (batch,) = server.asked("POST")
    assert json.loads(batch.body) == {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": p.sha256, "size": p.size} for p in (pointer, other)],
        "hash_algo": "sha256",
    }
    assert batch.headers["accept"] == batch.headers["content-type"]
    assert batch.headers["accept"] == "application/vnd.git-lfs+json"
    server.calls.clear()
    assert download(server, [pointer, other], blobs) == []
    assert server.calls == []


def test_an_interrupted_download_transfers_only_the_rest(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    server.cuts.append(HALF)
    with pytest.raises(SourceError, match="closed") as error:
        download(server, [pointer], blobs)
    assert "are kept" in (error.value.hint or "")
    assert not blobs.has(pointer.sha256)
    server.calls.clear()

    events = download(server, [pointer], blobs)

    assert blobs.verify(pointer.sha256)
    (get,) = server.asked("GET")
    assert get.headers["range"] == f"bytes={HALF}-"
    assert events[0].completed > HALF
    assert list(blobs.incoming.iterdir()) == []


def test_a_connection_that_breaks_is_resumed_at_once(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    server.cuts += [HALF // 2] * 3

    download(server, [pointer], blobs, n_retries=1)

    assert blobs.verify(pointer.sha256)
    ranges = [get.headers.get("range") for get in server.asked("GET")]
    assert ranges == [None, *(f"bytes={n}-" for n in (HALF // 2, HALF, HALF + HALF // 2))]


def test_a_download_that_nobody_waits_for_keeps_what_arrived(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    events = remote(server).download([pointer], blobs)
    while next(events).completed < HALF:
        pass
    events.close()

    (part,) = blobs.incoming.glob("*.part")
    assert HALF <= part.stat().st_size < len(CONTENT)


def test_wrong_bytes_are_never_published(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    server.corrupt.add(pointer.sha256)

    with pytest.raises(SourceError, match=f"expected {pointer.sha256}"):
        download(server, [pointer], blobs, n_retries=2)

    assert list(blobs) == []
    assert list(blobs.incoming.iterdir()) == []
    assert len(server.asked("GET")) == 1


@pytest.mark.parametrize("size", [len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_file_of_another_size_is_refused_before_it_is_fetched(
    server: LfsServer, pointer: Pointer, blobs: BlobStore, size: int
) -> None:
    with pytest.raises(SourceError, match=rf"{len(CONTENT)} bytes, expected {size}"):
        download(server, [Pointer(pointer.sha256, size)], blobs)

    assert list(blobs) == []


def test_eight_threads_that_want_one_file_transfer_it_once(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    ready = Barrier(8)

    def fetch(_: int) -> None:
        ready.wait()
        download(server, [pointer], blobs)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(fetch, range(8)))

    assert blobs.verify(pointer.sha256)
    assert len(server.asked("GET")) == 1
    assert list(blobs.incoming.iterdir()) == []


def test_more_files_than_a_batch_holds_are_asked_for_in_several(
    server: LfsServer, blobs: BlobStore
) -> None:
    contents = [f"file {i}".encode() for i in range(103)]
    pointers = [Pointer(server.add(content), len(content)) for content in contents]

    download(server, pointers, blobs)

    assert set(blobs) == {pointer.sha256 for pointer in pointers}
    sizes = [len(json.loads(batch.body)["objects"]) for batch in server.asked("POST")]
    assert sizes == [100, 3]


def test_files_the_server_lacks_are_named_after_all_others_came(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    absent = Pointer("a" * 64, 10)

    with pytest.raises(SourceError, match=r"lacks 1 of 2 large files: aaa.*404 Object does not"):
        download(server, [absent, pointer], blobs)

    assert blobs.verify(pointer.sha256)


# Patience.


@pytest.mark.parametrize("status", [429, 500, 503])
@pytest.mark.parametrize("n_before", [0, 1], ids=["batch", "transfer"])
def test_a_busy_server_is_asked_again_when_it_says(
    server: LfsServer,
    pointer: Pointer,
    blobs: BlobStore,
    sleeps: list[float],
    status: int,
    n_before: int,
) -> None:
    busy = Reply(status=status, headers={"Retry-After": "7"})
    if n_before:
        server.edit = lambda answer: server.busy.append(busy) or answer
    else:
        server.busy.append(busy)

    download(server, [pointer], blobs, n_retries=1)

    assert blobs.verify(pointer.sha256)
    assert sleeps == [7]


@pytest.mark.parametrize("when", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-7"])
def test_a_time_that_is_over_or_none_is_not_waited_for(
    server: LfsServer, pointer: Pointer, blobs: BlobStore, sleeps: list[float], when: str
) -> None:
    server.busy.append(Reply(status=429, headers={"Retry-After": when}))

    download(server, [pointer], blobs, n_retries=1)

    assert blobs.verify(pointer.sha256)
    assert sleeps == [0]


def test_a_server_that_wants_to_be_left_alone_for_long_is(
    server: LfsServer, pointer: Pointer, blobs: BlobStore, sleeps: list[float]
) -> None:
    server.busy.append(Reply(status=429, headers={"Retry-After": "86400"}))

    with pytest.raises(SourceError, match="429") as error:
        download(server, [pointer], blobs, n_retries=3)

    assert "86400 s" in (error.value.hint or "")
    assert sleeps == []


def test_a_server_that_stays_busy_is_given_up(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    server.busy += [Reply(status=503)] * 3

    with pytest.raises(SourceError, match="503"):
        download(server, [pointer], blobs, n_retries=2)

    assert len(server.calls) == 3


def test_an_address_that_is_no_longer_valid_is_asked_for_again(
    server: LfsServer, blobs: BlobStore
) -> None:
    pointers = [Pointer(server.add(bytes([i])), 1) for i in range(3)]
    server.expires_in = -1

    download(server, pointers, blobs)

    assert set(blobs) == {pointer.sha256 for pointer in pointers}
    sizes = [len(json.loads(batch.body)["objects"]) for batch in server.asked("POST")]
    assert sizes == [3, 2, 1]


def test_a_transfer_refused_because_its_address_is_old_goes_on_with_a_new_one(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    server.expires_in = -1
    answers = [
        lambda answer: server.busy.append(Reply(status=403)) or answer,
        lambda answer: answer,
    ]
    server.edit = lambda answer: answers.pop(0)(answer)

    download(server, [pointer], blobs)

    assert blobs.verify(pointer.sha256)
    assert len(server.asked("GET")) == 2


# Whom to trust.


@pytest.mark.parametrize("token", [TOKEN, f"ann:{TOKEN}"], ids=["Bearer", "Basic"])
def test_the_token_opens_the_server(
    server: LfsServer, pointer: Pointer, blobs: BlobStore, token: str
) -> None:
    server.token = TOKEN
    with pytest.raises(SourceError, match="401") as error:
        download(server, [pointer], blobs)
    assert "credentials" in (error.value.hint or "")

    deque(remote(server, token=token).download([pointer], blobs), maxlen=0)

    assert blobs.verify(pointer.sha256)
    kind = "Basic " if ":" in token else "Bearer "
    assert all(call.headers["authorization"].startswith(kind) for call in server.calls[1:])


def test_another_host_gets_the_headers_of_the_server_and_no_token(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    server.token = TOKEN
    server.storage = server.url.partition("/model")[0].replace("127.0.0.1", "localhost")

    deque(remote(server, token=TOKEN).download([pointer], blobs), maxlen=0)

    (get,) = server.asked("GET")
    assert get.headers["host"].startswith("localhost:")
    assert get.headers["x-key"] == "sesame"
    assert "authorization" not in get.headers


def test_headers_of_the_server_do_not_follow_a_redirect_to_another_host(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    origin = server.url.partition("/model")[0]
    target = f"{server.url}/objects/{pointer.sha256}".replace("127.0.0.1", "localhost")

    def edit(answer: dict[str, object]) -> dict[str, object]:
        action = {"href": f"{origin}/model.git/info/lfs/x", "header": {"Authorization": "Basic x"}}
        server.busy.append(Reply(status=302, headers={"Location": target}))
        return answer | {"objects": [answer["objects"][0] | {"actions": {"download": action}}]}

    server.edit = edit
    deque(remote(server, token=TOKEN).download([pointer], blobs), maxlen=0)

    first, second = server.asked("GET")
    assert first.headers["authorization"] == "Basic x"
    assert "authorization" not in second.headers
    assert blobs.verify(pointer.sha256)


def test_a_server_elsewhere_never_gets_the_token_of_the_repository(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    other = LfsRemote("https://hub.example/ann/tiny", token=TOKEN, lfs_url=server.url)

    deque(other.download([pointer], blobs), maxlen=0)

    assert all("authorization" not in call.headers for call in server.calls)
    assert blobs.verify(pointer.sha256)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ({"href": "file:///etc/passwd"}, "no answer of a Git LFS server"),
        ({"href": "/objects/x"}, "no answer of a Git LFS server"),
        ({"href": "http://example.com/x"}, "is not HTTPS"),
        ({}, "no answer of a Git LFS server"),
    ],
)
def test_an_address_that_may_not_be_asked_is_refused(
    server: LfsServer, pointer: Pointer, blobs: BlobStore, action: dict[str, object], reason: str
) -> None:
    server.edit = lambda answer: {
        "objects": [answer["objects"][0] | {"actions": {"download": action}}]
    }

    with pytest.raises(SourceError, match=reason) as error:
        download(server, [pointer], blobs)

    assert "passwd" not in str(error.value)
    assert server.asked("GET") == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ([], "no answer of a Git LFS server"),
        ({"objects": "none"}, "no answer of a Git LFS server"),
        ({"objects": []}, "is silent"),
        ({"transfer": "xet", "objects": []}, "wants 'xet' transfers"),
        ({"hash_algo": "sha512", "objects": []}, "'sha512'"),
        ({"objects": [], "x": "y" * (5 << 20)}, "more than 4194304 bytes"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(
    server: LfsServer, pointer: Pointer, blobs: BlobStore, answer: object, reason: str
) -> None:
    server.edit = lambda _: answer

    with pytest.raises(SourceError, match=reason):
        download(server, [pointer], blobs)


def test_a_signature_in_an_address_is_in_no_message(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    server.edit = lambda answer: server.busy.append(Reply(status=404)) or answer

    with pytest.raises(SourceError, match="404") as error:
        download(server, [pointer], blobs)

    assert "s3cret" not in f"{error.value.message} {error.value.hint}"


def test_headers_that_would_change_our_request_are_left_out(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    header = {"Host": "evil", "Range": "bytes=1-", "X-Bad": "a\r\nb: c", "X-Good": "yes"}
    server.edit = lambda answer: (
        answer
        | {
            "objects": [
                answer["objects"][0]
                | {
                    "actions": {
                        "download": {
                            "href": f"{server.url}/objects/{pointer.sha256}",
                            "header": header,
                        }
                    }
                }
            ]
        }
    )

    download(server, [pointer], blobs)

    (get,) = server.asked("GET")
    assert get.headers["x-good"] == "yes"
    assert not {"range", "x-bad", "b"} & get.headers.keys()
    assert get.headers["host"].startswith("127.0.0.1")


# The other way.


def test_what_is_uploaded_can_be_downloaded(
    server: LfsServer, blobs: BlobStore, tmp_path: Path
) -> None:
    pointer = stored(blobs, CONTENT)

    events = list(remote(server).upload([pointer], blobs))

    assert server.objects == {pointer.sha256: CONTENT}
    assert events[-1] == Uploading(pointer.sha256, len(CONTENT), len(CONTENT))
    (put,) = server.asked("PUT")
    assert put.headers["content-length"] == str(len(CONTENT))
    (verify,) = server.asked("POST", "verify")
    assert json.loads(verify.body) == {"oid": pointer.sha256, "size": len(CONTENT)}
    elsewhere = BlobStore(tmp_path / "elsewhere" / ".blobs")
    download(server, [pointer], elsewhere)
    assert elsewhere.path(pointer.sha256).read_bytes() == CONTENT


def test_what_the_server_has_is_not_sent_nor_needed_here(
    server: LfsServer, pointer: Pointer, blobs: BlobStore
) -> None:
    list(remote(server).upload([pointer], blobs))

    assert server.asked("PUT") == server.asked("POST", "verify") == []


def test_an_upload_is_sent_again_from_its_beginning(server: LfsServer, blobs: BlobStore) -> None:
    pointer = stored(blobs, CONTENT)
    server.edit = lambda answer: server.busy.append(Reply(status=502)) or answer

    list(remote(server, n_retries=1).upload([pointer], blobs))

    assert server.objects == {pointer.sha256: CONTENT}
    assert len(server.asked("PUT")) == 2


def test_a_refused_upload_says_why(server: LfsServer, blobs: BlobStore) -> None:
    pointer = stored(blobs, b"small")
    server.edit = lambda answer: {
        "objects": [{"oid": pointer.sha256, "error": {"code": 413, "message": "too \x1b[1m large"}}]
    }

    with pytest.raises(SourceError, match=r"does not take .*: 413 too  \[1m large"):
        list(remote(server).upload([pointer], blobs))


def test_an_upload_the_server_then_lacks_is_an_error(server: LfsServer, blobs: BlobStore) -> None:
    pointer = stored(blobs, b"small")
    server.edit = lambda answer: server.busy.append(Reply(status=200)) or answer

    with pytest.raises(SourceError, match="verify answers 404"):
        list(remote(server).upload([pointer], blobs))


def test_what_neither_has_cannot_be_uploaded(server: LfsServer, blobs: BlobStore) -> None:
    with pytest.raises(NotFound):
        list(remote(server).upload([Pointer("a" * 64, 10)], blobs))


def test_a_chunked_upload_is_sent_if_the_server_wants_one(
    server: LfsServer, blobs: BlobStore
) -> None:
    pointer = stored(blobs, CONTENT)

    def edit(answer: dict[str, object]) -> dict[str, object]:
        found = answer["objects"][0]
        found["actions"]["upload"]["header"] = {"Transfer-Encoding": "chunked"}
        return answer

    server.edit = edit
    list(remote(server).upload([pointer], blobs))

    (put,) = server.asked("PUT")
    assert put.headers["transfer-encoding"] == "chunked"
    assert server.objects == {pointer.sha256: CONTENT}


def test_an_upload_nobody_waits_for_ends(server: LfsServer, blobs: BlobStore) -> None:
    pointer = stored(blobs, bytes(32 << 20))
    server.gate.clear()

    events = remote(server).upload([pointer], blobs)
    first = next(events)
    events.close()
    server.gate.set()

    assert first.completed < pointer.size
    assert server.objects == {}


# With the git program.


def test_a_clone_over_http_brings_pointers_and_the_server_their_files(
    blobs: BlobStore, tmp_path: Path
) -> None:
    hub = tmp_path / "hub"
    hub.mkdir()
    model = ModelRemote.create(hub / "model.git")
    with git_http(hub) as web:
        git("clone", "--quiet", f"{web.url}/model.git", str(tmp_path / "clone"))
        pointer = parse_pointer((tmp_path / "clone" / "model.gguf").read_bytes())
        assert pointer is not None
        deque(LfsRemote(f"{web.url}/model.git").download([pointer], blobs), maxlen=0)

        (tmp_path / "clone" / "notes").write_text("new")
        git("add", "notes", at=tmp_path / "clone")
        git("commit", "--quiet", "-m", "Notes", at=tmp_path / "clone")
        git("push", "--quiet", at=tmp_path / "clone")

    assert blobs.path(pointer.sha256).read_bytes() == gguf("Second")
    assert hashlib.sha256(gguf("Second")).hexdigest() == pointer.sha256
    assert git("log", "-1", "--format=%s", model.commit("main"), at=model.path) == "Notes\n"
