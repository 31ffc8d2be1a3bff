"""Puts the packages of a lock file and this project into `.venv`, and shows that it is alive meanwhile.

Runs before anything is installed, so it uses the standard library alone. pip is silent while llama.cpp compiles: its
output goes to `.venv/install.log`, and what it is doing to the terminal.
"""

import argparse
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOG = VENV / "install.log"

OLDEST_PYTHON = (3, 11)
QUIET_SECONDS = 15
"""Time between two lines where there is no terminal to keep one line moving on."""

STEPS = (
    (re.compile(r"^\s*\[(\d+)/(\d+)\] "), "compiling llama.cpp, step {0} of {1}"),
    (re.compile(r"^\s*Building wheel for ([\w.-]+)"), "building {0}"),
    (re.compile(r"^\s*Collecting ([\w.-]+)"), "fetching {0}"),
    (re.compile(r"^\s*Installing collected packages"), "installing"),
)
"""Lines of pip's verbose output worth telling, and in which words."""


class Failed(Exception):
    """Setting up went wrong. The second argument is the way out."""


class Progress:
    """One line that moves on; without a terminal, a line now and then."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._said_at = self._started
        self._is_live = sys.stderr.isatty()

    def show(self, step: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        line = f"  {minutes}:{seconds:02}  {step}"
        if self._is_live:
            print(
                f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}",
                end="",
                file=sys.stderr,
                flush=True,
            )
        elif time.monotonic() - self._said_at > QUIET_SECONDS:
            self._said_at = time.monotonic()
            print(line, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._is_live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lock", type=Path, help="requirements with hashes")
    lock = parser.parse_args().lock
    try:
        check_python(sys.version_info[:2])
        make_venv()
        announce()
        LOG.unlink(missing_ok=True)
        pip("install", "--require-hashes", "--requirement", str(lock))
        pip("install", "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    except Failed as error:
        message, way_out = error.args
        print(f"error: {message}\ntry: {way_out}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    print("set up", file=sys.stderr)
    return 0


def check_python(version: tuple[int, int]) -> None:
    if version < OLDEST_PYTHON:
        found, needed = (".".join(map(str, v)) for v in (version, OLDEST_PYTHON))
        raise Failed(
            f"Python {needed} or newer is needed, this is {found}", f"make PYTHON=python{needed}"
        )


def make_venv() -> None:
    """An environment that works: one that an interrupted run left half made is made again."""
    if PYTHON.exists() and is_working("import pip"):
        return
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=False)
    if made.returncode:
        raise Failed("Python cannot make a virtual environment", "sudo apt install python3-venv")


def announce() -> None:
    """Say beforehand what will take long; refuse what cannot work."""
    if is_working("import llama_cpp.llama_cpp"):
        return
    if not compiler("CC", "cc", "gcc", "clang") or not compiler("CXX", "c++", "g++", "clang++"):
        raise Failed(
            "llama.cpp is compiled here, and there is no C++ compiler", "sudo apt install gcc g++"
        )
    print(
        "Setting up .venv. The first time, llama.cpp is compiled for this machine's processor:\n"
        "about five minutes on two cores. It happens once.",
        file=sys.stderr,
    )


def compiler(variable: str, *names: str) -> bool:
    return any(
        shutil.which(name) for name in (os.environ.get(variable, "").split(" ")[0], *names) if name
    )


def is_working(statement: str) -> bool:
    run = subprocess.run([str(PYTHON), "-c", statement], capture_output=True, check=False)
    return run.returncode == 0


def pip(*arguments: str) -> None:
    """Run pip in the environment, tell of its steps, keep its output."""
    command = [str(PYTHON), "-m", "pip", "--verbose", "--disable-pip-version-check", *arguments]
    progress, step = Progress(), "starting"
    with (
        LOG.open("a", encoding="utf-8") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=ROOT,
        ) as process,
    ):
        for line in lines_of(process):
            if line is not None:
                log.write(line)
                step = told(line) or step
            progress.show(step)
    progress.end()
    if process.returncode:
        tail = "".join(LOG.read_text(encoding="utf-8").splitlines(keepends=True)[-30:])
        print(tail, file=sys.stderr)
        raise Failed(
            f"pip ended with {process.returncode}", f"read {LOG.relative_to(ROOT)}, then again"
        )


def told(line: str) -> str | None:
    """What a line of pip's says, in our words; None for most of them."""
    for pattern, words in STEPS:
        if match := pattern.match(line):
            return words.format(*match.groups())
    return None


def lines_of(process: "subprocess.Popen[str]"):
    """Lines as they come, and None for every second without one."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None, "the output is a pipe"
        for line in process.stdout:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            yield None
            continue
        if not line:
            return
        yield line


if __name__ == "__main__":
    sys.exit(main())
