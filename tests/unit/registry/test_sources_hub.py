"""A hub repository is listed, one model of it chosen, and its files fetched from the commit they were listed at."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from hyprstream.core.errors import Invalid, NotFound, SourceError
from hyprstream.core.refs import ModelRef
from hyprstream.registry.sources.base import Choice, GivenAnswers, Licence, Offer
from hyprstream.registry.sources.hub import HubSource
from support.loopback import Loopback, Reply, Served, loopback

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NOBODY = GivenAnswers()


def content(name: str) -> bytes:
    return name.encode() * 1000


def sha256(name: str) -> str:
    return hashlib.sha256(content(name)).hexdigest()


@dataclass
class Hub:
    """A fake hub: the two endpoints a pull needs."""

    web: Loopback

    def add(self, repo: str, *names: str, licence: str = "apache-2.0", **more: object) -> None:
        siblings = [self._sibling(name) for name in names]
        info = {"id": repo, "sha": COMMIT, "siblings": siblings, "cardData": {"license": licence}}
        self.web.routes[f"/api/models/{repo}"] = lambda request: _json({**info, **more})
        for name in names:
            self.web.routes[f"/{repo}/resolve/{COMMIT}/{name}"] = Served(content(name))

    def _sibling(self, name: str) -> dict[str, object]:
        size = len(content(name))
        lfs = {"sha256": sha256(name), "size": size, "pointerSize": 134}
        return {"rfilename": name, "size": size, "lfs": lfs if name.endswith(".gguf") else None}


def _json(value: object, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | headers)


@pytest.fixture
def hub(web: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    yield Hub(web)
    huggingface_hub.close_session()


def offer(text: str, answers: GivenAnswers = NOBODY) -> Offer:
    return HubSource.parse(text).offer(answers)


def test_a_repository_with_one_model_needs_no_choice(hub: Hub) -> None:
    hub.add("ann/Tiny-GGUF", "README.md", "Tiny.Q4_K_M.gguf")

    found = offer("hf:ann/Tiny-GGUF")

    (file,) = found.files
    assert (file.name, file.sha256) == ("model.gguf", sha256("Tiny.Q4_K_M.gguf"))
    assert found.n_bytes_needed == file.size == len(content("Tiny.Q4_K_M.gguf"))
    assert found.source == "hf:ann/Tiny-GGUF:Tiny.Q4_K_M.gguf"
    assert found.ref == ModelRef("tiny.q4_k_m")
    assert found.licence == Licence("apache-2.0")


def test_several_models_and_no_pattern_are_listed_with_their_sizes(hub: Hub) -> None:
    hub.add("ann/tiny", "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf")

    with pytest.raises(Invalid) as error:
        offer("hf:ann/tiny")

    assert "tiny-Q4_K_M.gguf (0.0 MB), tiny-Q8_0.gguf (0.0 MB)" in error.value.message
    assert "hf:ann/tiny:tiny-Q4_K_M.gguf" in (error.value.hint or "")


def test_somebody_who_can_be_asked_chooses(hub: Hub) -> None:
    hub.add("ann/tiny", "tiny-Q4_K_M.gguf", "tiny-Q8_0.gguf")

    class Second(GivenAnswers):
        def choose(self, choices: Sequence[Choice]) -> Choice | None:
            return choices[1]

    assert offer("hf:ann/tiny", Second()).files[0].sha256 == sha256("tiny-Q8_0.gguf")


@pytest.mark.parametrize(
    "pattern", ["q8_0", "Q8_0", "tiny-Q8_0.gguf", "*-q8*", "sub/*", "sub/tiny-Q8_0.gguf"]
)
def test_a_model_is_named_by_quantisation_file_or_glob(hub: Hub, pattern: str) -> None:
    hub.add("ann/tiny", "tiny-Q4_0.gguf", "sub/tiny-Q8_0.gguf", "tiny-IQ8_0x.gguf")

    found = offer(f"hf:ann/tiny:{pattern}")

    assert found.files[0].sha256 == sha256("sub/tiny-Q8_0.gguf")


def test_a_pattern_nothing_matches_says_what_there_is(hub: Hub) -> None:
    hub.add("ann/tiny", "tiny-Q4_0.gguf")

    with pytest.raises(NotFound, match="no GGUF for 'Q8_0'") as error:
        offer("hf:ann/tiny:Q8_0")

    assert "tiny-Q4_0.gguf" in (error.value.hint or "")


def test_shards_are_one_model_and_keep_their_names(hub: Hub, tmp_path: Path) -> None:
    shards = [f"Q8_0/big-Q8_0-{i:05d}-of-00003.gguf" for i in (1, 2, 3)]
    hub.add("ann/big", shards[2], shards[0], shards[1])

    source = HubSource.parse("hf:ann/big")
    found = source.offer(NOBODY)
    progress = list(source.fetch(found, tmp_path))

    assert [file.name for file in found.files] == [shard.removeprefix("Q8_0/") for shard in shards]
    assert found.ref == ModelRef("big-q8_0")
    total = sum(len(content(shard)) for shard in shards)
    assert (progress[-1].completed, progress[-1].total) == (total, total)
    for shard in shards:
        assert (tmp_path / sha256(shard)).read_bytes() == content(shard)


def test_a_split_model_without_all_shards_is_refused(hub: Hub) -> None:
    hub.add("ann/big", "big-00001-of-00003.gguf", "big-00003-of-00003.gguf")

    with pytest.raises(SourceError, match="2 of its 3 shards"):
        offer("hf:ann/big")


def test_projectors_drafts_and_matrices_are_noted_and_not_offered(hub: Hub) -> None:
    hub.add("ann/eye", "eye.gguf", "mmproj-eye-f16.gguf", "eye-draft.gguf", "imatrix.gguf")

    found = offer("hf:ann/eye")

    assert [file.sha256 for file in found.files] == [sha256("eye.gguf")]
    assert [note.split()[0] for note in found.notes] == [
        "eye-draft.gguf",
        "imatrix.gguf",
        "mmproj-eye-f16.gguf",
    ]


def test_the_token_goes_to_the_hub_and_not_where_it_redirects(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_hunter2")
    hub.add("ann/tiny", "tiny.gguf")
    path = f"/ann/tiny/resolve/{COMMIT}/tiny.gguf"
    with loopback() as cdn:
        cdn.routes["/blob"] = Served(content("tiny.gguf"))
        hub.web.routes[path] = lambda r: Reply(
            status=302, headers={"Location": f"{cdn.url}/blob?sig=x"}
        )
        source = HubSource.parse("hf:ann/tiny")
        list(source.fetch(source.offer(NOBODY), tmp_path))

    tokens = {request.headers.get("authorization") for request in hub.web.requests}
    assert tokens == {"Bearer hf_hunter2"}
    assert "authorization" not in cdn.requests[0].headers


def test_an_interrupted_fetch_resumes(hub: Hub, tmp_path: Path) -> None:
    hub.add("ann/tiny", "tiny.gguf")
    source = HubSource.parse("hf:ann/tiny")
    found = source.offer(NOBODY)
    (tmp_path / f"{sha256('tiny.gguf')}.part").write_bytes(content("tiny.gguf")[:100])

    list(source.fetch(found, tmp_path))

    path = f"/ann/tiny/resolve/{COMMIT}/tiny.gguf"
    assert [r.headers["range"] for r in hub.web.asked(path)] == ["bytes=100-"]


def test_a_missing_or_private_repository_says_so(hub: Hub) -> None:
    hub.web.routes["/api/models/ann/none"] = lambda request: _json(
        {"error": "Repository not found"}, 404, **{"X-Error-Code": "RepoNotFound"}
    )

    with pytest.raises(NotFound, match="no repository hf:ann/none") as error:
        offer("hf:ann/none")

    assert "HF_TOKEN" in (error.value.hint or "")


def test_a_gated_repository_says_how_to_get_in(hub: Hub) -> None:
    hub.web.routes["/api/models/ann/gated"] = lambda request: _json(
        {"error": "gated"}, 403, **{"X-Error-Code": "GatedRepo"}
    )

    with pytest.raises(SourceError, match="hf:ann/gated is gated") as error:
        offer("hf:ann/gated")

    assert "accept its terms" in (error.value.hint or "")


def test_an_unreachable_hub_is_a_source_error(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")

    with pytest.raises(SourceError, match="the hub does not answer"):
        offer("hf:ann/tiny")


@pytest.mark.parametrize("text", ["hf:", "hf:tiny", "hf:a/b/c", "hf:../x", "hf:a/b c", "hf:/b"])
def test_what_is_no_repository_is_refused_before_anyone_is_asked(text: str) -> None:
    with pytest.raises(Invalid, match="is not hf:user/repo"):
        HubSource.parse(text)


def test_only_the_hub_is_asked(hub: Hub, web: Loopback) -> None:
    hub.add("ann/tiny", "tiny.gguf")

    offer("hf:ann/tiny")

    assert [request.path for request in web.requests] == ["/api/models/ann/tiny"]
