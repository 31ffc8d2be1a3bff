"""`hyprstream quick-start`: does it run here, and how fast? Knows one raw continuation; knows no chat."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer

from hyprstream.cli import console, first_run, options
from hyprstream.cli.infer import Answer, collect, tokens_per_second
from hyprstream.cli.options import SAMPLING
from hyprstream.core.chat import CompletionRequest
from hyprstream.core.principal import os_principal


def quick_start(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A stored model; without it, the default one.",
            autocompletion=options.complete_model,
        ),
    ] = None,
    model_path: Annotated[
        Path | None, typer.Option("--model-path", metavar="FILE", help="A GGUF file instead.")
    ] = None,
    prompt: Annotated[
        str, typer.Option("--prompt", "-p", help="Text to continue.")
    ] = "Hello, I am",
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-m", min=1)] = 50,
    temperature: options.Temperature = SAMPLING.temperature,
    seed: options.Seed = None,
) -> None:
    """Load a model, continue a prompt, show the speed.

    Example: hyprstream quick-start smollm2 --prompt "Hello, I am" --max-tokens 50
    """
    from hyprstream.settings import load

    settings = load().settings
    first_run.allow_local_users(settings)
    ref, files = options.resolve(
        str(model_path) if model_path else model or settings.models.default
    )
    params = options.generation_params(temperature=temperature, seed=seed, max_tokens=max_tokens)

    async def answer() -> Answer:
        from hyprstream.bootstrap import open_services

        async with AsyncExitStack() as stack:
            with console.busy(f"loading {ref}"):
                services = await stack.enter_async_context(open_services(settings, extra=files))
                request = CompletionRequest(ref, (prompt,), params)
                stream = services.chat.complete(os_principal(), request)
                events = await stack.enter_async_context(stream)
            console.show(prompt, end="")
            return await collect(events, is_shown=True)

    console.show(f"model   {model_path or ref}")
    console.show(f"prompt  {prompt}\n")
    done = asyncio.run(answer())
    seconds = (done.timings.prompt_ms + done.timings.predicted_ms) / 1000
    console.show(
        f"\n{done.usage.completion_tokens} tokens in {seconds:.2f} s, "
        f"{tokens_per_second(done.usage, done.timings):.1f} tokens/s"
    )
