"""A conversation in the terminal, typed or piped."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from hyprstream.cli import chat, console
from hyprstream.cli.answers import Ask
from hyprstream.cli.chat import Conversation
from hyprstream.core.chat import ChatRequest, ChatStream, Message
from hyprstream.core.errors import BackendError, Invalid
from hyprstream.core.generation import GenerationParams
from hyprstream.core.principal import Principal
from hyprstream.core.refs import ModelRef
from support.command_line import Command, Serve
from support.fake_engine import FakeEngine
from support.front_door import services_around

ENTER, ALT_ENTER, CTRL_C, CTRL_D = "\r", "\x1b\r", "\x03", "\x04"


def test_each_line_is_a_turn_and_the_model_is_told_what_was_said(
    hyprstream: Command, serve_with: Serve
) -> None:
    engine = serve_with(FakeEngine("Hi", "!"))
    outcome = hyprstream("chat", "fake", "--system", "Be kind.", stdin="Hello\n\nBye\n")
    assert (outcome.code, outcome.out, outcome.err) == (0, "Hi!\nHi!\n", "")
    assert engine.jobs[1].prompts[0] == "system: Be kind.\nuser: Hello\nassistant: Hi!\nuser: Bye\n"


def test_a_pipe_that_is_not_utf8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"Hello\n\xff\n"), encoding="utf-8"))
    with pytest.raises(Invalid, match="not UTF-8"):
        list(chat._piped())


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", "0"), ("temperature", "nan"), ("top_p", "2")]
)
def test_a_parameter_out_of_its_range_is_refused_and_the_old_one_stays(
    name: str, value: str
) -> None:
    conversation = Conversation(ModelRef("fake"), GenerationParams())
    with pytest.raises(Invalid):
        conversation.set(name, value)
    assert conversation.params == GenerationParams()


@pytest.mark.parametrize("word", ["/bye", "/exit", "/quit"])
def test_any_word_of_leaving_leaves(hyprstream: Command, serve_with: Serve, word: str) -> None:
    engine = serve_with(FakeEngine("ok"))
    assert hyprstream("chat", "fake", stdin=f"{word}\nHello\n").code == 0
    assert engine.jobs == []


def test_quotes_hold_several_lines_together(hyprstream: Command, serve_with: Serve) -> None:
    engine = serve_with(FakeEngine("ok"))
    hyprstream("chat", "fake", stdin='"""one\ntwo\n"""\n"""three"""\n"""unfinished')
    prompts = [str(job.prompts[0]).rsplit("user: ", 1)[1] for job in engine.jobs]
    assert prompts == ["one\ntwo\n", "three\n", "unfinished\n"]


def test_commands_change_what_is_asked(hyprstream: Command, serve_with: Serve) -> None:
    engine = serve_with(FakeEngine("ok"))
    lines = ["/set temperature 0.3", "/set max_tokens 5", "/system Be brief.", "first", "/clear"]
    hyprstream("chat", "fake", stdin="\n".join([*lines, "/system", "second", "/bye", "third"]))
    first, second = engine.jobs
    assert first.prompts[0] == "system: Be brief.\nuser: first\n"
    assert (first.params.sampling.temperature, first.params.max_tokens) == (0.3, 5)
    assert second.prompts[0] == "user: second\n"


@pytest.mark.parametrize(
    "line", ["/nope", "/set", "/set colour red", "/set seed one", "/save", "/save /nowhere/x.md"]
)
def test_a_piped_command_that_makes_no_sense_ends_with_two(
    line: str, hyprstream: Command, serve_with: Serve
) -> None:
    serve_with(FakeEngine("ok"))
    outcome = hyprstream("chat", "fake", stdin=f"{line}\nHello\n")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")


def test_a_path_is_not_taken_for_a_command(hyprstream: Command, serve_with: Serve) -> None:
    engine = serve_with(FakeEngine("ok"))
    assert hyprstream("chat", "fake", stdin="/etc/hosts: what is it?\n").out == "ok\n"
    assert len(engine.jobs) == 1


def test_a_conversation_can_be_saved(
    hyprstream: Command, serve_with: Serve, tmp_path: Path
) -> None:
    serve_with(FakeEngine("Hi!"))
    path = tmp_path / "talk.md"
    hyprstream("chat", "fake", stdin=f"Hello\n/save {path}\n")
    assert path.read_text() == "**user**\n\nHello\n\n**assistant**\n\nHi!\n"


def test_a_question_without_an_answer_is_forgotten() -> None:
    conversation = Conversation(ModelRef("fake"), GenerationParams())
    with pytest.raises(BackendError):
        asyncio.run(
            chat._answer(conversation, "Hello", _ask(FakeEngine(refuses=BackendError("x"))))
        )
    assert conversation.turns == []


def _ask(engine: FakeEngine) -> Ask:
    @asynccontextmanager
    async def ask(request: ChatRequest) -> AsyncGenerator[ChatStream]:
        services = services_around(engine)
        async with services.chat.chat(Principal("local:test"), request) as events:
            yield events

    return ask


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (f"Hello{ENTER}", ["Hello"]),
        (f"one{ALT_ENTER}two{ENTER}", ["one\ntwo"]),
        (f'"""one{ENTER}two"""{ENTER}', ["one\ntwo"]),
        (f"gone{CTRL_C}kept{ENTER}", ["kept"]),
        (f"{ENTER}  {ENTER}", []),
    ],
)
def test_keys_make_messages_until_control_d(keys: str, said: list[str], home: Path) -> None:
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(keys + CTRL_D)
        assert list(chat._typed()) == said
    history = home / ".local" / "state" / "hyprstream" / "chat_history"
    assert history.stat().st_mode & 0o077 == 0


def test_control_c_stops_the_answer_and_not_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    conversation = Conversation(ModelRef("fake"), GenerationParams())
    stopped, answering = FakeEngine("Once ", "upon", stalls_at=1), FakeEngine("Hi!")
    engines = iter([stopped, answering])

    @asynccontextmanager
    async def ask(request: ChatRequest) -> AsyncGenerator[ChatStream]:
        async with _ask(next(engines))(request) as events:
            yield events

    @asynccontextmanager
    async def open_ask() -> AsyncGenerator[Ask]:
        yield ask

    show = console.show

    def show_and_interrupt(text: str, *, end: str = "\n") -> None:
        show(text, end=end)
        if text == "Once ":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(console, "show", show_and_interrupt)
    monkeypatch.setattr(chat, "_is_interactive", lambda: True)
    monkeypatch.setattr(chat, "_typed", lambda: iter(["Tell me a story", "Hello"]))
    chat.converse(conversation, open_ask)
    assert capsys.readouterr().out == "Once \nHi!\n"
    assert stopped.left.is_set()
    assert [turn.content for turn in conversation.turns] == [
        "Tell me a story",
        "Once ",
        "Hello",
        "Hi!",
    ]


def test_a_parameter_must_be_known_and_a_number() -> None:
    conversation = Conversation(ModelRef("fake"), GenerationParams())
    conversation.set("top_k", "7")
    assert conversation.request() == ChatRequest(ModelRef("fake"), (), conversation.params)
    assert conversation.params.sampling.top_k == 7
    with pytest.raises(Invalid, match="no parameter 'colour'") as refusal:
        conversation.set("colour", "1")
    assert refusal.value.hint is not None and "temperature" in refusal.value.hint


def test_instructions_come_first() -> None:
    turns = [Message("user", "Hello")]
    conversation = Conversation(ModelRef("fake"), GenerationParams(), "Be kind.", turns)
    assert [message.role for message in conversation.request().messages] == ["system", "user"]
