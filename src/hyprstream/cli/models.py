"""The commands about stored models: pull, list, show, rm. Knows what they print; knows no source and no file layout.

Answers go to standard output, everything said about the work to standard error.
"""

import json
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import console, options
from hyprstream.core.errors import HyprstreamError, Invalid, NotFound
from hyprstream.core.models import StoredModel
from hyprstream.core.refs import ModelRef

if TYPE_CHECKING:
    from hyprstream.registry.sources.base import Choice, Event, Licence
    from hyprstream.registry.store import ModelStore

LINE_PERCENT = 10
"""How much further a download is at each line of plain text."""
JSON_PERCENT = 1

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def pull(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="smollm2, gemma3:270m, hf:user/repo[:file], an https:// URL, or the path of a .gguf file.",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME[:REF]", help="Store it under this name."),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="HEX", help="Accept these bytes only; a URL needs it."),
    ] = None,
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="Agree to the model's terms without being asked."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON event per line.")] = False,
) -> None:
    """Fetch a model into the store, or continue an interrupted fetch.

    Example: hyprstream pull smollm2

    Example: hyprstream pull hf:user/repo:Q4_K_M --name mine

    Without --name, a file is stored under its own name in lower case: Model.Q4_K_M.gguf becomes model.q4_k_m.
    """
    from hyprstream.registry.pull import pull as pull_events

    events = pull_events(
        _open_store(),
        ref,
        name=ModelRef.parse(name) if name else None,
        sha256=sha256,
        answers=TerminalAnswers(accept_licence, is_asked=not as_json and _is_interactive()),
    )
    show_events = _show_json if as_json else show_pull
    try:
        with closing(events):
            show_events(events)
    except HyprstreamError as error:
        if not as_json:
            raise
        _show_json_error(error.message, error.hint)
        raise typer.Exit(console.exit_code(error)) from error
    except KeyboardInterrupt:
        stopped, hint = "stopped; what arrived is kept", "the same pull continues there"
        if as_json:
            _show_json_error(stopped, hint)
        else:
            console.say(f"{stopped}, {hint}")
        raise typer.Exit(console.INTERRUPTED) from None


def list_(as_json: AsJson = False) -> None:
    """List the stored models.

    Example: hyprstream list
    """
    models = _open_store().list()
    if as_json:
        console.show(json.dumps([_described(model, with_template=False) for model in models]))
    elif not models:
        console.say("no models yet; get one with: hyprstream pull smollm2")
    else:
        header = ("NAME", "SIZE", "QUANT", "PARAMS", "CONTEXT", "LICENCE", "SOURCE")
        for line in _table([header, *(_row(model) for model in models)]):
            console.show(line)


