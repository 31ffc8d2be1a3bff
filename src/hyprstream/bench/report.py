"""Results as a person or a program reads them: tables on a terminal, one JSON document. Knows no measurements."""

from dataclasses import asdict
from typing import Any

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hyprstream.bench.machine import Machine
from hyprstream.bench.results import Goal, Report, Result


def show(console: Console, report: Report) -> None:
    """The machine, then every scenario."""
    show_machine(console, report.machine)
    for result in report.results:
        show_result(console, result)


def show_machine(console: Console, machine: Machine) -> None:
    """What the numbers were made on."""
    libraries = ", ".join(f"{name} {release}" for name, release in machine.libraries.items())
    console.print(f"{machine.cpu}, {machine.n_cores} cores, {machine.n_threads} threads")
    console.print(f"flags: {' '.join(machine.flags) or 'unknown'}", highlight=False)
    console.print(
        f"memory: {machine.memory_bytes / 2**30:.1f} GB, read at {machine.read_gb_per_second:.1f} GB/s (estimate)"
    )
    console.print(f"{machine.system}, Python {machine.python}, {libraries}", highlight=False)


def show_result(console: Console, result: Result) -> None:
    """One scenario: its table, its goals, its notes."""
    title = f"{result.scenario}: {result.question}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for column in result.columns:
        table.add_column(column, overflow="fold")
    for row in result.rows:
        table.add_row(*map(escape, row))
    console.print()
    console.print(table if result.columns else title)
    if result.goals:
        console.print(_goals(result.goals))
    for note in result.notes:
        console.print(f"- {escape(note)}", highlight=False)


def to_json(report: Report) -> bytes:
    """The whole report, every single measurement included. Goals carry their verdict as `is_met`."""
    document: dict[str, Any] = asdict(report)
    for described, result in zip(document["results"], report.results, strict=True):
        for goal, original in zip(described["goals"], result.goals, strict=True):
            goal["is_met"] = original.is_met
    return orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"


def _goals(goals: tuple[Goal, ...]) -> Table:
    table = Table("goal", "bound", "measured [95 % CI]", "verdict", box=None)
    for goal in goals:
        verdict = "[green]met[/]" if goal.is_met else "[red]not met[/]"
        measured = "refused" if goal.measured is None else str(goal.measured)
        table.add_row(escape(goal.claim), goal.bound, escape(measured), verdict)
    return table
