"""`hyprstream remote`: where a model is fetched from and pushed to. Knows what it prints; knows no Git."""

import json
from typing import Annotated

import typer

from hyprstream.cli import console, options
from hyprstream.cli.layout import table
from hyprstream.core.principal import os_principal

app = typer.Typer(
    no_args_is_help=True,
    help="Where a model is fetched from and pushed to.\n\nExample: hyprstream remote list qwen3-small",
)

Remote = Annotated[str, typer.Argument(metavar="REMOTE")]
Url = Annotated[str, typer.Argument(metavar="URL", help="https://, ssh://, file://, a path.")]


@app.command()
def add(model: options.Name, remote: Remote, url: Url, as_json: options.AsJson = False) -> None:
    """Name a place to fetch from and push to.

    Example: hyprstream remote add qwen3-small origin https://huggingface.co/Qwen/Qwen3-0.6B-GGUF
    """
    with options.open_tools() as tools:
        tools.repositories.add_remote(os_principal(), model, remote, url)
        _show(tools.repositories.remotes(os_principal(), model), as_json)


@app.command("list")
def list_(model: options.Name, as_json: options.AsJson = False) -> None:
    """List a model's remotes.

    Example: hyprstream remote list qwen3-small
    """
    with options.open_tools() as tools:
        remotes = tools.repositories.remotes(os_principal(), model)
    if not remotes and not as_json:
        console.say(f"{model} has no remotes; hyprstream remote add {model} origin URL")
        return
    _show(remotes, as_json)


@app.command("set-url")
def set_url(model: options.Name, remote: Remote, url: Url, as_json: options.AsJson = False) -> None:
    """Change where a remote is.

    Example: hyprstream remote set-url qwen3-small origin https://example.com/qwen3.git
    """
    with options.open_tools() as tools:
        tools.repositories.set_remote_url(os_principal(), model, remote, url)
        _show(tools.repositories.remotes(os_principal(), model), as_json)


@app.command()
def rename(
    model: options.Name,
    remote: Remote,
    new: Annotated[str, typer.Argument(metavar="NEW_NAME")],
    as_json: options.AsJson = False,
) -> None:
    """Call a remote something else.

    Example: hyprstream remote rename qwen3-small origin upstream
    """
    with options.open_tools() as tools:
        tools.repositories.rename_remote(os_principal(), model, remote, new)
        _show(tools.repositories.remotes(os_principal(), model), as_json)


@app.command()
def remove(model: options.Name, remote: Remote, as_json: options.AsJson = False) -> None:
    """Forget a remote.

    Example: hyprstream remote remove qwen3-small upstream
    """
    with options.open_tools() as tools:
        tools.repositories.remove_remote(os_principal(), model, remote)
        remotes = tools.repositories.remotes(os_principal(), model)
    if as_json:
        _show(remotes, as_json)
    else:
        console.say(f"{model} has no remote {remote} any more")


def _show(remotes: dict[str, str], as_json: bool) -> None:
    if as_json:
        console.show(json.dumps(remotes))
    else:
        for line in table(sorted(remotes.items())):
            console.show(line)