def show(
    ref: options.Model,
    template: Annotated[
        bool, typer.Option("--template", help="Print the chat template and nothing else.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Describe a stored model, or a .gguf file.

    Example: hyprstream show smollm2
    """
    model = find_model(_open_store(), ref)
    if as_json:
        console.show(json.dumps(_described(model, with_template=True)))
    elif not template:
        for key, value in _lines(model):
            console.show(f"{key:<14}{value}")
    elif model.facts.chat_template is None:
        raise NotFound(f"{model.ref} has no chat template", kind="template")
    else:
        console.show(model.facts.chat_template, end="")


def rm(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="name or name:ref", autocompletion=options.complete_model
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove a stored model, or what an unfinished pull left.

    Example: hyprstream rm smollm2 --yes
    """
    store, model_ref = _open_store(), ModelRef.parse(ref)
    stored = store.find(model_ref)
    what = f"{model_ref} ({human_size(stored.size_bytes)})" if stored else str(model_ref)
    if not yes:
        if not _is_interactive():
            raise Invalid(f"removing {what} needs a yes", hint=f"hyprstream rm {model_ref} --yes")
        typer.confirm(f"Remove {what}?", abort=True, err=True)
    store.remove(model_ref)
    if as_json:
        console.show(json.dumps({"removed": str(model_ref)}))
    else:
        console.say(f"removed {what}")


def find_model(store: "ModelStore", text: str) -> StoredModel:
    """The stored model of this name, or what the .gguf file at this path is.

    Raises:
        NotFound: neither exists.
        InvalidModelFile: the file is not sound.
    """
    if text.endswith(".gguf") or Path(text).is_file():
        return store.resolve_path(Path(text))
    return store.resolve(ModelRef.parse(text))


def show_pull(events: Generator["Event", None, None]) -> None:
    """Run a pull to its end, telling a person how it goes: a bar in a terminal, sparse lines elsewhere."""
    if sys.stderr.isatty():
        _show_bar(events)
    else:
        _show_lines(events)


@dataclass(frozen=True, slots=True)
class TerminalAnswers:
    """Asks the person at the terminal, if there is one."""

    accept_licence: bool
    is_asked: bool

    def accepts(self, licence: "Licence") -> bool:
        console.say(f"This model comes under the {licence.name}: {licence.url}")
        if self.accept_licence or not self.is_asked:
            return self.accept_licence
        return typer.confirm(f"Have you read the {licence.name}, and do you accept them?", err=True)

    def choose(self, choices: "Sequence[Choice]") -> "Choice | None":
        if not self.is_asked:
            return None
        for number, choice in enumerate(choices, 1):
            console.say(f"{number:>3}  {choice.name}  {human_size(choice.size)}")
        number = 0
        while not 1 <= number <= len(choices):
            number = int(typer.prompt(f"Which one, 1 to {len(choices)}?", type=int, err=True))
        return choices[number - 1]


def human_size(n_bytes: int) -> str:
    """`98.4 MB`."""
    return f"{_scaled(n_bytes)}B"


def _show_bar(events: Generator["Event", None, None]) -> None:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    from hyprstream.registry.sources.base import Downloading

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("")
    try:
        for event in events:
            if isinstance(event, Downloading):
                bar.start()  # not earlier: a question may have been asked
                bar.update(
                    task, description=event.file, completed=event.completed, total=event.total
                )
            else:
                bar.stop()
                console.say(_sentence(event))
    finally:
        bar.stop()


def _show_lines(events: Generator["Event", None, None]) -> None:
    from hyprstream.registry.sources.base import Downloading

    is_due = _every(LINE_PERCENT)
    for event in events:
        if not isinstance(event, Downloading):
            console.say(_sentence(event))
        elif is_due(event.completed, event.total):
            done, total = human_size(event.completed), human_size(event.total or 0)
            console.say(f"{event.file}: {done} of {total}")


def _show_json(events: Generator["Event", None, None]) -> None:
    from hyprstream.registry.sources.base import Downloading

    is_due = _every(JSON_PERCENT)
    for event in events:
        if not isinstance(event, Downloading) or is_due(event.completed, event.total):
            console.show(json.dumps(_as_json(event)))


def _show_json_error(message: str, hint: str | None) -> None:
    console.show(json.dumps({"event": "error", "message": message, "hint": hint}))


def _every(percent: int) -> Callable[[int, int | None], bool]:
    """Whether a download came to the next multiple of so many percent."""
    last = -1

    def is_due(completed: int, total: int | None) -> bool:
        nonlocal last
        step = completed * 100 // (percent * total) if total else 0
        if step == last:
            return False
        last = step
        return True

    return is_due


def _sentence(event: "Event") -> str:
    from hyprstream.registry.sources.base import Noted, Resolving, Stored, Verifying

    match event:
        case Resolving(source):
            return f"pulling {source}"
        case Noted(message):
            return f"note: {message}"
        case Verifying():
            return "all bytes are there; checking the file"
        case Stored(model, is_new):
            what = f"{model.ref} ({human_size(model.size_bytes)})"
            return f"stored {what}" if is_new else f"{what} is stored already"
        case _:
            raise AssertionError("downloads are drawn, not told")


def _as_json(event: "Event") -> dict[str, object]:
    from hyprstream.registry.sources.base import Stored

    name = {"event": type(event).__name__.lower()}
    if isinstance(event, Stored):
        return {**name, "is_new": event.is_new, **_described(event.model, with_template=False)}
    return {**name, **asdict(event)}


def _described(model: StoredModel, *, with_template: bool) -> dict[str, object]:
    facts = asdict(model.facts)
    template = facts.pop("chat_template")
    facts["has_chat_template"] = template is not None
    if with_template:
        facts["chat_template"] = template
    return {
        "name": str(model.ref),
        "path": model.path,
        "size_bytes": model.size_bytes,
        "sha256": model.sha256,
        "source": model.source,
        "created": model.created,
        "facts": facts,
    }


def _row(model: StoredModel) -> tuple[str, ...]:
    facts = model.facts
    return (
        str(model.ref),
        human_size(model.size_bytes),
        facts.quantization,
        _scaled(facts.n_params).replace(" ", "").replace("G", "B"),
        str(facts.context_length),
        facts.license or "unknown",
        model.source,
    )


def _lines(model: StoredModel) -> Iterable[tuple[str, str]]:
    facts = model.facts
    yield "name", str(model.ref)
    yield "title", facts.name or "unknown"
    yield "architecture", facts.architecture
    yield "parameters", f"{facts.n_params:,}"
    yield "quantization", facts.quantization
    yield "context", f"{facts.context_length} tokens"
    yield "embedding", str(facts.embedding_length)
    yield "layers", str(facts.n_layers)
    yield "vocabulary", str(facts.vocab_size) if facts.vocab_size is not None else "unknown"
    yield "chat template", "yes (--template prints it)" if facts.chat_template else "no"
    yield "licence", facts.license or "unknown"
    yield "size", f"{human_size(model.size_bytes)} ({model.size_bytes} bytes)"
    yield "sha256", model.sha256
    yield "source", model.source
    yield "stored", datetime.fromtimestamp(model.created, UTC).isoformat(timespec="seconds")
    yield "path", model.path


def _table(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _scaled(n: int) -> str:
    """Three digits and a decimal prefix: `98.4 M`, `135 M`, `1.24 G`."""
    value, prefixes = float(n), ["", "k", "M", "G", "T"]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    return f"{value:.3g} {prefixes[0]}"


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _open_store() -> "ModelStore":
    from hyprstream.bootstrap import open_store

    return open_store()
