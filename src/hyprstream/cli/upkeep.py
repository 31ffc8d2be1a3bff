"""The commands that look after the store: gc, verify, dedup-report. Knows what they print; knows no blobs."""

import json
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.cli import console, options
from hyprstream.cli.layout import as_object, counted, human_size, short
from hyprstream.core.errors import Corrupt
from hyprstream.core.principal import os_principal

if TYPE_CHECKING:
    from hyprstream.registry.entries import VerifyEvent


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be deleted.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Free what no version needs any more.

    Example: hyprstream gc --dry-run

    That is large files, removed models, and left-overs of transfers.
    """
    with options.open_tools() as tools:
        report = tools.registry.gc(os_principal(), dry_run)
    if as_json:
        console.show(json.dumps(as_object(report)))
        return
    deleted = ", ".join(
        (
            counted(report.n_blobs, "large file"),
            counted(report.n_removed_models, "removed model"),
            counted(report.n_transfers, "left-over"),
        )
    )
    frees = "would free" if dry_run else "freed"
    console.show(f"{frees} {human_size(report.freed_bytes)}: {deleted}")
    console.show(f"kept {human_size(report.kept_bytes)}")


def verify(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", autocompletion=options.complete_model),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON event per line.")] = False,
) -> None:
    """Read every large file again, and mend what is broken.

    Example: hyprstream verify qwen3-small
    """
    found: Counter[str] = Counter()
    with (
        options.open_tools() as tools,
        closing(tools.registry.verify(os_principal(), models or None)) as events,
    ):
        for event in events:
            found[event.soundness.value] += 1
            if as_json:
                console.show(json.dumps({"event": "verified", **as_object(event)}))
            else:
                console.say(_line(event))
    n_lost = found["broken"] + found["missing"]
    summary = ", ".join(f"{n} {soundness}" for soundness, n in sorted(found.items()))
    if n_lost:
        raise Corrupt(
            f"{counted(n_lost, 'large file')} cannot be used: {summary}",
            hint="fetch the model again, or hyprstream remove it",
        )
    if not as_json:
        console.show(summary or "no large files")


def dedup_report(as_json: options.AsJson = False) -> None:
    """Show what sharing large files saves.

    Example: hyprstream dedup-report
    """
    with options.open_tools() as tools:
        report = tools.registry.dedup_report(os_principal())
    if as_json:
        console.show(json.dumps({**as_object(report), "saved_bytes": report.saved_bytes}))
        return
    drivers = ", ".join(f"{n} by {driver}" for driver, n in sorted(report.drivers.items()))
    lines = {
        "models": f"{report.n_models}, with {counted(report.n_worktrees, 'worktree')}",
        "files": human_size(report.logical_bytes),
        "on disk": f"{human_size(report.stored_bytes)} in {counted(report.n_blobs, 'large file')}",
        "saved": human_size(report.saved_bytes),
        "links": drivers or "none",
    }
    for key, value in lines.items():
        console.show(f"{key:<14}{value}")


def _line(event: "VerifyEvent") -> str:
    line = f"{event.soundness.value:<9} {event.model} {event.file} sha256:{short(event.sha256)}"
    return f"{line}: {event.message}" if event.message else line
