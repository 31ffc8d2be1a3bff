"""How long a registry of many models takes to be listed, in processes of their own as at a prompt.

    .venv/bin/python bench/registry_list.py [--models 1000]

Prints milliseconds: the listing alone, and the whole of `hyprstream list`. The first of each has nothing remembered.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from hyprstream.registry.registry import Registry

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.registries import add, another

LISTING = """
import sys, time
from pathlib import Path
from hyprstream.registry.registry import Registry
registry = Registry(Path(sys.argv[1]))
start = time.perf_counter()
n_models = len(registry.overview())
print(n_models, 1000 * (time.perf_counter() - start))
"""


def main() -> None:
    """Make the models, list them, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    n_models = parser.parse_args().models
    with TemporaryDirectory() as directory:
        root = Path(directory)
        fill(root / "models", n_models)
        shutil.rmtree(root / "models" / ".registry" / "facts")
        for attempt in ("first", "again", "again"):
            sys.stdout.write(f"listing,  {attempt}: {listing(root / 'models', n_models):7.1f} ms\n")
        for attempt in ("first", "again", "again"):
            sys.stdout.write(f"command,  {attempt}: {command(root):7.1f} ms\n")


def fill(models: Path, n_models: int) -> None:
    """Import small models that differ."""
    registry = Registry(models)
    for n in range(n_models):
        add(registry, f"model-{n:04}", another(n))


def listing(models: Path, n_models: int) -> float:
    """Milliseconds of the listing alone."""
    done = subprocess.run(
        [sys.executable, "-c", LISTING, str(models)], check=True, capture_output=True, text=True
    )
    found, milliseconds = done.stdout.split()
    assert int(found) == n_models, "every model is listed"
    return float(milliseconds)


def command(root: Path) -> float:
    """Milliseconds of `hyprstream list`, from its start to its end."""
    program = str(Path(sys.executable).with_name("hyprstream"))
    environment = {
        **os.environ,
        "HYPRSTREAM_MODELS_DIR": str(root / "models"),
        "HYPRSTREAM_DATA_DIR": str(root / "data"),
    }
    policy = [program, "policy", "apply-template", "local"]
    subprocess.run(policy, check=True, capture_output=True, env=environment)
    start = time.perf_counter()
    subprocess.run([program, "list"], check=True, capture_output=True, env=environment)
    return 1000 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
