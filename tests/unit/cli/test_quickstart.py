"""The first thing a new user runs."""

from pathlib import Path

from support.command_line import Command, Serve
from support.fake_engine import FakeEngine


def test_it_shows_model_prompt_text_and_the_speed_of_the_real_tokens(
    hyprstream: Command, serve_with: Serve
) -> None:
    engine = serve_with(FakeEngine(" a", " robot", "."))
    outcome = hyprstream("quick-start", "fake")
    assert outcome.code == 0
    assert outcome.out == (
        "model   fake\nprompt  Hello, I am\n\nHello, I am a robot.\n\n3 tokens in 0.03 s, 100.0 tokens/s\n"
    )
    assert engine.jobs[0].prompts[0] == "Hello, I am"
    assert engine.jobs[0].params.max_tokens == 50


def test_without_a_model_it_takes_the_default_one(hyprstream: Command, serve_with: Serve) -> None:
    serve_with(FakeEngine("x"))
    outcome = hyprstream("quick-start", "--prompt", "1, 2,", "--max-tokens", "3")
    assert outcome.out.startswith("model   smollm2\nprompt  1, 2,\n")
    assert outcome.code == 3, "the fake store does not have it"


def test_a_file_that_is_not_there_is_three(hyprstream: Command, tmp_path: Path) -> None:
    outcome = hyprstream("quick-start", "--model-path", str(tmp_path / "x.gguf"))
    assert outcome.code == 3
