"""The commands that bring single models and describe them: pull, show, rm. Knows what they print; knows no source, no layout.

Answers go to standard output, everything said about the work to standard error.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import console, options
from hyprstream.cli.layout import human_size, moment, short
from hyprstream.cli.progress import event_as_json, follow
from hyprstream.core.errors import Invalid, NotFound
from hyprstream.core.models import StoredModel
from hyprstream.core.principal import Principal, os_principal
from hyprstream.core.refs import ModelRef

if TYPE_CHECKING:
    from hyprstream.registry.sources.base import Choice, Event, Licence
    from hyprstream.services.registry import RegistryTools


def pull(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF",
            help="smollm2, gemma3:270m, hf:user/repo[:file], an https:// URL, the path of a .gguf file;"
            " or a model that was cloned.",
            autocompletion=options.complete_model,
        ),
    ],
    remote: Annotated[
        str | None,
        typer.Argument(metavar="[REMOTE]", help="Update a cloned model from this remote."),
    ] = None,
    branch: Annotated[
        str | None, typer.Argument(metavar="[BRANCH]", help="Update this branch of it.")
    ] = None,
    rebase: Annotated[
        bool, typer.Option("--rebase", help="Put own commits on top of the remote's.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME[:REF]", help="Store it under this name."),
    ] = None,
    sha256: Annotated[
        str | None,
        typer.Option("--sha256", metavar="HEX", help="Accept these bytes only; a URL needs it."),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option("--in-place", help="Leave a file where it is, and refer to it."),
    ] = False,
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="Agree to the model's terms without being asked."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON event per line.")] = False,
) -> None:
    """Fetch a model, continue an interrupted fetch, or update one from its remote.

    Example: hyprstream pull smollm2

    Example: hyprstream pull hf:user/repo:Q4_K_M --name mine

    Example: hyprstream pull qwen3-small main

    Without --name, a file is stored under its own name in lower case: Model.Q4_K_M.gguf becomes model.q4_k_m. A name that was cloned
    is updated from its remote.
    """
    with options.open_tools() as tools:
        me = os_principal()
        cloned = _cloned(tools, me, ref) if name is None and sha256 is None else None
        if cloned is not None:
            target, source = _update_of(tools, me, cloned, remote, branch)
            events = tools.repositories.update(me, target, source, rebase)
        else:
            _refuse_update_of(ref, remote, branch, rebase)
            answers = TerminalAnswers(
                accept_licence, is_asked=not as_json and options.is_interactive()
            )
            new_name = ModelRef.parse(name) if name else None
            events = tools.registry.pull(me, ref, new_name, sha256, answers, in_place)
        follow(events, sentence, event_json if as_json else None, resumes="pull")


def show(
    ref: options.Model,
    template: Annotated[
        bool, typer.Option("--template", help="Print the chat template and nothing else.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Describe a model that can be served, or a .gguf file.

    Example: hyprstream show smollm2
    """
    with options.open_tools() as tools:
        model = find_model(tools, os_principal(), ref)
    if as_json:
        console.show(json.dumps(described(model, with_template=True)))
    elif not template:
        for key, value in facts_lines(model):
            console.show(f"{key:<14}{value}")
    elif model.facts.chat_template is None:
        raise NotFound(f"{model.ref} has no chat template", kind="template")
    else:
        console.show(model.facts.chat_template, end="")


def rm(
    ref: Annotated[
        str,
        typer.Argument(
            metavar="REF", help="name or name:branch", autocompletion=options.complete_model
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove a model, or what an unfinished pull left.

    Example: hyprstream rm smollm2 --yes

    Of a model with several branches, this removes the one that REF names.
    """
    me, model_ref = os_principal(), ModelRef.parse(ref)
    with options.open_tools() as tools:
        plan = tools.registry.removal(me, model_ref.full)
        what = f"{model_ref} ({human_size(plan.size_bytes)})" if plan.size_bytes else str(model_ref)
        options.confirm(f"Remove {what}?", yes, what, f"hyprstream rm {model_ref} --yes")
        tools.registry.remove(me, plan)
    if as_json:
        console.show(json.dumps({"removed": str(model_ref)}))
    else:
        console.say(f"removed {what}")


def find_model(tools: "RegistryTools", principal: Principal, text: str) -> StoredModel:
    """The stored model of this name, or what the .gguf file at this path is.

    Raises:
        NotFound: neither exists.
        InvalidModelFile: the file is not sound.
    """
    if (path := options.as_path(text)) is not None:
        return tools.registry.show_file(principal, path)
    return tools.registry.show(principal, ModelRef.parse(text))


def _cloned(tools: "RegistryTools", principal: Principal, text: str) -> ModelRef | None:
    """The reference `text` is, if it names a registered model that has a remote."""
    try:
        ref = ModelRef.parse(text)
        return ref if tools.repositories.remotes(principal, ref.name) else None
    except (Invalid, NotFound):
        return None


def _update_of(
    tools: "RegistryTools",
    principal: Principal,
    ref: ModelRef,
    first: str | None,
    second: str | None,
) -> tuple[ModelRef, str | None]:
    """What to update and from where: `pull NAME [REMOTE] [BRANCH]`, where a single word may be either."""
    remotes = tools.repositories.remotes(principal, ref.name)
    if second is not None or first in remotes:
        return ModelRef(ref.name, second or ref.ref), first
    return ModelRef(ref.name, first or ref.ref), None


def _refuse_update_of(text: str, remote: str | None, branch: str | None, rebase: bool) -> None:
    if remote is None and not rebase:
        return
    asked = " ".join(filter(None, (remote, branch, "--rebase" if rebase else None)))
    raise Invalid(
        f"{text} has no remote it could be updated from, so {asked!r} means nothing",
        param="remote",
        hint=f"hyprstream pull {text}, or hyprstream remote add {text} origin URL",
    )


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


def sentence(event: "Event") -> str | None:
    """What a person is told of an event."""
    from hyprstream.registry.events import Cloned, Updated
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
        case Cloned(entry, is_new):
            what = f"{entry.ref} ({human_size(entry.size_bytes)})"
            return f"cloned {what}" if is_new else f"{what} is cloned already"
        case Updated(ref, old, new):
            if old == new:
                return f"{ref.full} is up to date at {short(new)}"
            return f"updated {ref.full} from {short(old)} to {short(new)}"
        case _:
            return None


def event_json(event: "Event") -> dict[str, object]:
    """An event for a script."""
    from hyprstream.registry.sources.base import Stored

    if isinstance(event, Stored):
        return {
            "event": "stored",
            "is_new": event.is_new,
            **described(event.model, with_template=False),
        }
    return event_as_json(event)


def described(model: StoredModel, *, with_template: bool) -> dict[str, object]:
    """A model for a script."""
    facts = asdict(model.facts)
    template = facts.pop("chat_template")
    facts["has_chat_template"] = template is not None
    if with_template:
        facts["chat_template"] = template
    return {
        "name": str(model.ref),
        "ref": model.ref.full,
        "id": model.id,
        "commit": model.commit,
        "path": model.path,
        "size_bytes": model.size_bytes,
        "sha256": model.sha256,
        "source": model.source,
        "created": model.created,
        "facts": facts,
    }


def facts_lines(model: StoredModel) -> Iterable[tuple[str, str]]:
    """A model for a person."""
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
    if model.commit:
        yield "uuid", model.id
        yield "commit", model.commit
    yield "stored", moment(model.created)
    yield "path", model.path
