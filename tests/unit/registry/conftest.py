"""What the tests of the registry share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hyprstream.registry.store import ModelStore
from support.loopback import Loopback, loopback


@pytest.fixture
def web() -> Iterator[Loopback]:
    """A web server on loopback."""
    with loopback() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    """An empty store whose clock stands still."""
    return ModelStore(tmp_path / "models", clock=lambda: 1_700_000_000.5)
