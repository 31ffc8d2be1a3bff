"""A bare Git repository with a small model in it, as a hub would serve it: pointers in the trees, bytes in `lfs/objects`.

Made with the git program, without any of our own code.
"""

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from support.gguf_writer import METADATA, TENSORS, T, V, write

_DATE = "2026-02-04T10:00:00+00:00"
BEGINNING = "Begin 026843081"
"""A message with which the first commit's id begins with `abc123`."""
_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "Maker",
    "GIT_AUTHOR_EMAIL": "maker@example.com",
    "GIT_AUTHOR_DATE": _DATE,
    "GIT_COMMITTER_NAME": "Maker",
    "GIT_COMMITTER_EMAIL": "maker@example.com",
    "GIT_COMMITTER_DATE": _DATE,
}


def gguf(name: str) -> bytes:
    """A sound model that calls itself so; another name, other bytes."""
    metadata = [
        (key, V(T.STRING, name) if key == "general.name" else value) for key, value in METADATA
    ]
    return bytes(write(metadata, TENSORS).data)


@dataclass(frozen=True)
class ModelRemote:
    """`main` with a commit `abc123…` without a model and two with one, the first tagged `v1.0`; and the branch `experiment`."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> "ModelRemote":
        """Make one at `path`."""
        work = path.with_name(f"{path.name}-work")
        git("init", "--quiet", "--bare", "--initial-branch=main", str(path))
        git("init", "--quiet", "--initial-branch=main", str(work))
        remote = cls(path)
        (work / "README.md").write_bytes(b"# A model\n")
        git("add", "README.md", at=work)
        git("commit", "--quiet", "-m", BEGINNING, at=work)
        remote._commit(work, {"model.gguf": gguf("First")}, "First")
        git("tag", "v1.0", at=work)
        git("branch", "experiment", at=work)
        remote._commit(work, {"model.gguf": gguf("Second")}, "Second")
        git("checkout", "--quiet", "experiment", at=work)
        scores = b'{"mmlu": {"accuracy": 0.25}}\n'
        remote._commit(work, {"evals/mmlu.json": scores}, "An experiment")
        git("push", "--quiet", str(path), "--all", at=work)
        git("push", "--quiet", str(path), "--tags", at=work)
        return remote

    @property
    def url(self) -> str:
        return self.path.as_uri()

    def commit(self, revision: str) -> str:
        """The full id of a revision."""
        return git("rev-parse", f"{revision}^{{commit}}", at=self.path).strip()

    def advance(self, name: str = "Third") -> str:
        """Put another commit on `main`, as somebody else would; returns its id."""
        work = self.path.with_name(f"{self.path.name}-work")
        git("checkout", "--quiet", "main", at=work)
        git("pull", "--quiet", "--ff-only", str(self.path), "main", at=work)
        self._commit(work, {"model.gguf": gguf(name)}, name)
        git("push", "--quiet", str(self.path), "main", at=work)
        return self.commit("main")

    def _commit(self, work: Path, files: dict[str, bytes], message: str) -> None:
        for path, content in files.items():
            target = work / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(self._pointer(content) if path.endswith(".gguf") else content)
        (work / ".gitattributes").write_text("*.gguf filter=lfs diff=lfs merge=lfs -text\n")
        git("-c", "filter.lfs.clean=cat", "add", "--all", at=work)
        git("commit", "--quiet", "-m", message, at=work)

    def _pointer(self, content: bytes) -> bytes:
        digest = hashlib.sha256(content).hexdigest()
        stored = self.path / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(content)
        version = "https://git-lfs.github.com/spec/v1"
        return f"version {version}\noid sha256:{digest}\nsize {len(content)}\n".encode()


def git(*args: str, at: Path | None = None) -> str:
    """Run git without anybody's configuration."""
    return subprocess.run(
        ["git", *args], cwd=at, env=_ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout
