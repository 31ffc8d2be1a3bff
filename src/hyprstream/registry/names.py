"""What versions of one model are called: branches, tags, commits. Knows no file and no worktree."""

import difflib
import re

from hyprstream.core.errors import Conflict, Invalid, NotFound
from hyprstream.core.refs import is_version
from hyprstream.registry.git import NO_COMMIT, Git

_COMMIT = re.compile(r"[0-9a-f]{6,40}")


class Names:
    """Reads and gives names. Methods that change something are given a Git that has the right to."""

    def __init__(self, git: Git, *, model: str) -> None:
        self._git = git
        self._model = model

    def resolve(self, version: str) -> str:
        """The commit a name stands for.

        Raises:
            NotFound: none; the hint says what is near.
            Conflict: several.
        """
        remote = {
            name.removeprefix("refs/remotes/"): ref.oid
            for name, ref in self._git.refs("refs/remotes/").items()
        }
        branches, tags = self._git.branches(), self._git.tags()
        found = {names[version] for names in (branches, tags, remote) if version in names}
        if not found and _COMMIT.fullmatch(version):
            found = self._commits_beginning(version)
        if len(found) == 1:
            return found.pop()
        if found:
            raise Conflict(
                f"{version!r} means {' and '.join(sorted(commit[:12] for commit in found))}",
                hint="write more digits, or the whole id of the commit",
            )
        raise self._not_found("version", version, [*branches, *tags])

    def head(self, git: Git, branch: str) -> str:
        """The commit a branch is at.

        Raises:
            NotFound: there is no such branch.
        """
        branches = git.branches()
        if branch not in branches:
            raise self._not_found("branch", branch, list(branches))
        return branches[branch]

    def require_free(self, name: str) -> None:
        """Return if a new version can be called this.

        Raises:
            Invalid: nothing can.
            Conflict: another one is.
        """
        check_name(name)
        if name in self._git.branches() or f"refs/tags/{name}" in self._git.refs("refs/tags/"):
            raise Conflict(
                f"{self._model} has a version {name!r} already", hint="choose another name"
            )

    def delete_branch(self, git: Git, name: str, *, force: bool) -> None:
        """Take a branch away.

        Raises:
            NotFound: there is none.
            Conflict: without `force`, its commits are in no other version, or it is the default.
        """
        commit = self.head(git, name)
        if not force:
            self._require_expendable(git, name, commit)
        git.run("update-ref", "-d", f"refs/heads/{name}", commit)
        # Ends with 128 where nothing was configured for it.
        git.run("config", "--remove-section", f"branch.{name}", ok=(0, 1, 128))

    def create_tag(self, git: Git, name: str, commit: str, message: str | None) -> None:
        """Give a commit a name that does not move."""
        if message is None:
            git.run("update-ref", f"refs/tags/{name}", commit, NO_COMMIT)
        else:
            git.run("tag", "--annotate", "--file=-", "--", name, commit, stdin=message.encode())

    def delete_tag(self, git: Git, name: str) -> None:
        """Take a tag away.

        Raises:
            NotFound: there is none.
        """
        tags = git.refs("refs/tags/")
        if f"refs/tags/{name}" not in tags:
            raise self._not_found("tag", name, list(git.tags()))
        git.run("update-ref", "-d", f"refs/tags/{name}", tags[f"refs/tags/{name}"].oid)

    def _require_expendable(self, git: Git, name: str, commit: str) -> None:
        if git.head_branch == name:
            raise Conflict(f"{name} is the default branch", hint="--force deletes it all the same")
        output = git.run("for-each-ref", "--format=%(refname)", f"--contains={commit}")
        if not set(output.decode().split()) - {f"refs/heads/{name}"}:
            raise Conflict(
                f"the commits of {name} are in no other version",
                hint="merge or push it first; --force deletes it all the same",
            )

    def _commits_beginning(self, prefix: str) -> set[str]:
        oids = self._git.run("rev-parse", f"--disambiguate={prefix}")
        output = self._git.run(
            "cat-file", "--batch-check=%(objectname) %(objecttype)", stdin=oids
        ).decode()
        rows = (line.split() for line in output.splitlines())
        return {oid for oid, kind in rows if kind == "commit"}

    def _not_found(self, kind: str, name: str, existing: list[str]) -> NotFound:
        near = difflib.get_close_matches(name, sorted(existing), cutoff=0.5)
        return NotFound(
            f"{self._model} has no {kind} {name[:80]!r}",
            kind="version",
            hint=f"did you mean {' or '.join(near)}?" if near else f"hyprstream log {self._model}",
        )


def check_name(name: str) -> None:
    """Return if a branch or tag can be called this.

    Raises:
        Invalid: it cannot.
    """
    if not is_version(name):
        raise Invalid(
            f"{name[:80]!r} cannot be a version's name",
            param="branch",
            hint="letters, digits, '.', '_', '-' and '/', beginning with a letter or digit",
        )
