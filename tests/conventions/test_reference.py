"""The reference says what the program says of itself: the generated pages all of it, the hand-written one every name."""

import importlib.util
import re
from pathlib import Path

import pytest

from hyprstream.cli.main import COMMANDS
from hyprstream.core.errors import Conflict, Invalid, NotFound, SourceError
from hyprstream.server.errors import SHAPES
from hyprstream.server.openai import decode
from hyprstream.server.openai.schemas import (
    ChatCompletionBody,
    ChatMessage,
    CompletionBody,
    StreamOptions,
)
from hyprstream.settings import variables

ROOT = Path(__file__).parent.parent.parent


def _pages() -> dict[str, str]:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    return reference.pages()


@pytest.mark.parametrize("name", ["cli.md", "settings.md"])
def test_a_generated_page_is_what_the_code_generates(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == _pages()[name], f"docs/reference/{name} is stale: run `make docs`"


def test_every_command_and_every_setting_has_its_place() -> None:
    pages = _pages()
    assert [name for name in COMMANDS if f"\n## hyprstream {name}\n" not in pages["cli.md"]] == []
    assert [
        key
        for key, variable in variables().items()
        if f"| `{key}` | `{variable}` |" not in pages["settings.md"]
    ] == []


def _section(title: str) -> set[str]:
    """Everything in code font below a heading of the hand-written API page, up to the next heading of its rank."""
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    _, found, rest = page.partition(f"\n{title}\n")
    assert found, f"docs/reference/api.md has no heading {title!r}"
    rank = title.index(" ")
    below = re.split(rf"\n#{{1,{rank}}} ", re.sub(r"```.*?```", "", rest, flags=re.DOTALL))[0]
    return set(re.findall(r"`([^`]+)`", below))


def test_every_field_of_the_schemas_is_on_the_api_page() -> None:
    honoured = _section("### Honoured")
    fields = {*ChatCompletionBody.model_fields, *CompletionBody.model_fields}
    assert fields - {"stream_options"} - honoured == set()
    assert {f"stream_options.{name}" for name in StreamOptions.model_fields} - honoured == set()
    assert set(ChatMessage.model_fields) - _section("### Messages") == set()


def test_every_refused_field_is_on_the_api_page() -> None:
    values = {"null", "false", "true", "0", "-1", '""', "[]", "{}", '"none"', '"auto"', '["text"]'}
    named = _section("### Refused") - values - {"param", '{"type": "text"}'}
    assert named == set(decode._REFUSED)
    assert set(decode._REFUSED_IN_MESSAGE) - _section("### Messages") == set()


def test_every_error_is_on_the_api_page() -> None:
    named = _section("## Errors")
    # No route pulls a model, so none meets a source or a conflict; a code of NotFound has its kind.
    elsewhere = (SourceError, Conflict, NotFound, Invalid)
    shapes = [shape for error, shape in SHAPES.items() if error not in elsewhere]
    assert {shape.type for shape in SHAPES.values()} - named == set()
    assert {shape.code for shape in shapes} - named == set()
