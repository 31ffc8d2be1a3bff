"""Builds the peer, llama-server, for `hyprstream bench`. Run it from a checkout: `python bench/peers/build.py`.

Knows where the sources come from (the sdist of the installed llama-cpp-python, which carries llama.cpp) and how they are
compiled: against the libllama and libggml that are installed already, so that both servers run one engine. Knows nothing of
benchmarks. Needs a C++ compiler and the `bench` extra (cmake); takes about five minutes on two cores, once per version.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache" / "peers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help="an unpacked llama.cpp instead of the sdist's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()

    release = version("llama-cpp-python")
    source = arguments.source or fetch(release)
    server = build(source.resolve(), release, n_jobs=arguments.jobs)
    sys.stdout.write(f"{server}\n")


def fetch(release: str) -> Path:
    """Source tree of llama.cpp as that release of llama-cpp-python carries it."""
    unpacked = CACHE / f"llama_cpp_python-{release}"
    if not unpacked.exists():
        sdist = CACHE / f"llama_cpp_python-{release}.tar.gz"
        if not sdist.exists():
            run(
                *(sys.executable, "-m", "pip", "download", "--no-deps"),
                *("--no-binary", "llama-cpp-python", f"llama-cpp-python=={release}"),
                *("--dest", CACHE),
            )
        # Unpacked beside its place first: a run that is interrupted leaves no half a tree behind.
        partial = CACHE / f"{unpacked.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(partial, filter="data")
        (partial / unpacked.name).rename(unpacked)
        partial.rmdir()
    return unpacked / "vendor" / "llama.cpp"


def build(source: Path, release: str, *, n_jobs: int) -> Path:
    """The path of a fresh llama-server."""
    tree = CACHE / f"llama-server-{release}"
    ninja = ("-G", "Ninja") if shutil.which("ninja") else ()
    run(
        *(cmake(), "-S", HERE, "-B", tree, *ninja),
        f"-DLLAMA_SOURCE={source}",
        f"-DLLAMA_LIBRARIES={libraries()}",
        f"-DLLAMA_CPP_PYTHON_VERSION={release}",
    )
    run(cmake(), "--build", tree, "--target", "llama-server", "--parallel", str(n_jobs))
    return tree / "bin" / "llama-server"


def libraries() -> Path:
    """Directory of the installed libllama.so. Found without importing the package, which would load it."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        raise SystemExit("llama-cpp-python is not installed in this environment")
    return Path(spec.origin).parent / "lib"


def cmake() -> Path:
    """The environment's own cmake, or the system's."""
    own = Path(sys.executable).with_name("cmake")
    found = own if own.exists() else shutil.which("cmake")
    if found is None:
        raise SystemExit("cmake is missing: pip install 'hyprstream[bench]'")
    return Path(found)


def run(*command: str | Path) -> None:
    """One step; its output is shown as it comes, and its failure ends the build."""
    CACHE.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(" ".join(str(word) for word in command) + "\n")
    result = subprocess.run(command, check=False, stdout=sys.stderr)
    if result.returncode:
        raise SystemExit(f"{Path(command[0]).name} failed with exit code {result.returncode}")


if __name__ == "__main__":
    main()
