"""The command line's front door: which commands there are, and what a failure looks like. Knows no command's insides.

A command's module is imported when the command runs, so `--help` reads the table below and nothing else.
"""

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from hyprstream.cli import console
from hyprstream.core.errors import HyprstreamError, Invalid

COMMANDS = {
    "quick-start": (
        "hyprstream.cli.quickstart:quick_start",
        "Load a model, continue a prompt, show the speed.",
    ),
    "infer": ("hyprstream.cli.infer:infer", "Answer one prompt and print the answer."),
    "chat": (
        "hyprstream.cli.chat:chat",
        "Talk with a model in the terminal; /help lists the commands.",
    ),
    "server": ("hyprstream.cli.server:server", "Serve models over the OpenAI API."),
    "pull": (
        "hyprstream.cli.models:pull",
        "Fetch a model, continue an interrupted fetch, or update one from its remote.",
    ),
    "clone": ("hyprstream.cli.registry:clone", "Clone a model's Git repository."),
    "list": ("hyprstream.cli.registry:list_", "List the models, a line for every branch."),
    "inspect": (
        "hyprstream.cli.registry:inspect",
        "Describe a version of a model from every side.",
    ),
    "show": ("hyprstream.cli.models:show", "Describe a model that can be served, or a .gguf file."),
    "status": ("hyprstream.cli.branches:status", "Compare worktrees with their branches."),
    "commit": ("hyprstream.cli.branches:commit", "Make a new version of what a worktree holds."),
    "branch": ("hyprstream.cli.branches:branch", "List, make or delete branches."),
    "checkout": (
        "hyprstream.cli.branches:checkout",
        "Put the files of a branch on disk as they were committed.",
    ),
    "merge": ("hyprstream.cli.branches:merge", "Bring another version's changes into a branch."),
    "tag": ("hyprstream.cli.branches:tag", "List, make or delete tags."),
    "log": ("hyprstream.cli.branches:log", "List the commits of a version, newest first."),
    "diff": ("hyprstream.cli.branches:diff", "Show what differs between two versions."),
    "push": ("hyprstream.cli.branches:push", "Send a branch to a remote."),
    "remote": ("hyprstream.cli.remote:app", "Where a model is fetched from and pushed to."),
    "worktree": ("hyprstream.cli.worktree:app", "The files of a model's branches on disk."),
    "rename": ("hyprstream.cli.registry:rename", "Give a model another name."),
    "remove": (
        "hyprstream.cli.registry:remove",
        "Remove a model or one of its branches, after asking.",
    ),
    "rm": ("hyprstream.cli.models:rm", "Remove a model, or what an unfinished pull left."),
    "gc": ("hyprstream.cli.upkeep:gc", "Free what no version needs any more."),
    "verify": (
        "hyprstream.cli.upkeep:verify",
        "Read every large file again, and mend what is broken.",
    ),
    "dedup-report": ("hyprstream.cli.upkeep:dedup_report", "Show what sharing large files saves."),
    "registry": ("hyprstream.cli.registry:app", "The registry's own history: log and undo."),
    "policy": ("hyprstream.cli.policy:app", "Who may do what: rules, templates, tokens."),
    "audit": ("hyprstream.cli.audit:app", "Who did what, and which rule allowed it."),
    "bench": (
        "hyprstream.bench.cli:bench",
        "Measure a server, and others beside it under the same conditions.",
    ),
    "config": ("hyprstream.cli.config:app", "Show the settings and where each comes from."),
    "demo": (
        "hyprstream.cli.demo:demo",
        "Fetch a model, serve it, ask it one question, then talk.",
    ),
}
"""Name to where the function or app is, and the first line of its help."""


class LazyCommand(TyperCommand):
    """Stands for a command until somebody calls it."""

    def __init__(self, name: str, target: str, help_line: str) -> None:
        super().__init__(name, help=help_line)
        self._target = target

    def make_context(self, *args: Any, **kwargs: Any) -> typer.Context:
        """The context of the real command; from here on this one is out of the way."""
        module, _, attribute = self._target.partition(":")
        target = getattr(import_module(module), attribute)
        return cast(typer.Context, _command(self.name or "", target).make_context(*args, **kwargs))


def _command(name: str, target: Any) -> TyperCommand | TyperGroup:
    app = target
    if not isinstance(app, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(target)
    return cast(TyperCommand | TyperGroup, get_command(app))


def _print_version(is_asked: bool) -> None:
    if is_asked:
        console.show(f"hyprstream {version('hyprstream')}")
        raise typer.Exit


def _options(
    config: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="TOML file to read the settings from."),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Serve language models: hyprstream quick-start."""
    if config is not None:
        # A variable, so that a server this command starts reads the same file.
        os.environ["HYPRSTREAM_CONFIG"] = str(config)


def make_group() -> TyperGroup:
    """The command tree."""
    app = typer.Typer(
        name="hyprstream",
        callback=_options,
        no_args_is_help=True,
        epilog=console.EXIT_CODES_HELP,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    group = cast(TyperGroup, get_command(app))
    for name, (target, help_line) in COMMANDS.items():
        group.add_command(LazyCommand(name, target, help_line))
    return group


def run(args: Sequence[str]) -> int:
    """Run one command line and return its exit code. A bug keeps its traceback; everything else is one line."""
    try:
        arguments = [_as_text(arg) for arg in args]
        code = make_group().main(arguments, prog_name="hyprstream", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else console.OK
    except HyprstreamError as error:
        console.report(error.message, error.hint)
        return console.exit_code(error)
    except typer.TyperException as error:
        return _usage(error)
    except KeyboardInterrupt:
        return console.INTERRUPTED
    except typer.Abort:  # somebody was asked, and said no
        return console.FAILURE
    except OSError as error:
        if error.errno == errno.EPIPE:
            return _reader_left()
        console.report(str(error))
        return console.FAILURE


def _as_text(arg: str) -> str:
    # Python reads arguments in the locale's encoding and hides what does not fit; we mean the bytes, as UTF-8.
    try:
        return os.fsencode(arg).decode()
    except UnicodeError:
        raise Invalid(
            "an argument is not UTF-8", hint="write the file's or pipe's text in UTF-8"
        ) from None


def _usage(error: typer.TyperException) -> int:
    context = cast(typer.Context | None, getattr(error, "ctx", None))
    path = context.command_path if context else "hyprstream"
    # Without arguments the help is on the screen already, and the message is empty.
    if message := error.format_message():
        console.report(message, f"{path} --help")
    return console.USAGE


def _reader_left() -> int:
    # `| head` has seen enough. The interpreter would flush the closed pipe again on its way out.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return console.FAILURE


def main() -> None:
    """Entry point of the `hyprstream` script."""
    console.open_streams()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
