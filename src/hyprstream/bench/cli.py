"""`hyprstream bench`: flags to options, scenarios in order, where the results go. Knows no measuring.

Imports wait inside the functions: `hyprstream bench --help` needs none of them.
"""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hyprstream.core.errors import HyprstreamError, Invalid

if TYPE_CHECKING:
    from hyprstream.bench.bench import Bench
    from hyprstream.bench.results import Report, Result
    from hyprstream.bench.servers import Launcher

SCENARIOS = ("throughput", "overhead", "longprompt", "cancel", "overload", "policy")
WIDTH = 140


def bench(
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(metavar="[SCENARIO]...", help=f"{', '.join(SCENARIOS)}; without it, all."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="MODEL", help="A stored model; else the default."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(
            "--url", help="Judge the OpenAI-compatible server there instead of starting one."
        ),
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            "--peer",
            metavar="llama-server|NAME=URL",
            help="Compare with this server in the same run; may be repeated.",
        ),
    ] = None,
    n_rounds: Annotated[
        int | None,
        typer.Option("--rounds", min=1, help="Each is A B B A; else 5, or 1 if --quick."),
    ] = None,
    streams: Annotated[
        str | None, typer.Option("--streams", metavar="N,N,...", help="Simultaneous streams.")
    ] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option("--prompt-tokens", metavar="N,N,...", help="Prompt lengths.")
    ] = None,
    n_tokens: Annotated[
        int, typer.Option("--tokens", min=2, help="Tokens each stream generates.")
    ] = 64,
    n_slots: Annotated[int, typer.Option("--slots", min=1, help="Of servers started here.")] = 8,
    n_ctx: Annotated[
        int, typer.Option("--n-ctx", min=256, help="Context of a slot, of servers started here.")
    ] = 4608,
    n_threads: Annotated[
        int | None,
        typer.Option("--threads", min=1, help="Of servers started here; else one per core."),
    ] = None,
    rest_seconds: Annotated[
        float | None,
        typer.Option(
            "--rest", min=0, help="Seconds of rest before a round; else 10, or 0 if --quick."
        ),
    ] = None,
    seed: Annotated[
        str | None,
        typer.Option("--seed", help="Repeats the prompts of another run; else they are new."),
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write every single measurement here."),
    ] = None,
    plot_path: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw `throughput` here, as PNG.")
    ] = None,
    is_quick: Annotated[
        bool, typer.Option("--quick", help="One short round: shows that it works, proves nothing.")
    ] = False,
) -> None:
    """Measure a server, and others beside it under the same conditions.

    A goal is met if the whole 95 % confidence interval is on its good side; the exit code is 1 if one is not.

    Example: hyprstream bench throughput --peer llama-server --streams 1,2,4,8
    """
    import secrets

    from hyprstream.bench.bench import QUICK, Bench, Options

    names = _scenarios(scenarios)
    _require_writable(json_path, plot_path, names)
    usual = QUICK if is_quick else Options()
    options = Options(
        n_rounds=n_rounds or usual.n_rounds,
        rest_seconds=usual.rest_seconds if rest_seconds is None else rest_seconds,
        streams=_counts(streams, "streams") or usual.streams,
        prompt_tokens=_counts(prompt_tokens, "prompt-tokens") or usual.prompt_tokens,
        n_tokens=n_tokens,
        # A server that runs for longer than a benchmark has seen, and may have cached, the prompts of the last one.
        seed=seed or secrets.token_hex(4),
        n_slots=n_slots,
        n_ctx=n_ctx,
        n_threads=n_threads or _n_cores(),
        is_quick=is_quick,
    )
    launchers, model_path = _launchers(model, url, peers or [])
    report = _measure(names, Bench(options, launchers, model_path, _say))
    if json_path is not None:
        from hyprstream.bench.report import to_json

        json_path.write_bytes(to_json(report))
    if plot_path is not None:
        from hyprstream.bench.plot import plot

        plot(report, plot_path)
    if not report.are_goals_met:
        raise typer.Exit(1)


def _scenarios(named: list[str] | None) -> tuple[str, ...]:
    for name in named or ():
        if name not in SCENARIOS:
            raise Invalid(f"there is no scenario {name!r}", hint=", ".join(SCENARIOS))
    return tuple(dict.fromkeys(named or SCENARIOS))


