"""Commits made from their parts: contents, trees, messages. Needs no index, no worktree and no configuration of git's own."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hyprstream.core.versions import TextVersion
from hyprstream.registry.git import AUTHOR, Git, identity

_FORMAT = "%H%x00%P%x00%an <%ae>%x00%ct%x00%B%x00"
_N_FIELDS = 5


def hash_files(git: Git, paths: Sequence[Path]) -> list[str]:
    """Store the contents of files as they are; returns their ids in order."""
    if not paths:
        return []
    stdin = "".join(f"{path.absolute()}\n" for path in paths).encode()
    output = git.run("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=stdin, timeout=600)
    return output.decode().split()


def hash_bytes(git: Git, content: bytes) -> str:
    """Store a content; returns its id."""
    return git.run("hash-object", "-w", "--no-filters", "--stdin", stdin=content).decode().strip()


def write_tree(git: Git, base: str | None, changes: Mapping[str, str | None]) -> str:
    """The tree of `base` (a commit or tree, or nothing) with other files: paths to ids of contents, None to delete."""
    with git.scratch() as directory:
        env = {"GIT_INDEX_FILE": str(directory / "index")}
        git.run("read-tree", base or "--empty", env=env)
        # What goes stands before what comes, so that a directory can become a file and a file a directory.
        entries = sorted(changes.items(), key=lambda change: change[1] is not None)
        lines = [
            f"0 {'0' * 40}\t{path}\0" if oid is None else f"100644 {oid}\t{path}\0"
            for path, oid in entries
        ]
        git.run(
            "update-index",
            "--add",
            "--replace",
            "-z",
            "--index-info",
            stdin="".join(lines).encode(),
            env=env,
        )
        return git.run("write-tree", env=env).decode().strip()


def write_commit(
    git: Git, tree: str, parents: Sequence[str], message: str, author: str | None = None
) -> str:
    """Store a commit; no branch moves."""
    args = [argument for parent in parents for argument in ("-p", parent)]
    env = identity(AUTHOR) | _author_only(author or AUTHOR)
    text = message.replace("\0", "").strip() + "\n"
    return (
        git.run("commit-tree", tree, *args, "-F", "-", stdin=text.encode(), env=env)
        .decode()
        .strip()
    )


def read_log(git: Git, commit: str, limit: int) -> list[TextVersion]:
    """A commit and what came before it, newest first."""
    output = git.run(
        "log",
        f"--max-count={max(0, limit)}",
        f"--format={_FORMAT}",
        "--end-of-options",
        commit,
        "--",
    )
    fields = output.decode(errors="replace").split("\0")
    return [
        TextVersion(
            id=fields[i].strip(),
            parents=tuple(fields[i + 1].split()),
            author=fields[i + 2],
            created=int(fields[i + 3]),
            message=fields[i + 4].strip(),
        )
        for i in range(0, len(fields) - _N_FIELDS, _N_FIELDS)
    ]


def _author_only(author: str) -> dict[str, str]:
    return {
        name: value for name, value in identity(author).items() if name.startswith("GIT_AUTHOR_")
    }
