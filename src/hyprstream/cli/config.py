"""`hyprstream config`: what is set, and by whom. Knows the settings' names and sources; changes nothing."""

import json
from typing import Annotated

import typer

from hyprstream.cli import console

app = typer.Typer(no_args_is_help=True, help="Show the settings and where each comes from.")


@app.command()
def show(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one object: key to value and source.")
    ] = False,
) -> None:
    """Show every setting in effect, and who set it. A secret is never shown.

    Example: HYPRSTREAM_SERVER_PORT=9000 hyprstream config show
    """
    from hyprstream.settings import load, variables

    loaded = load()
    tree = loaded.settings.model_dump(mode="json")
    values = {
        f"{section}.{name}": value
        for section, content in tree.items()
        for name, value in content.items()
    }
    if as_json:
        entries = {
            key: {"value": value, "source": loaded.sources[key], "variable": variables()[key]}
            for key, value in values.items()
        }
        console.show(json.dumps(entries, indent=2))
        return
    written = {key: _written(value) for key, value in values.items()}
    key_width = max(map(len, written))
    value_width = max(map(len, written.values()))
    for key, value in written.items():
        console.show(f"{key:<{key_width}}  {value:<{value_width}}  {loaded.sources[key]}")


@app.command()
def path() -> None:
    """Print where the configuration file is looked for.

    Example: hyprstream --config ./config.toml config path
    """
    from hyprstream.settings import config_path

    console.show(str(config_path()))


def _written(value: object) -> str:
    return "-" if value is None else json.dumps(value, ensure_ascii=False)
