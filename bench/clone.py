"""How long it takes from the address of a model to its first answer, over HTTP on loopback.

    .venv/bin/python bench/clone.py PATH.gguf

A repository of three branches that hold these weights is served by `git http-backend` and a Git LFS server; then
`hyprstream clone` and `hyprstream infer` run as at a prompt, with nothing remembered. Prints seconds.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.git_http import git_http
from support.model_remote import git

BRANCHES = ("main", "experiment", "lora/medical")


def main() -> None:
    """Serve, clone, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    weights = parser.parse_args().weights
    with TemporaryDirectory() as directory:
        root = Path(directory)
        publish(weights, root / "hub" / "model.git")
        run(root, "policy", "apply-template", "local")
        with git_http(root / "hub") as web:
            cloning = run(root, "clone", "--full", f"{web.url}/model.git")
        answering = run(root, "infer", "model", "--prompt", "Hello", "--max-tokens", "1")
    sys.stdout.write(f"clone of {len(BRANCHES)} branches  {cloning:6.2f} s\n")
    sys.stdout.write(f"first answer         {answering:6.2f} s\n")


def publish(weights: Path, bare: Path) -> None:
    """Make a bare repository whose branches differ in a text and share the weights."""
    work = bare.with_name("work")
    git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    git("init", "--quiet", "--initial-branch=main", str(work))
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    stored = bare / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
    stored.parent.mkdir(parents=True)
    shutil.copyfile(weights, stored)
    version = "https://git-lfs.github.com/spec/v1"
    pointer = f"version {version}\noid sha256:{digest}\nsize {weights.stat().st_size}\n"
    for branch in BRANCHES:
        git("checkout", "--quiet", "-B", branch, at=work)
        (work / "model.gguf").write_text(pointer)
        (work / "README.md").write_text(f"# {branch}\n")
        git("add", "--all", at=work)
        git("commit", "--quiet", "-m", branch, at=work)
    git("push", "--quiet", str(bare), "--all", at=work)


def run(root: Path, *words: str) -> float:
    """Seconds of one command line, from its start to its end."""
    program = str(Path(sys.executable).with_name("hyprstream"))
    environment = {
        **os.environ,
        "HYPRSTREAM_MODELS_DIR": str(root / "models"),
        "HYPRSTREAM_DATA_DIR": str(root / "data"),
    }
    start = time.perf_counter()
    subprocess.run([program, *words], check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
