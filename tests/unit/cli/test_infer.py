"""One prompt, one answer: what goes where, and with which code."""

import json
import sys
from pathlib import Path

import pytest

from hyprstream.cli.infer import tokens_per_second
from hyprstream.cli.options import prompt_or_stdin, resolve
from hyprstream.core.errors import BackendError, Invalid, QueueFull, Unauthenticated
from hyprstream.core.generation import SamplingParams, Timings, Usage
from support.command_line import Command, Serve
from support.fake_engine import FakeEngine


def test_the_answer_is_all_of_standard_output(hyprstream: Command, serve_with: Serve) -> None:
    engine = serve_with(FakeEngine("Hel", "lo"))
    outcome = hyprstream("infer", "fake", "-p", "Hi there", "--system", "Be kind.")
    assert (outcome.code, outcome.out, outcome.err) == (0, "Hello\n", "")
    assert engine.jobs[0].prompts[0] == "system: Be kind.\nuser: Hi there\n"


def test_a_pipe_is_the_prompt(hyprstream: Command, serve_with: Serve) -> None:
    engine = serve_with(FakeEngine("ok"))
    assert hyprstream("infer", "fake", stdin="Grüße\nan alle").out == "ok\n"
    assert engine.jobs[0].prompts[0] == "user: Grüße\nan alle\n"


def test_every_sampling_flag_reaches_the_engine(hyprstream: Command, serve_with: Serve) -> None:
    engine = serve_with(FakeEngine("ok"))
    flags = "-t 0.5 --top-k 3 --top-p 0.6 --min-p 0.1 -r 1.2 --seed 7 -m 9 --stop a --stop b"
    assert hyprstream("infer", "fake", "-p", "x", *flags.split()).code == 0
    params = engine.jobs[0].params
    assert params.sampling == SamplingParams(
        temperature=0.5, top_k=3, top_p=0.6, min_p=0.1, repeat_penalty=1.2, seed=7
    )
    assert (params.max_tokens, params.stop) == (9, ("a", "b"))


def test_json_is_one_object_and_nothing_else(hyprstream: Command, serve_with: Serve) -> None:
    serve_with(FakeEngine("Hel", "lö", "!"))
    outcome = hyprstream("infer", "fake", "-p", "x", "-m", "2", "--json")
    assert json.loads(outcome.out) == {
        "text": "Hellö",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 7, "completion_tokens": 2, "cached_tokens": 2},
        "timings": {"queued_ms": 1.0, "prompt_ms": 10.0, "predicted_ms": 20.0},
    }


def test_statistics_go_to_standard_error(hyprstream: Command, serve_with: Serve) -> None:
    serve_with(FakeEngine("a", "b", "c"))
    outcome = hyprstream("infer", "fake", "-p", "x", "--stats")
    assert outcome.out == "abc\n"
    assert outcome.err == (
        "prompt: 7 tokens (2 cached) in 0.01 s; answer: 3 tokens in 0.02 s, 100.0 tokens/s\n"
    )


def test_the_first_token_is_not_counted_in_the_speed() -> None:
    assert tokens_per_second(Usage(1, 11), Timings(predicted_ms=1000)) == 10
    assert tokens_per_second(Usage(1, 1), Timings(predicted_ms=0)) == 0


@pytest.mark.parametrize("prompt", ["", " \n"])
def test_an_empty_prompt_is_refused(prompt: str, hyprstream: Command) -> None:
    assert hyprstream("infer", "fake", "-p", prompt).code == 2
    assert hyprstream("infer", "fake", stdin=prompt).code == 2


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda _self: True})())
    with pytest.raises(Invalid, match="no prompt"):
        prompt_or_stdin(None)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (QueueFull(waiting=4, limit=4), 5),
        (Unauthenticated("who are you?"), 4),
        (BackendError("llama_decode returned -3"), 1),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: Exception, code: int, hyprstream: Command, serve_with: Serve
) -> None:
    serve_with(FakeEngine(refuses=error))
    outcome = hyprstream("infer", "fake", "-p", "x")
    assert (outcome.code, outcome.out) == (code, "")
    assert outcome.err.splitlines()[0] == f"error: {error}"


def test_what_was_said_before_a_failure_is_shown(hyprstream: Command, serve_with: Serve) -> None:
    serve_with(FakeEngine("Hel", fails=BackendError("it broke")))
    outcome = hyprstream("infer", "fake", "-p", "x")
    assert (outcome.code, outcome.out) == (1, "Hel")


def test_a_path_that_is_not_there_is_three(hyprstream: Command, tmp_path: Path) -> None:
    outcome = hyprstream("infer", str(tmp_path / "x.gguf"), "-p", "x")
    assert outcome.code == 3
    assert str(tmp_path / "x.gguf") in outcome.err


def test_a_path_names_the_file_it_points_at(tmp_path: Path) -> None:
    path = tmp_path / "My Model.Q4_0.gguf"
    path.touch()
    ref, files = resolve(str(path))
    assert (str(ref), files) == ("my-model.q4_0", [path])
    assert resolve("gemma3:270m")[1] == []
