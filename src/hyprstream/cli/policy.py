"""`hyprstream policy`: who may do what. Knows how rules, changes and decisions are printed; decides nothing.

Answers go to standard output, everything said about the work to standard error.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import console, layout, tokens
from hyprstream.cli.tools import full_subject, open_tools, printable
from hyprstream.core.errors import Invalid
from hyprstream.core.principal import (
    Action,
    Decision,
    Door,
    Principal,
    Resource,
    model_resource,
    os_principal,
)
from hyprstream.core.refs import ModelRef

if TYPE_CHECKING:
    from hyprstream.core.versions import TextVersion
    from hyprstream.policy.rules import Rule
    from hyprstream.services.policy import Candidate, Change, Overview

HEADER = ("SUBJECT", "DOOR", "RESOURCE", "ACTION", "EFFECT")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Who may do what: rules, templates, tokens.\n\nExample: hyprstream policy apply-template local",
)
app.add_typer(tokens.app, name="token")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")]
User = Annotated[
    str,
    typer.Argument(
        metavar="USER",
        help="alice is token:alice; local:alice is a user of this machine; or peer:NAME, or anonymous.",
    ),
]
What = Annotated[
    str,
    typer.Argument(
        metavar="RESOURCE", help="model:smollm2 (its main), registry, session:ID, policy, ..."
    ),
]
Do = Annotated[Action, typer.Argument(metavar="ACTION", help="What to do to it.")]
AtDoor = Annotated[Door, typer.Option("--door", help="Where the request comes in.")]


@app.command()
def show(
    raw: Annotated[bool, typer.Option("--raw", help="Print the text as it stands.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the running policy: its rules and its roles.

    Example: hyprstream policy show
    """
    with open_tools() as tools, _pointing():
        if raw:
            console.show(tools.policy.text(os_principal()), end="")
            return
        overview = tools.policy.show(os_principal())
    if as_json:
        console.show(json.dumps(_described(overview)))
    else:
        _print_overview(overview)


@app.command()
def check(
    user: User, resource: What, action: Do, door: AtDoor = Door.HTTP, as_json: AsJson = False
) -> None:
    """Say whether a user may do something. Exit code 0 is yes, 1 is no.

    Example: hyprstream policy check alice model:qwen3-small infer

    A bare USER holds a token: alice is token:alice. A model without a version is its main.
    """
    asked, thing = Principal(full_subject(user), door), parse_resource(resource)
    with open_tools() as tools, _pointing():
        decision = tools.policy.check(os_principal(), asked, action, thing)
    if as_json:
        question = {"subject": asked.subject, "door": door, "action": action}
        answer = {"resource": str(thing), **layout.as_object(decision)}
        console.show(json.dumps(question | answer))
    else:
        _print_decision(asked, action, thing, decision)
    if not decision.is_allowed:
        raise typer.Exit(console.FAILURE)


@app.command()
def explain(
    user: User, resource: What, action: Do, door: AtDoor = Door.HTTP, as_json: AsJson = False
) -> None:
    """Say which rule decides, and what became of every other rule about this user. Exit codes as for check.

    Example: hyprstream policy explain local:alice registry write
    """
    asked, thing = Principal(full_subject(user), door), parse_resource(resource)
    with open_tools() as tools, _pointing():
        found = tools.policy.explain(os_principal(), asked, action, thing)
    if as_json:
        console.show(json.dumps(layout.as_object(found)))
    else:
        _print_decision(asked, action, thing, found.decision)
        if roles := found.names[1:]:
            console.show(f"{asked} is {', '.join(roles)}")
        if not found.candidates:
            console.show(f"no rule is about {asked}")
        else:
            rows = [("LINE", *HEADER, ""), *map(_candidate_row, found.candidates)]
            _print_lines(layout.table(rows))
    if not found.decision.is_allowed:
        raise typer.Exit(console.FAILURE)


@app.command()
def edit() -> None:
    """Open the draft in $VISUAL, $EDITOR or vi, and check it afterwards.

    Example: EDITOR=nano hyprstream policy edit
    """
    with open_tools() as tools:
        _edit(tools.policy.open_draft(os_principal()))
        with _pointing():
            change = tools.policy.validate(os_principal())
    if change.is_empty:
        console.say("the draft says what the running policy says")
    else:
        console.say("the draft is sound; nothing has changed yet")
        console.say(
            "see what would: hyprstream policy diff; put it in force: hyprstream policy apply"
        )


