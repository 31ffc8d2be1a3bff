"""The commands about versions of a model: status, commit, branch, merge, tag, log, diff, checkout, push. Knows what they print."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hyprstream.cli import console, options
from hyprstream.cli.layout import as_object, counted, jsonable, moment, short, table
from hyprstream.cli.models import event_json, sentence
from hyprstream.cli.progress import follow
from hyprstream.core.errors import Conflict, Invalid
from hyprstream.core.principal import os_principal
from hyprstream.core.refs import ModelRef
from hyprstream.core.versions import MergeOutcome, Status

if TYPE_CHECKING:
    from hyprstream.services.comparison import Comparison
    from hyprstream.services.registry import RegistryTools

Message = Annotated[
    str | None, typer.Option("--message", "-m", metavar="TEXT", help="Why, for the log.")
]
Side = Literal["ours", "theirs"]


def status(
    ref: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL[:BRANCH]]", autocompletion=options.complete_model),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Compare worktrees with their branches.

    Example: hyprstream status qwen3-small:experiment

    Shows what is not committed, and how the branch stands to its remote; without MODEL, for every worktree.
    """
    me = os_principal()
    with options.open_tools() as tools:
        refs = (
            [ModelRef.parse(ref)]
            if ref is not None
            else [listed.entry.ref for listed in tools.registry.list(me)]
        )
        found = [(one, tools.repositories.status(me, one)) for one in refs]
    if as_json:
        objects = [{"ref": one.full, **as_object(status)} for one, status in found]
        console.show(json.dumps(objects if ref is None else objects[0]))
        return
    for one, status in found:
        for line in _status_lines(one, status):
            console.show(line)


