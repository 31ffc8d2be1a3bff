"""`hyprstream chat`: a conversation in the terminal. Knows lines, commands and history; knows no model's insides."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import answers, console, options
from hyprstream.cli.answers import Ask
from hyprstream.cli.options import SAMPLING
from hyprstream.core.chat import ChatRequest, ContentDelta, Message
from hyprstream.core.errors import HyprstreamError, Invalid
from hyprstream.core.generation import GenerationParams
from hyprstream.core.refs import ModelRef
from hyprstream.engine.sampling import check_params

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from hyprstream.settings import Settings

QUOTES = '"""'
LEAVE = frozenset({"/bye", "/exit", "/quit"})
HELP = """\
/system TEXT      set the instructions; /system alone removes them
/set NAME VALUE   temperature, top_k, top_p, min_p, repeat_penalty, seed, max_tokens
/clear            forget the conversation
/save FILE        write the conversation as Markdown
/bye              leave; so does Ctrl-D
Ctrl-C stops an answer. Alt-Enter starts a new line; \"\"\" begins and ends a text of several lines."""

SETTABLE: dict[str, Callable[[str], float]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repeat_penalty": float,
    "seed": int,
    "max_tokens": int,
}
"""What `/set` takes, and how its value is read."""


def chat(
    model: options.Model,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = SAMPLING.temperature,
    top_k: options.TopK = SAMPLING.top_k,
    top_p: options.TopP = SAMPLING.top_p,
    min_p: options.MinP = SAMPLING.min_p,
    repeat_penalty: options.RepeatPenalty = SAMPLING.repeat_penalty,
    seed: options.Seed = None,
    stop: options.Stop = None,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Ask this server instead of loading the model."),
    ] = None,
) -> None:
    """Talk with a model in the terminal; /help lists the commands.

    Example: hyprstream chat smollm2 --system "Answer in one sentence."
    """
    from hyprstream.settings import load

    params = options.generation_params(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        seed=seed,
        max_tokens=max_tokens,
        stop=stop,
    )
    settings = load().settings
    if url is not None:
        converse(Conversation(ModelRef.parse(model), params, system), _server(settings, url))
    else:
        ref, files = options.resolve(model)
        converse(Conversation(ref, params, system), lambda: answers.local(settings, ref, files))


@dataclass(slots=True)
class Conversation:
    """What has been said, and how to go on. Owned by the one loop that talks."""

    model: ModelRef
    params: GenerationParams
    system: str | None = None
    turns: list[Message] = field(default_factory=list[Message])

    def request(self) -> ChatRequest:
        """The conversation so far, to be continued."""
        instructions = [Message("system", self.system)] if self.system else []
        return ChatRequest(self.model, (*instructions, *self.turns), self.params)

    def set(self, name: str, value: str) -> None:
        """Change one parameter.

        Raises:
            Invalid: no such parameter, not a number, or out of its range.
        """
        if name not in SETTABLE:
            raise Invalid(f"no parameter {name!r}", param=name, hint=", ".join(SETTABLE))
        try:
            number = SETTABLE[name](value)
        except ValueError:
            raise Invalid(f"{name} is a number, not {value!r}", param=name) from None
        if name == "max_tokens":
            params = replace(self.params, max_tokens=int(number))
        else:
            sampling = replace(self.params.sampling, **{name: number})
            params = replace(self.params, sampling=sampling)
        check_params(params)
        self.params = params

    def save(self, path: Path) -> None:
        """Write what has been said as Markdown."""
        said = [f"**{turn.role}**\n\n{turn.content}\n" for turn in self.request().messages]
        path.expanduser().write_text("\n".join(said), encoding="utf-8")


