"""`hyprstream worktree`: where the files of a branch are on disk. Knows what it prints; knows no Git."""

import json
from typing import Annotated

import typer

from hyprstream.cli import console, options
from hyprstream.cli.branches import bring_files
from hyprstream.cli.layout import as_object, counted, moment, short, table
from hyprstream.core.principal import os_principal
from hyprstream.core.refs import ModelRef

app = typer.Typer(
    no_args_is_help=True,
    help="The files of a model's branches on disk.\n\nExample: hyprstream worktree list qwen3-small",
)

Branch = Annotated[str, typer.Argument(metavar="BRANCH")]


@app.command()
def add(model: options.Name, branch: Branch, as_json: options.AsJson = False) -> None:
    """Put the files of a branch on disk; large ones are shared.

    Example: hyprstream worktree add qwen3-small experiment
    """
    ref = ModelRef.parse(f"{model}:{branch}")
    with options.open_tools() as tools:
        bring_files(tools, ref)
        tree = tools.repositories.add_worktree(os_principal(), ref)
    if as_json:
        console.show(json.dumps(as_object(tree)))
    else:
        console.say(f"{ref.full} is in {tree.path}")


@app.command("list")
def list_(model: options.Name, as_json: options.AsJson = False) -> None:
    """List a model's branches, and where their files are.

    Example: hyprstream worktree list qwen3-small
    """
    me = os_principal()
    with options.open_tools() as tools:
        names = tools.repositories.names(me, model)
        is_dirty = {
            branch: tools.repositories.is_dirty(me, ModelRef(names.name, branch))
            for branch in names.worktrees
        }
    if as_json:
        trees = {
            branch: {**as_object(tree), "is_dirty": is_dirty[branch]}
            for branch, tree in names.worktrees.items()
        }
        console.show(json.dumps({branch: trees.get(branch) for branch in names.branches}))
        return
    rows = [("BRANCH", "COMMIT", "STATE", "WORKTREE")]
    for branch, commit in names.branches.items():
        tree = names.worktrees.get(branch)
        state = "-" if tree is None else "dirty" if is_dirty[branch] else "clean"
        rows.append((branch, short(commit), state, tree.path if tree else "-"))
    for line in table(rows):
        console.show(line)


@app.command()
def info(model: options.Name, branch: Branch, as_json: options.AsJson = False) -> None:
    """Describe one worktree.

    Example: hyprstream worktree info qwen3-small experiment
    """
    ref = ModelRef.parse(f"{model}:{branch}")
    with options.open_tools() as tools:
        tree, status = tools.repositories.worktree(os_principal(), ref)
    if as_json:
        console.show(json.dumps({**as_object(tree), "status": as_object(status)}))
        return
    state = counted(len(status.changes), "change") if status.changes else "clean"
    lines = {
        "branch": ref.full,
        "commit": tree.commit,
        "state": state,
        "made": moment(tree.created),
        "path": tree.path,
    }
    for key, value in lines.items():
        console.show(f"{key:<14}{value}")


@app.command()
def remove(
    model: options.Name,
    branch: Branch,
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Also what is not committed.")
    ] = False,
    as_json: options.AsJson = False,
) -> None:
    """Take the files of a branch off the disk; the branch stays.

    Example: hyprstream worktree remove qwen3-small experiment
    """
    ref = ModelRef.parse(f"{model}:{branch}")
    with options.open_tools() as tools:
        tools.repositories.remove_worktree(os_principal(), ref, force)
    if as_json:
        console.show(json.dumps({"removed": ref.full}))
    else:
        console.say(f"removed the worktree of {ref.full}; the branch stays")
