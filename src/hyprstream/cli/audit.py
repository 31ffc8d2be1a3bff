"""`hyprstream audit`: what was decided, and whether the log of it is whole. Knows how an entry is printed; writes none."""

import json
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import console, layout
from hyprstream.cli.tools import full_subject, open_tools, printable
from hyprstream.core.errors import Invalid
from hyprstream.core.principal import Action, os_principal

if TYPE_CHECKING:
    from hyprstream.policy.audit import AuditEntry, VerifyReport

FOLLOW_SECONDS = 0.5
"""Time between two looks at a log that is being followed."""

app = typer.Typer(
    no_args_is_help=True,
    help="Who did what, and which rule allowed it.\n\nExample: hyprstream audit tail",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per entry.")]

_AGO = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@app.command()
def verify(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
) -> None:
    """Check that no entry was changed, removed, inserted or moved, and that none is lost. Exit code 1 otherwise.

    Example: hyprstream audit verify
    """
    with open_tools() as tools:
        report = tools.audit.verify(os_principal())
    if as_json:
        console.show(json.dumps(layout.as_object(report)))
    else:
        console.show(_verdict(report))
        for note in _notes(report):
            console.say(note)
    if not report.is_whole:
        raise typer.Exit(console.FAILURE)


@app.command()
def tail(
    n: Annotated[int, typer.Option("-n", min=0, help="How many entries.")] = 10,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with every new entry until interrupted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the last entries, oldest first.

    Example: hyprstream audit tail -n 20 -f
    """
    with open_tools() as tools:
        if not follow:
            _print(tools.audit.tail(os_principal(), n), as_json=as_json)
            return
        entries = tools.audit.follow(os_principal(), n, lambda: time.sleep(FOLLOW_SECONDS))
        with closing(entries):
            _print(entries, as_json=as_json)


@app.command()
def grep(
    subject: Annotated[
        str | None,
        typer.Option(metavar="USER", help="Who asked: alice is token:alice; local:* is a pattern."),
    ] = None,
    action: Annotated[Action | None, typer.Option(help="What was to be done.")] = None,
    resource: Annotated[
        str | None,
        typer.Option(metavar="RESOURCE", help="What it was to be done to; model:* is a pattern."),
    ] = None,
    denied: Annotated[bool, typer.Option("--denied", help="Only what was denied.")] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="30m, 1h, 2d, 1w ago, or a time like 2026-02-04T10:00."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the decisions that fit every option, oldest first.

    Example: hyprstream audit grep --denied --since 1h

    Example: hyprstream audit grep --subject alice --resource "model:*"
    """
    with open_tools() as tools:
        entries = tools.audit.grep(
            os_principal(),
            subject=None if subject is None else full_subject(subject),
            action=action,
            resource=resource,
            denied_only=denied,
            since=None if since is None else parse_since(since, datetime.now(UTC)),
        )
        _print(entries, as_json=as_json)


def parse_since(text: str, now: datetime) -> datetime:
    """The moment that `30m`, `1h`, `2d` or `1w` ago was, or that an ISO 8601 time is.

    Raises:
        Invalid: it is neither.
    """
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(
            f"{text[:40]!r} is not a time", param="since", hint="--since 1h, or --since 2026-02-04"
        ) from None


def _verdict(report: "VerifyReport") -> str:
    if report.problem is None:
        word = "sound" if report.is_whole else "not whole"
        entries = "entry" if report.n_entries == 1 else "entries"
        n_files = layout.counted(len(report.files), "file")
        return f"{word}: {report.n_entries:,} {entries} in {n_files}"
    place = f"line {report.problem.line}" if report.problem.line else "the file"
    return f"broken: {report.problem.file}: {place} was {report.problem.what}"


def _notes(report: "VerifyReport") -> Iterator[str]:
    if report.n_dropped:
        yield f"{report.n_dropped:,} decisions were never written, because the disk was too slow or full"
    if report.n_recovered:
        yield f"writing was interrupted {layout.counted(report.n_recovered, 'time')}"
    if report.n_lost:
        yield f"lost, by a power cut or by somebody's hand: {report.n_lost:,}"
    if report.n_headless:
        yield "audit.head was missing: nobody can tell whether entries before that are lost"


def _print(entries: "Iterable[AuditEntry]", *, as_json: bool) -> None:
    for entry in entries:
        console.show(json.dumps(layout.as_object(entry)) if as_json else _line(entry))


def _line(entry: "AuditEntry") -> str:
    if entry.allowed is None:
        return f"{entry.time}  {entry.event}: {entry.n_lost} lost"
    verdict = "allowed" if entry.allowed else "denied "
    what = f"{entry.subject} {entry.action} {entry.resource}"
    version = f" at {layout.short(entry.version)}" if entry.version else ""
    why = entry.rule if entry.line is None else f"line {entry.line}: {entry.rule}"
    return printable(f"{entry.time}  {verdict}  {what}{version} ({entry.door})  {why}")
