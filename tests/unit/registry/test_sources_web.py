"""Downloads resume, verify what they receive, and tell nobody a secret that is another's."""

import hashlib
import shutil
from collections import deque
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from hyprstream.core.errors import SourceError, TooLarge
from hyprstream.registry.sources import partial
from hyprstream.registry.sources.web import Web, WebOptions, origin, shown, split_credentials
from support.loopback import Loopback, Reply, Request, Served, loopback

DATA = bytes(range(256)) * 1024
SHA256 = hashlib.sha256(DATA).hexdigest()
HALF = len(DATA) // 2
NO_RETRY = WebOptions(retry_delays=())
TWO_RETRIES = WebOptions(retry_delays=(0, 0))


def download(
    url: str,
    directory: Path,
    *,
    options: WebOptions = NO_RETRY,
    sha256: str = SHA256,
    size: int | None = None,
) -> list[tuple[int, int]]:
    with Web(options) as web:
        return list(web.download(url, directory, sha256=sha256, size=size))


def break_off(web: Loopback, directory: Path, file: Served, at: int = HALF) -> None:
    """Leave the first `at` bytes of a file in `directory`, as an interrupted download does."""
    file.cuts.append(at)
    web.routes["/file"] = file
    with pytest.raises(SourceError):
        download(f"{web.url}/file", directory)
    assert (directory / f"{SHA256}.part").stat().st_size == at
    web.requests.clear()


def test_a_download_gets_the_name_of_its_digest_and_counts_up_to_its_size(
    web: Loopback, tmp_path: Path
) -> None:
    web.routes["/file"] = Served(DATA)

    progress = download(f"{web.url}/file", tmp_path)

    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [SHA256]
    assert (tmp_path / SHA256).read_bytes() == DATA
    assert progress[-1] == (len(DATA), len(DATA))
    assert progress == sorted(progress)


def test_an_interrupted_download_asks_for_the_rest_of_the_same_body(
    web: Loopback, tmp_path: Path
) -> None:
    break_off(web, tmp_path, Served(DATA, etag='"one"'))

    progress = download(f"{web.url}/file", tmp_path)

    (request,) = web.requests
    assert request.headers["range"] == f"bytes={HALF}-"
    assert request.headers["if-range"] == '"one"'
    assert progress[0][0] > HALF
    assert (tmp_path / SHA256).read_bytes() == DATA


def test_a_file_that_changed_at_the_server_is_fetched_from_its_beginning(
    web: Loopback, tmp_path: Path
) -> None:
    break_off(web, tmp_path, Served(b"x" * len(DATA), etag='"old"'))
    web.routes["/file"] = Served(DATA, etag='"new"')

    download(f"{web.url}/file", tmp_path)

    assert (tmp_path / SHA256).read_bytes() == DATA


def test_a_weak_etag_is_not_used_to_resume(web: Loopback, tmp_path: Path) -> None:
    break_off(web, tmp_path, Served(DATA, etag='W/"one"'))

    download(f"{web.url}/file", tmp_path)

    assert "if-range" not in web.requests[0].headers


def test_a_server_without_ranges_restarts_cleanly(web: Loopback, tmp_path: Path) -> None:
    break_off(web, tmp_path, Served(DATA, takes_ranges=False))

    progress = download(f"{web.url}/file", tmp_path)

    assert progress[0][0] <= HALF
    assert (tmp_path / SHA256).read_bytes() == DATA


def test_another_range_than_the_one_asked_for_is_not_joined(web: Loopback, tmp_path: Path) -> None:
    whole = Served(DATA)
    break_off(web, tmp_path, whole)

    def off_by_one(request: Request) -> Reply:
        reply = whole(request)
        if reply.status != 206:
            return reply
        last = len(DATA) - 1
        headers = {"Content-Range": f"bytes {HALF + 1}-{last}/{len(DATA)}"}
        return Reply(reply.body[1:], 206, headers)

    web.routes["/file"] = off_by_one
    download(f"{web.url}/file", tmp_path, options=TWO_RETRIES)

    assert (tmp_path / SHA256).read_bytes() == DATA


