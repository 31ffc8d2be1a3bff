"""What the set-up tells while pip works in silence."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "scripts" / "install.py"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("  [17/193] /usr/bin/g++ -O3 -c ggml.cpp", "compiling llama.cpp, step 17 of 193"),
        ("Collecting llama-cpp-python==0.3.36", "fetching llama-cpp-python"),
        ("  Building wheel for llama-cpp-python (pyproject.toml)", "building llama-cpp-python"),
        ("Installing collected packages: a, b", "installing"),
        ("  warning: unused variable", None),
    ],
)
def test_the_steps_of_pip_are_told_in_words(
    line: str, words: str | None, install: ModuleType
) -> None:
    assert install.told(line) == words


def test_lines_come_to_their_end(install: ModuleType) -> None:
    command = [sys.executable, "-c", "print('one'); print('two')"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [line for line in install.lines_of(process) if line is not None]
    assert lines == ["one\n", "two\n"]


def test_a_failing_pip_shows_the_end_of_its_log_and_the_way_out(
    install: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "LOG", tmp_path / "install.log")
    monkeypatch.setattr(install, "PYTHON", Path(sys.executable))
    with pytest.raises(install.Failed) as failure:
        install.pip("install", "--no-index", str(tmp_path / "nothing"))
    assert "install.log" in failure.value.args[1]
    assert str(tmp_path / "nothing") in capsys.readouterr().err
    assert str(tmp_path / "nothing") in (tmp_path / "install.log").read_text()


def test_an_old_python_is_refused_with_a_way_out(install: ModuleType) -> None:
    with pytest.raises(install.Failed, match=r"Python 3\.11 or newer is needed, this is 3\.9"):
        install.check_python((3, 9))
    install.check_python((3, 13))