@app.command()
def diff(
    against: Annotated[
        str, typer.Option("--against", metavar="REF", help="A version, as history names them.")
    ] = "HEAD",
) -> None:
    """Compare the draft with the running policy, or with an older version.

    Example: hyprstream policy diff --against HEAD~1
    """
    with open_tools() as tools:
        change = tools.policy.diff(os_principal(), against)
    _print_diff(change)


@app.command()
def apply(
    dry_run: DryRun = False,
    message: Annotated[
        str | None, typer.Option("--message", "-m", help="What to call it in the history.")
    ] = None,
) -> None:
    """Put the draft in force. A draft with a mistake never is.

    Example: hyprstream policy apply -m "alice may infer"
    """
    with open_tools() as tools, _pointing():
        change = tools.policy.apply(os_principal(), message, is_dry_run=dry_run)
    _print_diff(change)
    _tell(change)


@app.command()
def history(
    n: Annotated[int, typer.Option("-n", min=1, help="How many versions.")] = 10,
    oneline: Annotated[bool, typer.Option("--oneline", help="Id and message only.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the versions, newest first. The first is the running one.

    Example: hyprstream policy history -n 3
    """
    with open_tools() as tools:
        versions = tools.policy.history(os_principal(), n)
    if as_json:
        console.show(json.dumps([layout.as_object(version) for version in versions]))
    elif not versions:
        _say_how_to_begin()
    elif oneline:
        for version in versions:
            console.show(f"{layout.short(version.id)} {_title(version)}")
    else:
        rows = [("VERSION", "WHEN", "WHO", "MESSAGE"), *map(_version_row, versions)]
        _print_lines(layout.table(rows))


@app.command()
def rollback(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="A version, as history names them.")
    ] = "HEAD~1",
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Put an older version in force again, as a new version; a second rollback undoes it. A terminal is asked first.

    Example: hyprstream policy rollback HEAD~1

    HEAD throws away what the draft says and the running policy does not.
    """
    with open_tools() as tools, _pointing():
        service, me = tools.policy, os_principal()
        change = service.rollback(me, ref, is_dry_run=True)
        _print_diff(change)
        if not (dry_run or change.is_empty):
            if not yes and _is_interactive():
                typer.confirm("Put this in force?", abort=True, err=True)
            change = service.rollback(me, ref)
    _tell(change)


@app.command("list-templates")
def list_templates(as_json: AsJson = False) -> None:
    """List the built-in sets of rules.

    Example: hyprstream policy list-templates
    """
    with open_tools() as tools:
        found = tools.policy.templates(os_principal())
    if as_json:
        console.show(json.dumps([layout.as_object(template) for template in found]))
    else:
        rows = [("NAME", "WHAT IT GRANTS"), *((each.name, each.summary) for each in found)]
        _print_lines(layout.table(rows))


@app.command("apply-template")
def apply_template(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As list-templates names it.")],
    dry_run: DryRun = False,
) -> None:
    """Add a built-in set of rules to the running policy, at once.

    Example: hyprstream policy apply-template local
    """
    with open_tools() as tools, _pointing():
        change = tools.policy.apply_template(os_principal(), name, is_dry_run=dry_run)
    _print_diff(change)
    _tell(change)


def parse_resource(text: str) -> Resource:
    """The resource a user means: `registry`, `registry:ID`, or `model:NAME`, whose version is main unless it is given.

    Raises:
        Invalid: there is no such kind of resource, or the model's name does not follow the grammar.
    """
    from hyprstream.policy.rules import KINDS

    kind, colon, name = text.partition(":")
    if kind not in KINDS:
        raise Invalid(
            f"{text[:80]!r} is not a resource", param="resource", hint=f"one of {', '.join(KINDS)}"
        )
    if kind == "model" and colon:
        return model_resource(ModelRef.parse(name))
    return Resource(kind, name or None)


def _print_overview(overview: "Overview") -> None:
    rules, roles = overview.rules.rules, overview.rules.roles
    if overview.problem is not None:
        console.say(f"the newest version is not in force: {overview.problem}")
    if rules:
        _print_lines(layout.table([HEADER, *map(_rule_row, rules)]))
    if roles:
        console.show("")
        _print_lines(layout.table([("SUBJECT", "ROLE"), *((r.subject, r.role) for r in roles)]))
    if version := overview.version:
        console.say(
            f"version {layout.short(version.id)} of {layout.moment(version.created)}: {_title(version)}"
        )
    if not rules:
        _say_how_to_begin()
    if overview.has_draft:
        console.say("the draft says something else; see: hyprstream policy diff")


def _say_how_to_begin() -> None:
    console.say("no rules: everything is denied")
    console.say(
        "allow the users of this machine everything: hyprstream policy apply-template local"
    )
    console.say("see the other templates: hyprstream policy list-templates")


def _print_decision(
    asked: Principal, action: Action, resource: Resource, decision: Decision
) -> None:
    verb = "may" if decision.is_allowed else "may not"
    word = "allowed" if decision.is_allowed else "denied"
    console.show(f"{word}: {asked} {verb} {action} {resource}")
    where = "" if decision.line is None else f"line {decision.line}: "
    console.show(f"because: {where}{decision.reason}")


def _rule_row(rule: "Rule") -> tuple[str, ...]:
    return rule.subject, rule.door, rule.resource, rule.action, rule.effect


def _candidate_row(candidate: "Candidate") -> tuple[str, ...]:
    verdict = f"not this {' or '.join(candidate.misses)}" if candidate.misses else "applies"
    return str(candidate.rule.line), *_rule_row(candidate.rule), verdict


def _version_row(version: "TextVersion") -> tuple[str, ...]:
    who = version.author.partition(" <")[0]
    return layout.short(version.id), layout.moment(version.created), printable(who), _title(version)


def _title(version: "TextVersion") -> str:
    return printable(version.message.partition("\n")[0])


def _described(overview: "Overview") -> dict[str, object]:
    return {
        "version": layout.jsonable(overview.version),
        "rules": layout.jsonable(overview.rules.rules),
        "roles": layout.jsonable(overview.rules.roles),
        "problem": overview.problem,
        "has_draft": overview.has_draft,
    }


STYLES = {"+": "green", "-": "red", "@": "cyan"}


def _print_diff(change: "Change") -> None:
    """A unified diff, in colours where somebody watches."""
    from rich.console import Console
    from rich.text import Text

    paper = Console(highlight=False, soft_wrap=True)
    for line in change.diff:
        paper.print(Text(printable(line), STYLES.get(line[0], "")))


def _tell(change: "Change") -> None:
    if change.is_empty:
        console.say("nothing to change: that is what is in force")
    elif not change.is_done:
        console.say("nothing is changed yet")
    elif change.version is None:
        console.say("the draft says what is in force again")
    else:
        console.say(
            f"in force as version {layout.short(change.version.id)}: {_title(change.version)}"
        )
        console.say("undo with: hyprstream policy rollback")


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        console.show(line)


def _edit(path: Path) -> None:
    editor = _editor()
    try:
        done = subprocess.run([*editor, str(path)], check=False)
    except OSError as error:
        raise Invalid(
            f"{editor[0]} cannot be started: {error.strerror}",
            hint=f"EDITOR=nano hyprstream policy edit, or change {path} and run: hyprstream policy diff",
        ) from None
    if done.returncode:
        raise Invalid(
            f"{editor[0]} ended with exit code {done.returncode}", hint="hyprstream policy diff"
        )


def _editor() -> list[str]:
    named = os.environ.get("VISUAL") or os.environ.get("EDITOR") or ""
    try:
        return shlex.split(named) or ["vi"]
    except ValueError as error:
        raise Invalid(
            f"the editor's command {named!r} cannot be read: {error}",
            hint="EDITOR=nano hyprstream policy edit",
        ) from None


@contextmanager
def _pointing() -> Generator[None]:
    """Show the line of a policy that has a mistake, and where in it."""
    from hyprstream.policy.rules import PolicySyntaxError

    try:
        yield
    except PolicySyntaxError as error:
        console.report(error.message, error.hint)
        margin = " " * len(str(error.line))
        console.say(f"  {error.line} | {printable(error.text)}")
        console.say(f"  {margin} | {' ' * (error.column - 1)}^")
        raise typer.Exit(console.USAGE) from None


def _is_interactive() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