def _require_writable(
    json_path: Path | None, plot_path: Path | None, names: tuple[str, ...]
) -> None:
    """Find out before the measurements what would lose them afterwards.

    Raises:
        Invalid: a directory is missing, or there will be nothing to plot or nothing to plot with.
    """
    for path in (json_path, plot_path):
        if path is not None and not path.absolute().parent.is_dir():
            raise Invalid(f"there is no directory {path.parent}", hint=f"mkdir -p {path.parent}")
    if plot_path is not None:
        from hyprstream.bench.plot import require_matplotlib

        require_matplotlib()
        if "throughput" not in names:
            raise Invalid("there is nothing to plot without `throughput`", param="plot")


def _counts(text: str | None, flag: str) -> tuple[int, ...]:
    """`1,2,4` as numbers; nothing if it was not said.

    Raises:
        Invalid: something else, or a count below 1.
    """
    try:
        counts = tuple(int(item) for item in text.split(",")) if text else ()
    except ValueError:
        counts = (0,)
    if any(count < 1 for count in counts):
        raise Invalid(f"--{flag} {text}: expected counts like 1,2,4", param=flag)
    return counts


def _n_cores() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or 1


def _launchers(
    model: str | None, url: str | None, peers: list[str]
) -> "tuple[tuple[Launcher, ...], Path | None]":
    """The servers, the one that is judged first; and the model file, if one of them has to be started with it."""
    from hyprstream.bench.client import Endpoint
    from hyprstream.bench.servers import Hyprstream, LlamaServer, Running

    launchers: list[Launcher] = []
    model_path: Path | None = None
    if url is None or model is not None or "llama-server" in peers:
        name, models_dir, model_path = _stored(model)
        launchers.append(Hyprstream(name, models_dir))
    if url is not None:
        launchers[:] = [Running("server", Endpoint.parse(url, api_key=_api_key()))]
    for peer in peers:
        name, equals, address = peer.partition("=")
        if equals:
            launchers.append(Running(name, Endpoint.parse(address)))
        elif peer == "llama-server":
            assert model_path is not None, "it was looked up above"
            launchers.append(LlamaServer(model_path))
        else:
            raise Invalid(f"--peer {peer}: expected llama-server or NAME=URL", param="peer")
    if len({launcher.name for launcher in launchers}) < len(launchers):
        raise Invalid("every server needs a name of its own", param="peer")
    return tuple(launchers), model_path


def _stored(model: str | None) -> tuple[str, Path, Path]:
    """Name, store directory and file of the model.

    Raises:
        NotFound: it is not in the store.
    """
    from hyprstream.bootstrap import open_registry
    from hyprstream.core.principal import os_principal
    from hyprstream.core.refs import ModelRef
    from hyprstream.settings import load

    settings = load().settings
    with open_registry(settings) as tools:
        ref = ModelRef.parse(model or settings.models.default)
        stored = tools.registry.show(os_principal(), ref)
    return str(stored.ref), settings.models.dir, Path(stored.path)


def _api_key() -> str | None:
    from hyprstream.settings import load

    key = load().settings.server.api_key
    return key.get_secret_value() if key else None


def _measure(names: tuple[str, ...], bench: "Bench") -> "Report":
    """Run the scenarios and show each as it ends. One that fails leaves a note and does not end the others."""
    from dataclasses import asdict

    from rich.console import Console

    from hyprstream.bench import machine, report
    from hyprstream.bench.results import Report

    # Being terminated ends the servers that were started, as Ctrl-C does; by default it would leave them behind.
    signal.signal(signal.SIGTERM, _interrupt)
    # A file or a pipe has no width to respect, and folded tables are hard to read.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    described = machine.describe()
    report.show_machine(console, described)
    results: list[Result] = []
    for name in names:
        results.append(_run(name, bench))
        report.show_result(console, results[-1])
    return Report(described, asdict(bench.options), tuple(results))


def _interrupt(signum: int, frame: object) -> None:
    signal.raise_signal(signal.SIGINT)


def _run(name: str, bench: "Bench") -> "Result":
    import asyncio
    from importlib import import_module

    from hyprstream.bench.results import Goal, Result

    scenario = import_module(f"hyprstream.bench.scenarios.{name}")
    if sys.platform == "win32":
        new_event_loop = asyncio.new_event_loop
    else:
        from uvloop import new_event_loop

    bench.say(f"{name}: {scenario.QUESTION}")
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(scenario.run(bench))
    except HyprstreamError as error:
        note = error.message + (f" ({error.hint})" if error.hint else "")
        unmet = Goal(f"{name} can be measured", None, at_least=1)
        return Result(name, scenario.QUESTION, (), (), (unmet,), (note,))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
