"""Arguments that several commands share, and what they become. Knows Typer and core values; knows no engine."""

import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.core.errors import HyprstreamError, Invalid, NotFound
from hyprstream.core.generation import GenerationParams, SamplingParams
from hyprstream.core.refs import ModelRef

if TYPE_CHECKING:
    from hyprstream.services.registry import RegistryTools

SAMPLING = SamplingParams()


def complete_model(incomplete: str) -> Iterable[str]:
    """Names of stored models, for the shell. An error must not reach the user's prompt: then there are no names."""
    # Not by way of bootstrap, which loads llama.cpp: the shell waits for this.
    from hyprstream.registry.registry import Registry
    from hyprstream.settings import load

    try:
        names = [str(model.ref) for model in Registry(load().settings.models.dir).list()]
    except (HyprstreamError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="name, name:ref, or the path of a .gguf file.",
        autocompletion=complete_model,
    ),
]
Name = Annotated[
    str, typer.Argument(metavar="MODEL", help="name or UUID", autocompletion=complete_model)
]
Ref = Annotated[
    str,
    typer.Argument(
        metavar="MODEL[:REF]",
        help="name, name:branch, name:tag, name:commit, a UUID, or name@sha256:DIGEST.",
        autocompletion=complete_model,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", "-p", metavar="TEXT", help="What to ask; without it, standard input."),
]
System = Annotated[
    str | None,
    typer.Option("--system", metavar="TEXT", help="Instructions before the conversation."),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "-m", min=1, help="Most tokens of an answer; else what fits."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        "--stop", metavar="TEXT", help="End the answer before this text; may be repeated."
    ),
]
Temperature = Annotated[
    float, typer.Option("--temperature", "-t", min=0, help="0 always takes the likeliest token.")
]
TopK = Annotated[int, typer.Option("--top-k", help="Choose among this many tokens; 0 for all.")]
TopP = Annotated[
    float, typer.Option("--top-p", min=0, max=1, help="Choose within this probability mass.")
]
MinP = Annotated[
    float,
    typer.Option("--min-p", min=0, max=1, help="Least probability relative to the best token."),
]
RepeatPenalty = Annotated[
    float, typer.Option("--repeat-penalty", "-r", help="Above 1 avoids repetition; 1 is off.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Same seed, same prompt, same answer.")
]


def generation_params(
    *,
    temperature: float = SAMPLING.temperature,
    top_k: int = SAMPLING.top_k,
    top_p: float = SAMPLING.top_p,
    min_p: float = SAMPLING.min_p,
    repeat_penalty: float = SAMPLING.repeat_penalty,
    seed: int | None = None,
    max_tokens: int | None = None,
    stop: list[str] | None = None,
) -> GenerationParams:
    """What the sampling options ask for."""
    sampling = SamplingParams(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repeat_penalty=repeat_penalty,
        seed=seed,
    )
    return GenerationParams(sampling, max_tokens=max_tokens, stop=tuple(stop or ()))


def prompt_or_stdin(prompt: str | None) -> str:
    """The prompt given, or all of standard input.

    Raises:
        Invalid: there is neither, or it is not UTF-8.
    """
    text = prompt if prompt is not None else _stdin()
    if not text.strip():
        raise Invalid("the prompt is empty", param="prompt", hint='-p "Why is the sky blue?"')
    return text


def resolve(model: str) -> tuple[ModelRef, list[Path]]:
    """What MODEL names: a reference, and the file to serve under it if MODEL is a path.

    Raises:
        Invalid: neither a reference nor a path.
        NotFound: no such file.
    """
    from hyprstream.registry.sources.base import ref_for_file

    path = as_path(model)
    if path is None:
        return ModelRef.parse(model), []
    if not path.is_file():
        raise NotFound(
            f"no file {path}", kind="file", hint="hyprstream list names the stored models"
        )
    return ref_for_file(path.name), [path]


def as_path(model: str) -> Path | None:
    """The path MODEL is; None where it is a reference. A branch may hold `/`, a model's name may not."""
    is_path = model.endswith(".gguf") or "/" in model.partition(":")[0]
    return Path(model).expanduser() if is_path else None


def _stdin() -> str:
    if sys.stdin.isatty():
        raise Invalid("no prompt", param="prompt", hint='-p "Why is the sky blue?", or a pipe')
    return "".join(stdin_lines())


def stdin_lines() -> Iterator[str]:
    """Standard input, line by line.

    Raises:
        Invalid: it is not UTF-8.
    """
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise Invalid(f"standard input is not UTF-8: {error}", param="prompt") from None


@contextmanager
def open_tools() -> Generator["RegistryTools"]:
    """The use cases about stored models, with this user's settings."""
    from hyprstream.bootstrap import open_registry
    from hyprstream.settings import load

    with open_registry(load().settings) as tools:
        yield tools


def is_interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, is_answered: bool, what: str, way: str) -> None:
    """Return if the person says yes, or has said so already.

    Raises:
        Invalid: there is nobody to ask.
    """
    if is_answered:
        return
    if not is_interactive():
        raise Invalid(f"removing {what} needs a yes", hint=way)
    typer.confirm(question, abort=True, err=True)
