"""The commands about all models together: clone, list, inspect, remove, gc, verify, ... Knows what they print; knows no Git.

Answers go to standard output, everything said about the work to standard error.
"""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import console, options
from hyprstream.cli.layout import (
    as_object,
    counted,
    human_size,
    jsonable,
    moment,
    scaled,
    short,
    table,
)
from hyprstream.cli.models import described, event_json, sentence
from hyprstream.cli.progress import follow
from hyprstream.cli.running import loaded_models
from hyprstream.core.principal import os_principal
from hyprstream.core.refs import ModelRef

if TYPE_CHECKING:
    from hyprstream.registry.entries import RemovalPlan
    from hyprstream.services.registry import Inspection, Listed

app = typer.Typer(
    no_args_is_help=True,
    help="The registry's own history: log and undo.\n\nExample: hyprstream registry log",
)


def clone(
    url: Annotated[
        str,
        typer.Argument(metavar="URL", help="A Git repository: https://, ssh://, file://, a path."),
    ],
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Else the URL's last part.")
    ] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", "-b", help="Else the remote's default branch.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", min=1, help="Fetch only so many commits.")
    ] = None,
    full: Annotated[
        bool,
        typer.Option("--full", help="Bring the files of every branch, with a worktree for each."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON event per line.")] = False,
) -> None:
    """Clone a model's Git repository.

    Example: hyprstream clone https://huggingface.co/Qwen/Qwen3-0.6B-GGUF --name qwen3-small

    The same command continues a clone that was interrupted.
    """
    with options.open_tools() as tools:
        events = tools.registry.clone(os_principal(), url, name, branch, depth, full)
        follow(events, sentence, event_json if as_json else None, resumes="clone")


def list_(as_json: options.AsJson = False) -> None:
    """List the models, a line for every branch.

    Example: hyprstream list

    Branches without a worktree are left out. SIZE is what the files of a branch hold, SHARED the part of it that other branches hold too.
    LOADED is there while a server answers at the address of the settings.
    """
    from hyprstream.settings import load

    with options.open_tools() as tools:
        listed = tools.registry.list(os_principal())
    loaded = loaded_models(load().settings.server)
    if as_json:
        console.show(json.dumps([_listed(one, loaded) for one in listed]))
    elif not listed:
        console.say("no models yet; get one with: hyprstream pull smollm2")
    else:
        header = ["NAME:REF", "UUID", "COMMIT", "STATE", "SIZE", "SHARED", "QUANT", "SOURCE"]
        rows = [_row(one) for one in listed]
        if loaded is not None:
            header.insert(4, "LOADED")
            for one, row in zip(listed, rows, strict=True):
                row.insert(4, "yes" if one.entry.ref.full in loaded else "no")
        for line in table([tuple(row) for row in (header, *rows)]):
            console.show(line)


def inspect(ref: options.Ref, as_json: options.AsJson = False) -> None:
    """Describe a version of a model from every side.

    Example: hyprstream inspect qwen3-small:v1.0
    """
    with options.open_tools() as tools:
        found = tools.registry.inspect(os_principal(), ModelRef.parse(ref))
    if as_json:
        console.show(json.dumps(_inspected(found)))
        return
    for key, value in _inspection_lines(found):
        console.show(f"{key:<14}{value}")


def remove(
    target: Annotated[
        str,
        typer.Argument(
            metavar="NAME[:BRANCH]",
            help="A model with all it has; or one worktree and its branch.",
            autocompletion=options.complete_model,
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also what is not committed.")
    ] = False,
    registry_only: Annotated[
        bool, typer.Option("--registry-only", help="Forget the model, keep its files.")
    ] = False,
    files_only: Annotated[
        bool, typer.Option("--files-only", help="Delete the files, stay registered.")
    ] = False,
    yes: options.Yes = False,
    as_json: options.AsJson = False,
) -> None:
    """Remove a model or one of its branches, after asking.

    Example: hyprstream remove qwen3-small:experiment --yes
    """
    me = os_principal()
    with options.open_tools() as tools:
        plan = tools.registry.removal(me, target)
        if not as_json:
            for line in _plan_lines(plan, registry_only=registry_only, files_only=files_only):
                console.say(line)
        options.confirm("Go ahead?", yes, target, f"hyprstream remove {target} --yes")
        tools.registry.remove(me, plan, registry_only, files_only, force)
    if as_json:
        console.show(json.dumps({"removed": target, **as_object(plan)}))
    else:
        console.say(f"removed {target}")


def rename(
    name: options.Name,
    new_name: Annotated[str, typer.Argument(metavar="NEW_NAME")],
    as_json: options.AsJson = False,
) -> None:
    """Give a model another name.

    Example: hyprstream rename qwen3-0.6b qwen3-small

    Its UUID stays.
    """
    with options.open_tools() as tools:
        tools.registry.rename(os_principal(), name, new_name)
    if as_json:
        console.show(json.dumps({"renamed": name, "to": new_name}))
    else:
        console.say(f"renamed {name} to {new_name}")


@app.command()
def log(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 10,
    as_json: options.AsJson = False,
) -> None:
    """Show the changes of the registry, newest first.

    Example: hyprstream registry log -n 3
    """
    with options.open_tools() as tools:
        versions = tools.registry.history(os_principal(), limit)
    if as_json:
        console.show(json.dumps(jsonable(list(versions))))
        return
    for version in versions:
        console.show(f"{short(version.id)}  {moment(version.created)}  {version.message.strip()}")


@app.command()
def undo(
    revision: Annotated[
        str, typer.Argument(metavar="[CHANGE]", help="As `hyprstream registry log` names it.")
    ] = "HEAD",
    as_json: options.AsJson = False,
) -> None:
    """Take one change of the registry back; that is a change too.

    Example: hyprstream registry undo
    """
    with options.open_tools() as tools:
        version = tools.registry.undo(os_principal(), revision)
    if as_json:
        console.show(json.dumps(as_object(version)))
    else:
        console.say(f"{short(version.id)}  {version.message.strip()}")


def _listed(listed: "Listed", loaded: frozenset[str] | None) -> dict[str, object]:
    entry, model = listed.entry, listed.model
    known = described(model, with_template=False) if model else {"facts": None, "sha256": None}
    return {
        **known,
        "name": str(entry.ref),
        "ref": entry.ref.full,
        "id": entry.id,
        "commit": entry.commit,
        "is_dirty": entry.is_dirty,
        "is_loaded": None if loaded is None else entry.ref.full in loaded,
        "size_bytes": entry.size_bytes,
        "shared_bytes": entry.shared_bytes,
        "driver": str(entry.driver),
        "worktree": entry.worktree,
        "source": entry.source,
    }


def _row(listed: "Listed") -> list[str]:
    entry, model = listed.entry, listed.model
    return [
        entry.ref.full,
        short(entry.id),
        short(entry.commit),
        "dirty" if entry.is_dirty else "clean",
        human_size(entry.size_bytes),
        human_size(entry.shared_bytes),
        model.facts.quantization if model else "-",
        entry.source,
    ]


def _inspected(found: "Inspection") -> dict[str, object]:
    return {
        "ref": found.ref.full,
        "id": found.id,
        "commit": as_object(found.commit),
        "model": described(found.model, with_template=False) if found.model else None,
        "problem": found.problem,
        "size_bytes": found.size_bytes,
        "worktree": as_object(found.entry) if found.entry else None,
        "files": jsonable(found.files),
        "branches": found.names.branches,
        "tags": found.names.tags,
        "remotes": found.remotes,
    }


def _inspection_lines(found: "Inspection") -> Iterable[tuple[str, str]]:
    yield "model", found.ref.full
    yield "uuid", found.id
    first, _, _ = found.commit.message.partition("\n")
    yield "commit", f"{found.commit.id}  {first}".rstrip()
    yield "committed", f"{moment(found.commit.created)} by {found.commit.author}"
    if found.model:
        facts = found.model.facts
        yield "architecture", f"{facts.architecture}, {scaled(facts.n_params)} parameters"
        yield "quantization", facts.quantization
        yield "context", f"{facts.context_length} tokens"
        yield "licence", facts.license or "unknown"
        yield "weights", f"sha256:{found.model.sha256}"
        yield "source", found.model.source
    else:
        yield "served", f"no: {found.problem}"
    if entry := found.entry:
        yield "worktree", f"{entry.worktree} ({'dirty' if entry.is_dirty else 'clean'})"
        shared = f"{human_size(entry.shared_bytes)} shared ({entry.driver})"
        yield "size", f"{human_size(entry.size_bytes)}, {shared}"
    else:
        yield "size", human_size(found.size_bytes)
    yield from _named("branch", found.names.branches)
    yield from _named("tag", found.names.tags)
    yield from (("remote", f"{name}  {url}") for name, url in found.remotes.items())
    for file in found.files:
        digest = f"  sha256:{short(file.pointer.sha256)}" if file.pointer else ""
        yield "file", f"{file.path}  {human_size(file.size)}{digest}"


def _named(kind: str, commits: dict[str, str]) -> Iterable[tuple[str, str]]:
    return ((kind, f"{name}  {short(commit)}") for name, commit in commits.items())


def _plan_lines(plan: "RemovalPlan", *, registry_only: bool, files_only: bool) -> Iterable[str]:
    yield f"{plan.what}: {counted(len(plan.worktrees), 'worktree')}"
    for branch in plan.worktrees:
        yield f"  {branch}{', with changes committed nowhere' if branch in plan.dirty else ''}"
    if registry_only:
        yield "its files stay, it is only forgotten"
    else:
        yield f"frees {human_size(plan.size_bytes)} at the next gc; {human_size(plan.shared_bytes)} stay, as others need them"
    if files_only:
        yield "it stays registered"
    if not plan.dirty:
        yield "until the next gc, hyprstream registry undo brings it back"
