"""What every test may ask for. Each test gets a home of its own; nothing reads the user's files."""

import os
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home directory and an environment without our variables."""
    for name in list(os.environ):
        if name.startswith(("HYPRSTREAM_", "XDG_", "HF_")):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    # Without a configuration structlog prints to standard output, among the answers.
    structlog.configure(
        logger_factory=structlog.stdlib.LoggerFactory(), wrapper_class=structlog.stdlib.BoundLogger
    )
    yield home
    structlog.reset_defaults()
    # `--config` sets a variable, for the processes a command starts.
    for name in [name for name in os.environ if name.startswith("HYPRSTREAM_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The real SmolLM2-135M-Instruct (Q4_1) in a worktree, fetched once through our own source into `.cache/models`."""
    from hyprstream.core.refs import ModelRef
    from hyprstream.registry.pull import pull
    from hyprstream.registry.registry import Registry

    registry = Registry(REPOSITORY / ".cache" / "models")
    ref = ModelRef("smollm2")
    if registry.find(ref) is None:
        deque(pull(registry, str(ref)), maxlen=0)
    return registry.repository("smollm2").worktree_path("main") / "model.gguf"


@pytest.fixture(scope="session")
def smollm2_models_dir(smollm2_path: Path) -> Path:
    """The registry's directory that holds it."""
    return smollm2_path.parents[3]


def pytest_sessionfinish() -> None:
    """llama_cpp opens two files on import and leaves them to the interpreter, which complains while it ends."""
    utilities = sys.modules.get("llama_cpp._utils")
    if utilities is not None:
        utilities.outnull_file.close()
        utilities.errnull_file.close()
