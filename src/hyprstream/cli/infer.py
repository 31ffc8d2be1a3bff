"""`hyprstream infer`: one prompt, one answer. Knows how an answer is printed; knows nothing of how it is made."""

import asyncio
import json
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from hyprstream.cli import answers, console, options
from hyprstream.cli.options import SAMPLING
from hyprstream.core.chat import ChatRequest, ChatStream, ChoiceFinished, ContentDelta, Message
from hyprstream.core.generation import Timings, Usage


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer and what it took."""

    text: str
    finish_reason: str
    usage: Usage
    timings: Timings


def infer(
    model: options.Model,
    prompt: options.Prompt = None,
    system: options.System = None,
    max_tokens: options.MaxTokens = None,
    temperature: options.Temperature = SAMPLING.temperature,
    top_k: options.TopK = SAMPLING.top_k,
    top_p: options.TopP = SAMPLING.top_p,
    min_p: options.MinP = SAMPLING.min_p,
    repeat_penalty: options.RepeatPenalty = SAMPLING.repeat_penalty,
    seed: options.Seed = None,
    stop: options.Stop = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print text, finish_reason, usage and timings as JSON.")
    ] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Say how long it took.")] = False,
) -> None:
    """Answer one prompt and print the answer.

    Example: hyprstream infer smollm2 -p "Why is the sky blue?" --max-tokens 80
    """
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
    ref, files = options.resolve(model)
    instructions = (Message("system", system),) if system else ()
    question = Message("user", options.prompt_or_stdin(prompt))
    request = ChatRequest(ref, (*instructions, question), params)
    answer = asyncio.run(_answer(request, files, is_shown=not as_json))
    if as_json:
        console.show(json.dumps(asdict(answer), ensure_ascii=False))
    if stats:
        console.say(describe(answer.usage, answer.timings))


async def _answer(request: ChatRequest, files: list[Path], *, is_shown: bool) -> Answer:
    from hyprstream.settings import load

    async with AsyncExitStack() as stack:
        with console.busy(f"loading {request.model}"):
            ask = await stack.enter_async_context(
                answers.local(load().settings, request.model, files)
            )
            events = await stack.enter_async_context(ask(request))
        return await collect(events, is_shown=is_shown)


async def collect(events: ChatStream, *, is_shown: bool) -> Answer:
    """Read an answer to its end, showing the text as it comes."""
    parts: list[str] = []
    finished: ChoiceFinished | None = None
    async for event in events:
        match event:
            case ContentDelta(text=text):
                parts.append(text)
                if is_shown:
                    console.show(text, end="")
            case ChoiceFinished():
                finished = event
            case _:
                pass
    assert finished is not None, "a stream that ends without an error has finished its choice"
    if is_shown:
        console.show("")
    return Answer("".join(parts), finished.reason, finished.usage, finished.timings)


def describe(usage: Usage, timings: Timings) -> str:
    """Tokens, seconds and speeds in one line."""
    return (
        f"prompt: {usage.prompt_tokens} tokens ({usage.cached_tokens} cached) in {timings.prompt_ms / 1000:.2f} s; "
        f"answer: {usage.completion_tokens} tokens in {timings.predicted_ms / 1000:.2f} s, "
        f"{tokens_per_second(usage, timings):.1f} tokens/s"
    )


def tokens_per_second(usage: Usage, timings: Timings) -> float:
    """Speed of the answer after its first token, which belongs to the prompt; 0 if there is no second one."""
    seconds = timings.predicted_ms / 1000
    return max(0, usage.completion_tokens - 1) / seconds if seconds > 0 else 0.0
