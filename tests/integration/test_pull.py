"""pull, list, show and rm as a user meets them: what is on standard output, what is said, and the exit code."""

import hashlib
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyprstream.cli.main import run
from hyprstream.cli.models import TerminalAnswers
from hyprstream.core.refs import ModelRef
from hyprstream.registry.aliases import ALIASES
from hyprstream.registry.sources.base import Choice, Licence
from hyprstream.registry.sources.partial import sha256_of
from hyprstream.registry.sources.pypi import PypiSource, Wheel
from support.gguf_writer import METADATA, TENSORS, sound, write
from support.loopback import Loopback, Reply, Served, loopback

HYPRSTREAM = Path(sys.executable).parent / "hyprstream"
TINY = bytes(sound().data)
SHA256 = hashlib.sha256(TINY).hexdigest()

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store, and a standard input nobody sits at."""
    monkeypatch.setenv("HYPRSTREAM_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    return tmp_path / "models"


@pytest.fixture
def web() -> Iterator[Loopback]:
    with loopback() as server:
        yield server


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A file with a sound model in it."""
    path = tmp_path / "Tiny.gguf"
    path.write_bytes(TINY)
    return path


def events(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def test_an_alias_is_pulled_from_the_index_pip_is_configured_with(
    web: Loopback, models_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("pack/tiny.gguf", TINY)
    data = content.getvalue()
    wheel_sha256 = hashlib.sha256(data).hexdigest()
    wheel = Wheel("tiny", "1.0", len(data), wheel_sha256, "pack/tiny.gguf", len(TINY))
    ref = ModelRef("tiny", "alias")
    monkeypatch.setitem(ALIASES, ref, PypiSource(ref, (wheel,), SHA256, Licence("MIT")))
    link = f'<a href="/f/{wheel.filename}#sha256={wheel_sha256}">wheel</a>'
    web.routes = {
        "/simple/tiny/": lambda request: Reply(link.encode()),
        f"/f/{wheel.filename}": Served(data),
    }
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", f"{web.url}/simple")

    assert run(["pull", "tiny:alias"]) == 0

    output = capsys.readouterr()
    assert output.out == ""
    assert "stored tiny:alias" in output.err
    assert (models_dir / "tiny" / "worktrees" / "alias" / "model.gguf").read_bytes() == TINY

    assert run(["pull", "tiny:alias"]) == 0
    assert "stored already" in capsys.readouterr().err
    assert len(web.requests) == 2


def test_a_pull_for_scripts_prints_one_event_per_line(web: Loopback, capsys: Capture) -> None:
    web.routes["/Tiny.gguf"] = Served(TINY)

    assert run(["pull", f"{web.url}/Tiny.gguf", "--sha256", SHA256, "--json"]) == 0

    output = capsys.readouterr()
    assert output.err == ""
    lines = events(output.out)
    assert [line["event"] for line in lines] == ["resolving", "downloading", "verifying", "stored"]
    assert (lines[1]["completed"], lines[1]["total"]) == (len(TINY), len(TINY))
    assert (lines[3]["name"], lines[3]["sha256"], lines[3]["is_new"]) == ("tiny", SHA256, True)


def test_a_failed_pull_for_scripts_ends_with_an_error_event(
    web: Loopback, models_dir: Path, capsys: Capture
) -> None:
    web.routes["/Tiny.gguf"] = Served(TINY)

    assert run(["pull", f"{web.url}/Tiny.gguf", "--sha256", "0" * 64, "--json"]) == 1

    last = events(capsys.readouterr().out)[-1]
    assert last["event"] == "error"
    assert SHA256 in str(last["message"])
    assert not list(models_dir.rglob("*.gguf"))


def test_a_long_pull_without_a_terminal_says_little(web: Loopback, capsys: Capture) -> None:
    big = bytes(write(METADATA, TENSORS).data) + bytes(4 << 20)
    web.routes["/big.gguf"] = Served(big)

    assert run(["pull", f"{web.url}/big.gguf", "--sha256", hashlib.sha256(big).hexdigest()]) == 0

    lines = [line for line in capsys.readouterr().err.splitlines() if " of " in line]
    assert 2 <= len(lines) <= 11
    assert lines[-1] == "model.gguf: 4.2 MB of 4.2 MB"


def test_ctrl_c_keeps_the_part_and_the_next_pull_continues(web: Loopback, models_dir: Path) -> None:
    released = threading.Event()
    whole = Served(TINY)
    web.routes["/tiny.gguf"] = lambda request: Reply(
        TINY, headers={"ETag": '"one"'}, n_sent=200, release=released
    )
    command = [HYPRSTREAM, "pull", f"{web.url}/tiny.gguf", "--sha256", SHA256]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "of" not in process.stderr.readline().split():
            pass
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(30) == 130
    released.set()

    assert "kept" in said and "Traceback" not in said
    (part,) = models_dir.rglob("*.part")
    assert part.read_bytes() == TINY[:200]

    web.routes["/tiny.gguf"] = whole
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert web.requests[-1].headers["range"] == "bytes=200-"


def test_terms_are_shown_and_without_a_yes_nothing_is_pulled(
    models_dir: Path, capsys: Capture
) -> None:
    assert run(["pull", "gemma3:270m"]) == 2

    said = capsys.readouterr().err
    assert "https://ai.google.dev/gemma/terms" in said
    assert "--accept-licence" in said
    assert not list(models_dir.rglob("*.part"))


def test_at_a_terminal_the_terms_are_asked_about(models_dir: Path) -> None:
    ours, theirs = pty.openpty()
    command = [HYPRSTREAM, "pull", "gemma3:270m"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while b"[y/N]" not in said:
            said += os.read(ours, 1024)
        os.write(ours, b"n\n")
        assert process.wait(30) == 2
    os.close(ours)

    assert b"https://ai.google.dev/gemma/terms" in said
    assert not list(models_dir.rglob("*.part"))


def test_at_a_terminal_a_bar_is_drawn_and_taken_away(tiny: Path, models_dir: Path) -> None:
    ours, theirs = pty.openpty()
    command = [HYPRSTREAM, "pull", str(tiny)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while b"stored tiny" not in said:
            said += os.read(ours, 1024)
        assert process.wait(30) == 0
    os.close(ours)

    assert "━".encode() in said
    assert (models_dir / "tiny" / "worktrees" / "main" / "model.gguf").read_bytes() == TINY


def test_somebody_at_a_terminal_chooses_by_number(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("9\n2\n"))
    choices = [Choice("tiny-Q4_0.gguf", 98_400_000), Choice("tiny-Q8_0.gguf", 144_000_000)]

    chosen = TerminalAnswers(accept_licence=False, is_asked=True).choose(choices)

    assert chosen == choices[1]
    assert "1  tiny-Q4_0.gguf  98.4 MB" in capsys.readouterr().err


def test_an_empty_store_says_how_to_fill_it(capsys: Capture) -> None:
    assert run(["list"]) == 0
    output = capsys.readouterr()
    assert output.out == ""
    assert "hyprstream pull smollm2" in output.err

    assert run(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_stored_models_are_listed_for_people_and_for_scripts(tiny: Path, capsys: Capture) -> None:
    assert run(["pull", str(tiny), "--name", "mine:v1"]) == 0
    capsys.readouterr()

    assert run(["list"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["NAME:REF", "UUID", "COMMIT"]
    assert line.split()[0] == "mine:v1"
    assert {"clean", "Q4_0", str(tiny)} <= set(line.split())

    assert run(["list", "--json"]) == 0
    (model,) = json.loads(capsys.readouterr().out)
    assert (model["name"], model["sha256"], model["source"]) == ("mine:v1", SHA256, str(tiny))
    assert model["facts"]["has_chat_template"] is True


def test_a_model_is_shown_by_name_and_by_path(tiny: Path, capsys: Capture) -> None:
    assert run(["pull", str(tiny)]) == 0
    capsys.readouterr()

    for ref in ("tiny", str(tiny)):
        assert run(["show", ref]) == 0
        output = capsys.readouterr().out
        assert SHA256 in output and "--template" in output

        assert run(["show", ref, "--template"]) == 0
        assert capsys.readouterr().out == "{{ messages }}"

        assert run(["show", ref, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["facts"]["chat_template"] == "{{ messages }}"


def test_a_template_that_is_not_there_is_not_printed(tmp_path: Path, capsys: Capture) -> None:
    metadata = [(key, value) for key, value in METADATA if not key.endswith("chat_template")]
    (tmp_path / "base.gguf").write_bytes(write(metadata, TENSORS).data)

    assert run(["show", str(tmp_path / "base.gguf"), "--template"]) == 3
    assert "has no chat template" in capsys.readouterr().err


def test_removing_needs_a_yes(tiny: Path, models_dir: Path, capsys: Capture) -> None:
    assert run(["pull", str(tiny)]) == 0

    assert run(["rm", "tiny"]) == 2
    assert "hyprstream rm tiny --yes" in capsys.readouterr().err
    assert (models_dir / "tiny").exists()

    assert run(["rm", "tiny", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": "tiny"}
    assert not (models_dir / "tiny").exists()

    assert run(["rm", "tiny", "-y"]) == 3


def test_the_default_model_is_what_its_alias_promises(
    smollm2_path: Path,
    smollm2_models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.setenv("HYPRSTREAM_MODELS_DIR", str(smollm2_models_dir))

    assert run(["show", "smollm2", "--json"]) == 0

    model = json.loads(capsys.readouterr().out)
    assert model["sha256"] == sha256_of(smollm2_path)
    assert model["sha256"] == ALIASES[ModelRef("smollm2")].sha256
    assert (model["facts"]["architecture"], model["facts"]["quantization"]) == ("llama", "Q4_1")
    assert model["facts"]["has_chat_template"] is True
