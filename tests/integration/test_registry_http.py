"""Models over HTTP, from address to answerable file and back: `git http-backend` and a Git LFS server on loopback."""

import io
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from hyprstream.cli.main import run
from hyprstream.core.errors import SourceError
from hyprstream.core.refs import ModelRef
from hyprstream.registry.git import Git
from hyprstream.registry.registry import Registry
from hyprstream.registry.sources.base import Downloading
from hyprstream.registry.sources.partial import sha256_of
from support.git_http import GitHttp, git_http
from support.model_remote import ModelRemote, gguf
from support.registries import worktree

TOKEN = "hf_s3cret"
MODEL = ModelRef("model")


@pytest.fixture
def hub(tmp_path: Path) -> ModelRemote:
    """What the server has."""
    (tmp_path / "hub").mkdir()
    return ModelRemote.create(tmp_path / "hub" / "model.git")


@pytest.fixture
def web(hub: ModelRemote) -> Iterator[GitHttp]:
    with git_http(hub.path.parent) as web:
        yield web


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def clone(registry: Registry, web: GitHttp) -> bytes:
    """The weights that can be served afterwards."""
    list(registry.clone(f"{web.url}/model.git"))
    model = registry.resolve(MODEL)
    assert sha256_of(Path(model.path)) == model.sha256
    return Path(model.path).read_bytes()


def ours(registry: Registry) -> list[str]:
    """What is registered, or lies where models are."""
    return [*registry.names(), *(path.name for path in registry.models_dir.glob("[!.]*"))]


def test_the_command_line_clones_commits_and_gives_back(
    web: GitHttp,
    hub: ModelRemote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HYPRSTREAM_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run(["policy", "apply-template", "local"]) == 0
    assert run(["clone", f"{web.url}/model.git"]) == 0, capsys.readouterr().err
    weights = tmp_path / "models" / "model" / "worktrees" / "main" / "model.gguf"
    assert weights.read_bytes() == gguf("Second")
    weights.unlink()
    weights.write_bytes(gguf("Mine"))
    assert run(["commit", "model", "-m", "Mine"]) == 0

    assert run(["push", "model", "origin", "main"]) == 0, capsys.readouterr().err

    other = Registry(tmp_path / "other")
    assert clone(other, web) == gguf("Mine")
    assert gguf("Mine") in web.lfs("model").objects.values()


def test_a_large_file_that_breaks_off_goes_on_where_it_was(
    web: GitHttp, registry: Registry
) -> None:
    half = len(gguf("Second")) // 2
    web.lfs("model").cuts = [half]

    assert clone(registry, web) == gguf("Second")

    first, second = web.lfs("model").asked("GET")
    assert "range" not in first.headers
    assert second.headers["range"] == f"bytes={half}-"


def test_a_clone_that_is_left_in_a_large_file_goes_on_when_asked_again(
    web: GitHttp, registry: Registry
) -> None:
    web.lfs("model").cuts = [half := len(gguf("Second")) // 2]
    events = registry.clone(f"{web.url}/model.git")
    next(event for event in events if isinstance(event, Downloading))
    events.close()
    assert ours(registry) == []

    assert clone(registry, web) == gguf("Second")

    assert web.lfs("model").asked("GET")[-1].headers["range"] == f"bytes={half}-"


def test_wrong_bytes_make_no_model_and_right_ones_later_do(
    web: GitHttp, registry: Registry
) -> None:
    server = web.lfs("model")
    server.corrupt = set(server.objects)
    with pytest.raises(SourceError, match="sha256"):
        clone(registry, web)
    assert ours(registry) == []

    server.corrupt = set()

    assert clone(registry, web) == gguf("Second")


def test_a_token_opens_a_remote_and_is_written_nowhere(
    web: GitHttp, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.token = TOKEN
    with pytest.raises(SourceError):
        clone(registry, web)
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    assert clone(registry, web) == gguf("Second")
    (worktree(registry, "model") / "model.gguf").unlink()
    (worktree(registry, "model") / "model.gguf").write_bytes(gguf("Mine"))
    registry.repository("model").commit("main", "Mine")
    list(registry.repository("model").push("origin", "main"))

    assert gguf("Mine") in web.lfs("model").objects.values()
    files = [path for path in registry.models_dir.rglob("*") if path.is_file()]
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize("wants_token", [False, True])
def test_a_token_does_not_follow_a_redirection_to_another_host(
    web: GitHttp, tmp_path: Path, wants_token: bool
) -> None:
    (tmp_path / "old").mkdir()
    git = Git.init(tmp_path / "ours")
    with git_http(tmp_path / "old") as old:
        old.moved_to = web.url
        old.token = TOKEN if wants_token else None
        url = f"{old.url}/model.git"
        with suppress(SourceError):  # git may give up; it does where it was asked for the token
            list(git.stream("fetch", "--progress", "--", url, url=url, token=TOKEN))

    assert [call.headers.get("authorization") for call in web.calls] == [None] * len(web.calls)
    assert web.calls, "it was redirected"