def commit(
    ref: options.Ref,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="What changed, and why.")
    ],
    author: Annotated[
        str | None, typer.Option("--author", metavar="'NAME <MAIL>'", help="Else hyprstream.")
    ] = None,
    allow_empty: Annotated[
        bool, typer.Option("--allow-empty", help="Also if nothing changed.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Make a new version of what a worktree holds.

    Example: hyprstream commit qwen3-small:experiment -m "Lower the temperature"
    """
    with options.open_tools() as tools:
        model_ref = ModelRef.parse(ref)
        made = tools.repositories.commit(os_principal(), model_ref, message, author, allow_empty)
    _said(as_json, f"{model_ref.full} is at {short(made)}", ref=model_ref, commit=made)


def branch(
    model: options.Name,
    name: Annotated[
        str | None, typer.Argument(metavar="[BRANCH]", help="Without it, list the branches.")
    ] = None,
    start: Annotated[
        str, typer.Option("--from", metavar="REF", help="Where it begins: a branch, tag, commit.")
    ] = "main",
    delete: Annotated[
        bool, typer.Option("--delete", "-d", help="Delete the branch and its worktree.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also with changes that are not committed.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """List, make or delete branches.

    Example: hyprstream branch qwen3-small experiment --from v1.0
    """
    me = os_principal()
    with options.open_tools() as tools:
        if name is None:
            _show_branches(tools, model, as_json)
        elif delete:
            tools.repositories.delete_branch(me, _version(model, name), force)
            _said(as_json, f"deleted {model}:{name}", deleted=f"{model}:{name}")
        else:
            bring_files(tools, _version(model, start))
            tree = tools.repositories.branch(me, _version(model, name), _version(model, start))
            said = f"{model}:{name} is at {short(tree.commit)}, its files in {tree.path}"
            _said(as_json, said, ref=f"{model}:{name}", **as_object(tree))


def checkout(
    model: options.Ref,
    version: Annotated[
        str | None, typer.Argument(metavar="[REF]", help="A branch; with -b also a tag or commit.")
    ] = None,
    new: Annotated[
        str | None,
        typer.Option("--branch", "-b", metavar="NAME", help="Make this branch there first."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Throw away what is not committed.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Put the files of a branch on disk as they were committed.

    Example: hyprstream checkout qwen3-small v1.0 -b from-v1
    """
    me = os_principal()
    base = ModelRef.parse(model)
    ref = _version(base.name, version) if version else base
    with options.open_tools() as tools:
        bring_files(tools, ref)
        if new is not None:
            start, ref = ref, _version(base.name, new)
            tree = tools.repositories.branch(me, ref, start)
        else:
            tree = tools.repositories.checkout(me, ref, force)
    said = f"{ref.full} is at {short(tree.commit)}, its files in {tree.path}"
    _said(as_json, said, ref=ref, **as_object(tree))


def tag(
    model: options.Ref,
    name: Annotated[
        str | None, typer.Argument(metavar="[TAG]", help="Without it, list the tags.")
    ] = None,
    message: Message = None,
    delete: Annotated[bool, typer.Option("--delete", "-d", help="Take the tag away.")] = False,
    as_json: options.AsJson = False,
) -> None:
    """List, make or delete tags.

    Example: hyprstream tag qwen3-small:experiment v1.0 -m "The first good one"
    """
    me, start = os_principal(), ModelRef.parse(model)
    with options.open_tools() as tools:
        if name is None:
            tags = tools.repositories.names(me, start.name).tags
            _show_names(tags, as_json, f"{start.name} has no tags")
            return
        ref = _version(start.name, name)
        if delete:
            tools.repositories.delete_tag(me, ref)
            _said(as_json, f"deleted {ref.full}", deleted=ref)
        else:
            made = tools.repositories.tag(me, ref, start, message)
            _said(as_json, f"{ref.full} is {short(made)}", ref=ref, commit=made)


def log(
    ref: options.Ref,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many.")] = 10,
    as_json: options.AsJson = False,
) -> None:
    """List the commits of a version, newest first.

    Example: hyprstream log qwen3-small:experiment -n 3
    """
    with options.open_tools() as tools:
        versions = tools.repositories.log(os_principal(), ModelRef.parse(ref), limit)
    if as_json:
        console.show(json.dumps(jsonable(versions)))
        return
    for version in versions:
        first = version.message.partition("\n")[0]
        console.show(f"{short(version.id)}  {moment(version.created)}  {version.author}  {first}")


def diff(
    old: Annotated[str, typer.Argument(metavar="REF", autocompletion=options.complete_model)],
    new: Annotated[str, typer.Argument(metavar="REF", autocompletion=options.complete_model)],
    as_json: options.AsJson = False,
) -> None:
    """Show what differs between two versions.

    Example: hyprstream diff qwen3-small:v1.0 qwen3-small:experiment

    Compares weights, adapters, chat template, sampling, licence, scores of evals, and other files.
    """
    with options.open_tools() as tools:
        found = tools.repositories.diff(os_principal(), ModelRef.parse(old), ModelRef.parse(new))
    if as_json:
        console.show(json.dumps(as_object(found)))
    elif not found.differences:
        console.say(f"{found.old.full} and {found.new.full} are the same")
    else:
        for line in table(list(_diff_rows(found))):
            console.show(line)


def merge(
    target: options.Ref,
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="A version of the same model.")
    ] = None,
    ff: Annotated[
        bool | None,
        typer.Option("--ff/--no-ff", help="Move the branch along if possible; never do that."),
    ] = None,
    ff_only: Annotated[
        bool, typer.Option("--ff-only", help="Refuse what moving the branch cannot do.")
    ] = False,
    message: Message = None,
    abort: Annotated[bool, typer.Option("--abort", help="Give up a merge with conflicts.")] = False,
    continue_: Annotated[
        bool, typer.Option("--continue", help="Commit a merge whose conflicts are settled.")
    ] = False,
    take: Annotated[
        Side | None,
        typer.Option("--take", help="With --continue: settle what is open by this side's files."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Bring another version's changes into a branch.

    Example: hyprstream merge qwen3-small:main experiment
    """
    me, ref = os_principal(), ModelRef.parse(target)
    _require_one_way(source, abort, continue_)
    with options.open_tools() as tools:
        if abort:
            tools.repositories.merge_abort(me, ref)
            _said(as_json, f"{ref.full} is as it was before the merge", aborted=ref)
        elif continue_:
            made = tools.repositories.merge_continue(me, ref, message, take)
            _said(as_json, f"merged into {ref.full}, now at {short(made)}", ref=ref, commit=made)
        else:
            assert source is not None, "a merge that is neither ended nor continued has a source"
            other = (
                ModelRef.parse(source)
                if ":" in source or "@" in source
                else _version(ref.name, source)
            )
            way = _fast_forward(ff, ff_only)
            outcome = tools.repositories.merge(me, ref, other, message, way)
            _show_outcome(ref, other, outcome, as_json)


def push(
    model: options.Ref,
    remote: Annotated[str, typer.Argument(metavar="[REMOTE]")] = "origin",
    branch: Annotated[
        str | None, typer.Argument(metavar="[BRANCH]", help="Else the one MODEL names.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace what is there and here is not known.")
    ] = False,
    set_upstream: Annotated[
        bool, typer.Option("--set-upstream", "-u", help="Follow that branch from now on.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON event per line.")] = False,
) -> None:
    """Send a branch to a remote.

    Example: hyprstream push qwen3-small origin main
    """
    ref = ModelRef.parse(model)
    ref = _version(ref.name, branch) if branch else ref
    with options.open_tools() as tools:
        events = tools.repositories.push(os_principal(), ref, remote, force, set_upstream)
        follow(events, sentence, event_json if as_json else None, resumes="push")
    if not as_json:
        console.say(f"pushed {ref.full} to {remote}")


def bring_files(tools: "RegistryTools", ref: ModelRef) -> None:
    """Fetch the large files a version needs and that are not here; a clone brings those of one branch only."""
    follow(tools.repositories.fetch_files(os_principal(), ref), sentence, None, resumes="command")


def _version(name: str, version: str) -> ModelRef:
    return ModelRef.parse(f"{name}:{version}")


def _said(as_json: bool, text: str, **values: object) -> None:
    if as_json:
        console.show(json.dumps(jsonable(values)))
    else:
        console.say(text)


def _show_branches(tools: "RegistryTools", model: str, as_json: bool) -> None:
    names = tools.repositories.names(os_principal(), model)
    if as_json:
        console.show(json.dumps(jsonable(names.branches)))
        return
    rows = [
        (name, short(commit), names.worktrees[name].path if name in names.worktrees else "-")
        for name, commit in names.branches.items()
    ]
    for line in table([("BRANCH", "COMMIT", "WORKTREE"), *rows]):
        console.show(line)


def _show_names(commits: dict[str, str], as_json: bool, nothing: str) -> None:
    if as_json:
        console.show(json.dumps(commits))
    elif not commits:
        console.say(nothing)
    else:
        for line in table([(name, short(commit)) for name, commit in commits.items()]):
            console.show(line)


def _status_lines(ref: ModelRef, status: Status) -> Iterable[str]:
    state = f"{counted(len(status.changes), 'change')}" if status.changes else "clean"
    yield f"{ref.full}  {short(status.commit)}  {state}"
    if status.upstream:
        yield f"  {status.n_ahead} ahead of {status.upstream}, {status.n_behind} behind"
    if status.merging:
        yield f"  merging {status.merging}: {counted(len(status.conflicts), 'conflict')}"
    for change in status.changes:
        mark = "conflict" if change.path in status.conflicts else change.kind.value
        yield f"  {mark:<9} {change.path}"


def _diff_rows(found: "Comparison") -> Iterable[tuple[str, ...]]:
    yield "WHAT", "", found.old.full, found.new.full
    topic = None
    for one in found.differences:
        first = "" if one.topic == topic else one.topic.value
        yield first, one.name, one.old or "-", one.new or "-"
        topic = one.topic


def _require_one_way(source: str | None, abort: bool, continue_: bool) -> None:
    n = sum((source is not None, abort, continue_))
    if n != 1:
        raise Invalid(
            "a merge is begun with SOURCE, or ended with --abort or --continue: one of the three",
            param="source",
            hint="hyprstream merge qwen3-small:main experiment",
        )


def _fast_forward(ff: bool | None, ff_only: bool) -> Literal["auto", "only", "never"]:
    if ff_only:
        return "only"
    return "never" if ff is False else "auto"


def _show_outcome(ref: ModelRef, source: ModelRef, outcome: MergeOutcome, as_json: bool) -> None:
    if as_json:
        console.show(json.dumps({"ref": ref.full, "source": source.full, **as_object(outcome)}))
        if outcome.conflicts:
            raise typer.Exit(console.FAILURE)
    elif outcome.conflicts:
        raise Conflict(
            f"both {ref.full} and {source.full} changed {', '.join(outcome.conflicts)}",
            hint=f"settle it in the worktree, then hyprstream merge {ref.full} --continue; or --abort",
        )
    else:
        assert outcome.commit is not None, "a merge without conflicts has a commit"
        how = "moved along" if outcome.is_fast_forward else "merged"
        console.say(f"{how}: {ref.full} has {source.full}, now at {short(outcome.commit)}")