def converse(conversation: Conversation, open_ask: "answers.OpenAsk") -> None:
    """Read, answer, repeat, until the input ends or `/bye`.

    The runner lives as long as the conversation, and runs only while an answer is being made: so Ctrl-C during an answer
    ends the answer, and the prompt stays an ordinary blocking one.
    """
    is_interactive = _is_interactive()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        with console.busy("loading the model"):
            ask = runner.run(stack.enter_async_context(open_ask()))
        try:
            for text in _typed() if is_interactive else _piped():
                if text in LEAVE:
                    break
                try:
                    _step(conversation, text, ask, runner)
                except HyprstreamError as error:
                    if not is_interactive:
                        raise
                    console.report(error.message, error.hint)
                except KeyboardInterrupt:
                    if not is_interactive:
                        raise
                    console.show("")
        finally:
            runner.run(stack.aclose())


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _step(conversation: Conversation, text: str, ask: Ask, runner: asyncio.Runner) -> None:
    command, _, argument = text.partition(" ")
    match command:
        case "/help":
            console.show(HELP)
        case "/clear":
            conversation.turns.clear()
        case "/system":
            conversation.system = argument.strip() or None
        case "/set":
            name, _, value = argument.strip().partition(" ")
            conversation.set(name, value.strip())
        case "/save":
            _save(conversation, argument.strip())
        case _ if command.startswith("/") and command[1:].isalpha():
            raise Invalid(f"no command {command}", hint="/help")
        case _:
            runner.run(_answer(conversation, text, ask))


def _save(conversation: Conversation, path: str) -> None:
    if not path:
        raise Invalid("/save needs a file name", hint="/save talk.md")
    try:
        conversation.save(Path(path))
    except OSError as error:
        raise Invalid(f"cannot write {path}: {error.strerror}") from None


async def _answer(conversation: Conversation, text: str, ask: Ask) -> None:
    parts: list[str] = []
    conversation.turns.append(Message("user", text))
    try:
        async with ask(conversation.request()) as events:
            async for event in events:
                if isinstance(event, ContentDelta):
                    parts.append(event.text)
                    console.show(event.text, end="")
        console.show("")
    finally:
        # A stopped answer was still said. Without a word of it, the question was not asked either.
        if parts:
            conversation.turns.append(Message("assistant", "".join(parts)))
        else:
            conversation.turns.pop()


def _piped() -> Iterator[str]:
    """Messages from standard input, one a line; `\"\"\"` begins and ends one of several lines."""
    lines = options.stdin_lines()
    for line in lines:
        text = line.strip()
        if text.startswith(QUOTES):
            while not _is_closed(text):
                more = next(lines, "")
                if not more:
                    break
                text += "\n" + more.rstrip("\n")
        if said := _unquoted(text):
            yield said


def _typed() -> Iterator[str]:
    """Messages from the keyboard, with history and editing."""
    session = _prompt_session()
    console.say("/help lists the commands, Ctrl-D leaves")
    while True:
        try:
            text = session.prompt(">>> ")
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if said := _unquoted(text.strip()):
            yield said


def _prompt_session() -> "PromptSession[str]":
    import platformdirs
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory

    history = platformdirs.user_state_path("hyprstream") / "chat_history"
    history.parent.mkdir(parents=True, exist_ok=True)
    # What one says to a model is nobody else's business.
    os.close(os.open(history, os.O_CREAT | os.O_APPEND, 0o600))
    return PromptSession(
        history=FileHistory(history),
        multiline=True,
        key_bindings=_key_bindings(),
        prompt_continuation="... ",
    )


def _key_bindings() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: "KeyPressEvent") -> None:
        buffer = event.current_buffer
        if _is_closed(buffer.text.strip()):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    @bindings.add("escape", "enter")
    def _(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    return bindings


def _is_closed(text: str) -> bool:
    return not text.startswith(QUOTES) or (
        len(text) >= 2 * len(QUOTES) and text.rstrip().endswith(QUOTES)
    )


def _unquoted(text: str) -> str:
    return (
        text.removeprefix(QUOTES).removesuffix(QUOTES).strip() if text.startswith(QUOTES) else text
    )


def _server(settings: "Settings", url: str) -> "answers.OpenAsk":
    key = settings.server.api_key
    return lambda: answers.remote(url, key.get_secret_value() if key else None)