def test_more_bytes_than_the_server_has_are_thrown_away(web: Loopback, tmp_path: Path) -> None:
    (tmp_path / f"{SHA256}.part").write_bytes(DATA + b"more")
    web.routes["/file"] = Served(DATA)

    download(f"{web.url}/file", tmp_path, options=TWO_RETRIES)

    assert (tmp_path / SHA256).read_bytes() == DATA


def test_a_truncated_body_is_resumed_within_the_same_download(
    web: Loopback, tmp_path: Path
) -> None:
    web.routes["/file"] = Served(DATA, cuts=[1000, 1000])

    download(f"{web.url}/file", tmp_path, options=WebOptions(retry_delays=(0,)))

    ranges = [request.headers.get("range") for request in web.requests]
    assert ranges == [None, "bytes=1000-", "bytes=2000-"]
    assert (tmp_path / SHA256).read_bytes() == DATA


def test_a_server_that_keeps_breaking_off_is_given_up_with_the_bytes_kept(
    web: Loopback, tmp_path: Path
) -> None:
    web.routes["/file"] = Served(DATA, cuts=[HALF, 0, 0])

    with pytest.raises(SourceError) as error:
        download(f"{web.url}/file", tmp_path, options=TWO_RETRIES)

    assert "are kept" in (error.value.hint or "")
    assert (tmp_path / f"{SHA256}.part").stat().st_size == HALF


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(web: Loopback, tmp_path: Path, status: int) -> None:
    replies = [Reply(status=status), Reply(DATA)]
    web.routes["/file"] = lambda request: replies.pop(0)

    download(f"{web.url}/file", tmp_path, options=TWO_RETRIES)

    assert (tmp_path / SHA256).exists()


def test_a_whole_part_is_not_asked_for_again(web: Loopback, tmp_path: Path) -> None:
    (tmp_path / f"{SHA256}.part").write_bytes(DATA)

    download(f"{web.url}/file", tmp_path, size=len(DATA))

    assert web.requests == []
    assert (tmp_path / SHA256).read_bytes() == DATA


def test_a_wrong_digest_leaves_no_file_at_all(web: Loopback, tmp_path: Path) -> None:
    web.routes["/file"] = Served(b"x" * len(DATA))

    with pytest.raises(SourceError, match=f"expected {SHA256}"):
        download(f"{web.url}/file", tmp_path)

    assert not any(path.is_file() for path in tmp_path.iterdir())


def test_another_size_than_expected_is_refused_before_the_body(
    web: Loopback, tmp_path: Path
) -> None:
    web.routes["/file"] = Served(DATA)

    with pytest.raises(SourceError, match=f"has {len(DATA)} bytes, expected 5"):
        download(f"{web.url}/file", tmp_path, size=5)

    assert (tmp_path / f"{SHA256}.part").stat().st_size == 0


def test_a_body_of_unknown_length_is_refused(web: Loopback, tmp_path: Path) -> None:
    web.routes["/file"] = lambda request: Reply(DATA, says_length=False)

    with pytest.raises(SourceError, match="does not say how many bytes"):
        download(f"{web.url}/file", tmp_path)


def test_without_an_announced_length_the_expected_size_is_the_limit(
    web: Loopback, tmp_path: Path
) -> None:
    web.routes["/file"] = lambda request: Reply(DATA + b"more", says_length=False)

    with pytest.raises(SourceError, match=f"sends more than the {len(DATA)} bytes"):
        download(f"{web.url}/file", tmp_path, size=len(DATA))

    assert not (tmp_path / SHA256).exists()


def test_a_body_that_just_ends_too_early_is_not_taken_for_whole(
    web: Loopback, tmp_path: Path
) -> None:
    web.routes["/file"] = lambda request: Reply(DATA[:HALF], says_length=False)

    with pytest.raises(SourceError, match=f"ended at byte {HALF} of {len(DATA)}"):
        download(f"{web.url}/file", tmp_path, size=len(DATA))

    assert (tmp_path / f"{SHA256}.part").stat().st_size == HALF


