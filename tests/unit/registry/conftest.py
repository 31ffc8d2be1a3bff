"""What the tests of the registry share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyprstream.registry.registry import Registry
from support.loopback import Loopback, loopback


@pytest.fixture
def web() -> Iterator[Loopback]:
    """A web server on loopback."""
    with loopback() as server:
        yield server


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """An empty registry."""
    return Registry(tmp_path / "models")
