"""Repositories as others make them, written with the plain git program and none of our code."""

import os
import subprocess
from pathlib import Path

ENVIRONMENT = {
    **{name: os.environ[name] for name in ("PATH",)},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "somebody",
    "GIT_AUTHOR_EMAIL": "somebody@example.org",
    "GIT_COMMITTER_NAME": "somebody",
    "GIT_COMMITTER_EMAIL": "somebody@example.org",
}


def git(directory: Path, *args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> str:
    """What the plain git program prints."""
    return subprocess.run(
        ["git", "-C", str(directory), *args],
        input=stdin,
        env=ENVIRONMENT | (env or {}),
        capture_output=True,
        check=True,
    ).stdout.decode()


def bare_repository(path: Path) -> Path:
    """An empty repository of somebody else."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--bare", "--initial-branch=main")
    return path


def commit_entries(
    repository: Path, entries: dict[str, tuple[str, str]], branch: str = "main"
) -> str:
    """A commit whose flat tree has these entries: name to (mode, object id), whatever git thinks of the names."""
    tree = subtree(repository, entries)
    commit = git(repository, "commit-tree", tree, "-m", "made by hand").strip()
    git(repository, "update-ref", f"refs/heads/{branch}", commit)
    return commit


def blob(repository: Path, content: bytes) -> str:
    """The id of a stored content."""
    return git(repository, "hash-object", "-w", "--stdin", stdin=content).strip()


def subtree(repository: Path, entries: dict[str, tuple[str, str]]) -> str:
    """The id of a tree with these entries, whatever git thinks of the names."""
    lines = b"".join(
        f"{mode} {name}\0".encode() + bytes.fromhex(oid) for name, (mode, oid) in entries.items()
    )
    return git(
        repository, "hash-object", "-w", "-t", "tree", "--stdin", "--literally", stdin=lines
    ).strip()