def test_a_file_the_disk_has_no_room_for_is_refused_with_both_numbers(
    web: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.routes["/file"] = Served(DATA)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(partial.shutil, "disk_usage", lambda path: usage._replace(free=100_000))

    with pytest.raises(TooLarge, match=r"0\.3 MB are needed, 0\.1 MB are free"):
        download(f"{web.url}/file", tmp_path)


def test_closing_the_generator_keeps_what_arrived(web: Loopback, tmp_path: Path) -> None:
    web.routes["/file"] = Served(DATA)
    with Web() as client:
        progress = client.download(f"{web.url}/file", tmp_path, sha256=SHA256)
        n_bytes, _ = next(progress)
        progress.close()

    assert (tmp_path / f"{SHA256}.part").read_bytes() == DATA[:n_bytes]
    assert not (tmp_path / SHA256).exists()


def test_a_redirect_to_another_origin_gets_no_credentials(tmp_path: Path) -> None:
    with loopback() as first, loopback() as second:
        first.routes["/file"] = lambda r: Reply(
            status=302, headers={"Location": f"{second.url}/elsewhere"}
        )
        second.routes["/elsewhere"] = Served(DATA)
        options = WebOptions({origin(first.url): "Bearer secret"}, retry_delays=())

        download(f"{first.url}/file", tmp_path, options=options)

    assert first.requests[0].headers["authorization"] == "Bearer secret"
    assert "authorization" not in second.requests[0].headers


def test_a_redirect_on_the_same_origin_keeps_the_credentials(web: Loopback, tmp_path: Path) -> None:
    web.routes["/old"] = lambda request: Reply(status=307, headers={"Location": "/new"})
    web.routes["/new"] = Served(DATA)

    download(f"{web.url}/old", tmp_path, options=WebOptions({origin(web.url): "Bearer secret"}))

    assert [request.headers.get("authorization") for request in web.requests] == [
        "Bearer secret",
        "Bearer secret",
    ]


def test_endless_redirects_end(web: Loopback, tmp_path: Path) -> None:
    web.routes["/loop"] = lambda request: Reply(status=302, headers={"Location": "/loop"})

    with pytest.raises(SourceError, match="redirects more than 10 times"):
        download(f"{web.url}/loop", tmp_path)


def redirect_to(location: str) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.scheme == "https", "plain HTTP must not be tried"
        return httpx.Response(302, headers={"Location": location})

    return answer


@pytest.mark.parametrize(
    "location", ["http://files.example/x", "http://127.0.0.1:1/x", "ftp://x/y"]
)
def test_https_never_leads_to_something_less(tmp_path: Path, location: str) -> None:
    with (
        Web(transport=httpx.MockTransport(redirect_to(location))) as web,
        pytest.raises(SourceError, match="is not HTTPS"),
    ):
        deque(web.download("https://files.example/file", tmp_path, sha256=SHA256), maxlen=0)


def test_plain_http_is_for_loopback_only(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not HTTPS"):
        download("http://files.example/file", tmp_path)


def test_messages_show_neither_credentials_nor_query(web: Loopback, tmp_path: Path) -> None:
    url = f"{web.url.replace('//', '//alice:hunter2@')}/missing?signature=hunter3"

    with pytest.raises(SourceError) as error:
        download(url, tmp_path)

    assert "404" in error.value.message
    assert "hunter" not in f"{error.value.message} {error.value.hint}"


def test_an_unreachable_server_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"http://127\.0\.0\.1:1/file"):
        download("http://127.0.0.1:1/file", tmp_path)


def test_credentials_of_a_url_become_a_header_for_its_origin() -> None:
    bare, authorizations = split_credentials("https://al%40ice:p%3Aw@host.example/simple/")

    assert bare == "https://host.example/simple/"
    assert authorizations == {"https://host.example:443": "Basic YWxAaWNlOnA6dw=="}
    assert split_credentials("https://host.example/") == ("https://host.example/", {})


def test_options_do_not_show_their_secrets() -> None:
    options = WebOptions({"https://a:443": "Bearer hunter2"}, proxy="http://u:hunter2@proxy:3128")

    assert "hunter2" not in repr(options)
    assert shown("https://u:hunter2@a.example/x?y=hunter2#z") == "https://a.example/x"
