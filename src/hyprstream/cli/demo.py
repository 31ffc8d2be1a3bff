"""`hyprstream demo`: the whole way in one command, by the commands a person would type. Knows processes and words only."""

import asyncio
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import answers, console, first_run, options
from hyprstream.cli.chat import Conversation, converse
from hyprstream.core.chat import ChatRequest, Message
from hyprstream.core.errors import BackendError, Unavailable
from hyprstream.core.generation import GenerationParams, SamplingParams
from hyprstream.core.refs import ModelRef

if TYPE_CHECKING:
    from hyprstream.settings import ServerSettings

QUESTION = "What is the capital of France? Answer in one sentence."
HYPRSTREAM = (sys.executable, "-m", "hyprstream.cli.main")
LAST_WORDS_SECONDS = 30.0
"""How long the server has to end after it was told to."""


def demo(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL]", autocompletion=options.complete_model)
    ] = None,
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="What to ask.")] = QUESTION,
) -> None:
    """Fetch a model, serve it, ask it one question, then talk.

    Example: hyprstream demo smollm2 --prompt "Why is the sky blue?"
    """
    from hyprstream.settings import load

    settings = load().settings
    key = settings.server.api_key.get_secret_value() if settings.server.api_key else None
    ref = ModelRef.parse(model or settings.models.default)
    # The likeliest answer: a first impression should not be left to chance.
    params = GenerationParams(SamplingParams(temperature=0), max_tokens=settings.engine.n_ctx // 4)
    first_run.allow_local_users(settings)
    _pull(ref)
    with _ended_by_signals(), _server(settings.server, ref) as url:
        console.say(f"\n> {prompt}\n")
        asyncio.run(_ask(url, key, ChatRequest(ref, (Message("user", prompt),), params)))
        if sys.stdin.isatty() and sys.stdout.isatty():
            console.say(f"\n$ hyprstream chat {ref} --url {url}")
            converse(Conversation(ref, GenerationParams()), lambda: answers.remote(url, key))


def _pull(ref: ModelRef) -> None:
    console.say(f"$ hyprstream pull {ref}")
    if code := subprocess.run([*HYPRSTREAM, "pull", str(ref)], check=False).returncode:
        raise typer.Exit(code)


@contextmanager
def _server(server: "ServerSettings", ref: ModelRef) -> Generator[str]:
    """A running server; its URL. Leaving the block ends it.

    Raises:
        Unavailable: it does not start; its own words are on the terminal.
        BackendError: it did not end as it should.
    """
    port = server.port
    if port and not _is_free(server.host, port):
        console.say(f"port {port} is taken: the server gets a free one")
        port = 0
    command = ["server", "--model", str(ref), "--port", str(port)]
    console.say(f"$ hyprstream {shlex.join(command)}")
    # Ctrl-C belongs to whoever talks with the user: a group of its own keeps it from the server.
    process = subprocess.Popen(
        [*HYPRSTREAM, *command, "--log-level", "warning"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield _url(process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LAST_WORDS_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.returncode:
        raise BackendError(f"the server ended with {process.returncode}")


def _url(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None, "its output is a pipe"
    line = process.stdout.readline()
    if not line:
        raise Unavailable("the server did not start")
    console.say(line.rstrip())
    return line.split()[-1]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


async def _ask(url: str, key: str | None, request: ChatRequest) -> None:
    from hyprstream.cli.infer import collect

    async with AsyncExitStack() as stack:
        with console.busy("the model thinks"):
            ask = await stack.enter_async_context(answers.remote(url, key))
            events = await stack.enter_async_context(ask(request))
        await collect(events, is_shown=True)


@contextmanager
def _ended_by_signals() -> Generator[None]:
    """SIGTERM and SIGHUP unwind the stack, so that no server stays behind."""

    def leave(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
