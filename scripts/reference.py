"""Writes the reference pages that the code can write itself: the command line and the settings. Knows Markdown alone."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import platformdirs
import typer
from typer.core import TyperCommand, TyperGroup

from hyprstream import settings
from hyprstream.cli.console import EXIT_CODES
from hyprstream.cli.main import make_group
from hyprstream.settings import Settings

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
WIDTH = 88
"""Columns of a help text."""

COMMAND_LINE = """\
# Command line

What `--help` says, without the frames it draws in a terminal. The answer goes to standard output, everything said about the work to
standard error. Shell completion: `hyprstream --install-completion`.
"""

EXIT_CODES_HEAD = """\
## Exit codes

| code | meaning |
|---|---|
"""

SETTINGS = f"""\
# Settings

Highest first: the command line, the environment, the configuration file, the default. An empty variable counts as not set. A key, or a
variable that begins with `{settings.PREFIX}`, that is not on this page is refused.

- `hyprstream config show` prints every value and who set it.
- `hyprstream config path` prints where the configuration file is looked for: on Linux `~/.config/hyprstream/config.toml`.
- `{settings.CONFIG_VARIABLE}`, or `hyprstream --config FILE`, names another file.

A section of the key is a table of the file:

```toml
[server]
port = 9000

[engine]
n_slots = 4
```

The user data directory is `~/.local/share` on Linux.
"""

FORMATS = {"path": "a path", "password": "printable ASCII without spaces"}
"""What a text must be, by the format of its JSON schema."""

OTHER_EXITS = {
    0: "done",
    1: "an error of the operating system, a question answered with no, an unmet goal of `bench`",
    2: "wrong usage",
    130: "interrupted by Ctrl-C",
}
"""Exit codes that no error of ours has, or that others share."""


def main() -> None:
    """Write every page."""
    REFERENCE.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Each page by its file name."""
    return {"cli.md": _command_line(), "settings.md": _settings()}


def _command_line() -> str:
    helps = [f"## {path}\n\n```text\n{text}\n```\n" for path, text in _helps()]
    return "\n".join([COMMAND_LINE, *helps, EXIT_CODES_HEAD + _exit_codes()])


def _helps() -> Iterator[tuple[str, str]]:
    group = make_group()
    context = group.make_context("hyprstream", [], resilient_parsing=True, terminal_width=WIDTH)
    yield from _help(context)


def _help(context: typer.Context) -> Iterator[tuple[str, str]]:
    command = context.command
    assert isinstance(command, TyperCommand | TyperGroup), "every command is one of Typer's"
    command.rich_markup_mode = None
    yield context.command_path, command.get_help(context).rstrip()
    if isinstance(command, TyperGroup):
        for name, child in command.commands.items():
            yield from _help(child.make_context(name, [], parent=context, resilient_parsing=True))


def _exit_codes() -> str:
    meanings: dict[int, list[str]] = {}
    for error, code in EXIT_CODES.items():
        meanings.setdefault(code, []).append(f"`{error.__name__}`")
    for code, meaning in OTHER_EXITS.items():
        meanings.setdefault(code, []).append(meaning)
    return _table((str(code), ", ".join(meanings[code])) for code in sorted(meanings))


def _settings() -> str:
    sections = [
        f"## {name}\n\n{section['description']}\n\n"
        "| key | variable | default | what it is | allowed |\n|---|---|---|---|---|\n"
        + _table(_row(f"{name}.{key}", field) for key, field in section["properties"].items())
        for name, section in _sections()
    ]
    return "\n".join([SETTINGS, *sections])


def _sections() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = Settings.model_json_schema()
    for name, link in schema["properties"].items():
        yield name, schema["$defs"][link["$ref"].rpartition("/")[2]]


def _row(key: str, field: dict[str, Any]) -> tuple[str, ...]:
    section, name = key.split(".")
    default = getattr(getattr(Settings(), section), name)
    variable = settings.variables()[key]
    return f"`{key}`", f"`{variable}`", _shown(default), field["description"], _allowed(field)


def _allowed(field: dict[str, Any]) -> str:
    # Where it can, in the words of the error that a wrong value gets.
    if words := settings._allowed(field):
        return words
    formats = (option.get("format", "") for option in field.get("anyOf", [field]))
    return next((FORMATS[name] for name in formats if name in FORMATS), "text")


def _shown(default: object) -> str:
    match default:
        case None | ():
            return "none"
        case Path():
            user_data = platformdirs.user_data_path()
            return f"`{default.relative_to(user_data)}` in the user data directory"
        case tuple():
            return ", ".join(f"`{item}`" for item in default)
        case bool():
            return f"`{str(default).lower()}`"
        case _:
            return f"`{default}`"


def _table(rows: Iterable[Iterable[str]]) -> str:
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


if __name__ == "__main__":
    main()
