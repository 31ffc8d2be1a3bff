"""Other places a model's repository is at: their names, what they have, sending and fetching. Knows no worktree.

Git is given the address itself and never the name of a remote, so that nothing else the configuration says of it counts.
"""

import re
from collections.abc import Callable, Generator, Iterable

from hyprstream.core.errors import Conflict, Invalid, NotFound
from hyprstream.core.versions import Pointer
from hyprstream.registry.blobs import BlobStore
from hyprstream.registry.git import Git, GitProgress
from hyprstream.registry.lfs import LfsRemote, Uploading, parse_pointer
from hyprstream.registry.remote_urls import check_remote_url, host_of, transport_of
from hyprstream.registry.sources.base import Downloading
from hyprstream.registry.trees import MAX_POINTER_BYTES, read_blobs, read_tree

Event = GitProgress | Downloading | Uploading

Token = Callable[[str], str | None]
"""Gives the token for a host, if there is one."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Remotes:
    """The remotes of one model."""

    def __init__(self, git: Git, blobs: BlobStore, *, name: str, token: Token) -> None:
        self._git = git
        self._blobs = blobs
        self._model = name
        self._token = token

    def all(self) -> dict[str, str]:
        """Their addresses by name."""
        return {
            key.removeprefix("remote.").removesuffix(".url"): value
            for key, value in self._configuration().items()
            if key.startswith("remote.") and key.endswith(".url")
        }

    def url(self, name: str) -> str:
        """The address of one.

        Raises:
            NotFound: there is none of this name.
            Invalid: its address is none that git may be given.
        """
        return check_remote_url(self._require(name))

    def add(self, git: Git, name: str, url: str) -> None:
        """Give a place a name.

        Raises:
            Invalid: the name or the address cannot be used.
            Conflict: the name is taken.
        """
        _check_name(name)
        url = check_remote_url(url)
        if name in self.all():
            raise Conflict(
                f"{self._model} has a remote {name} already",
                hint=f"hyprstream remote set-url {self._model} {name} URL",
            )
        git.run("remote", "add", "--", name, url)

    def set_url(self, git: Git, name: str, url: str) -> None:
        """Change where a remote is."""
        self._require(name)
        git.run("config", "--replace-all", f"remote.{name}.url", check_remote_url(url))

    def rename(self, git: Git, old: str, new: str) -> None:
        """Change what a remote is called; what was fetched from it stays known."""
        self._require(old)
        _check_name(new)
        if new in self.all():
            raise Conflict(f"{self._model} has a remote {new} already", hint="choose another name")
        git.run("remote", "rename", "--no-progress", "--", old, new)

    def remove(self, git: Git, name: str) -> None:
        """Forget a remote, and what was fetched from it."""
        self._require(name)
        git.run("remote", "remove", "--", name)

    def upstream(self, branch: str) -> str | None:
        """The remote branch a branch follows, as `origin/main`."""
        configuration = self._configuration()
        remote = configuration.get(f"branch.{branch}.remote")
        merge = configuration.get(f"branch.{branch}.merge", "")
        return f"{remote}/{merge.removeprefix('refs/heads/')}" if remote and merge else None

    def set_upstream(self, git: Git, branch: str, remote: str) -> None:
        """Let a branch follow the one of the same name there."""
        git.run("config", "--replace-all", f"branch.{branch}.remote", remote)
        git.run("config", "--replace-all", f"branch.{branch}.merge", f"refs/heads/{branch}")

    def fetch(
        self, name: str, branch: str | None, *, depth: int | None, large_files: bool
    ) -> Generator[Event]:
        """Bring what a remote has to `refs/remotes/<name>/`: one branch or all, the tags that belong to them, large files.

        Tags that are here already stay where they are, whatever the remote says.

        Raises:
            NotFound: no such remote, or it has no such branch.
            SourceError: it cannot be reached, or refuses.
            Invalid: what it has is no tree for a model.
        """
        url = self.url(name)
        if depth is not None and depth < 1:
            raise Invalid(f"a depth of {depth} commits is none", param="depth")
        what = branch or "*"
        spec = f"+refs/heads/{what}:refs/remotes/{name}/{what}"
        args = ["--progress", "--no-write-fetch-head", "--no-auto-gc", "--no-recurse-submodules"]
        args += [] if depth is None else [f"--depth={depth}"]
        with self._git.transferring() as git:
            yield from git.stream(
                "fetch", *args, "--", url, spec, url=url, token=self._token_for(url)
            )
        if large_files:
            fetched = self._git.refs(f"refs/remotes/{name}/")
            heads = fetched if branch is None else [f"refs/remotes/{name}/{branch}"]
            for head in heads:
                yield from self.download(name, fetched[head].oid)

    def download(self, name: str, commit: str) -> Generator[Event]:
        """Bring the large files of a commit that are not here.

        Raises:
            Invalid: a pointer says another size than its file has.
        """
        pointers = [file.pointer for file in read_tree(self._git, commit).values() if file.pointer]
        missing = [pointer for pointer in _unique(pointers) if not self._blobs.has(pointer.sha256)]
        if missing:
            yield from self._large(name).download(missing, self._blobs)
        for pointer in pointers:
            if (size := self._blobs.size(pointer.sha256)) != pointer.size:
                raise Invalid(
                    f"a pointer says that {pointer.sha256[:12]}… has {pointer.size} bytes; it has {size}",
                    hint="its owner can commit the file itself once more",
                )

    def push(
        self, name: str, branch: str, commit: str, *, force: bool, set_upstream: bool
    ) -> Generator[Event]:
        """Send a branch; large files first, so that nobody fetches a commit without them.

        Raises:
            Conflict: the remote's branch has moved, or the remote refuses.
            SourceError: it cannot be reached.
        """
        url = self.url(name)
        tracking = f"refs/remotes/{name}/{branch}"
        known = self._git.refs(f"refs/remotes/{name}/").get(tracking)
        if pointers := self._pointers_since(commit, name):
            yield from self._large(name).upload(pointers, self._blobs)
        args = ["--progress", "--porcelain", "--no-verify", "--no-signed"]
        if force:
            # Only over what was seen there: whatever somebody pushed since is not lost.
            lease = f"--force-with-lease=refs/heads/{branch}:{known.oid}" if known else "--force"
            args.append(lease)
        if transport_of(url) == "file":
            # On this disk git would run the other repository's hooks, as us.
            args.append("--receive-pack=git -c core.hooksPath=/dev/null receive-pack")
        spec = f"{commit}:refs/heads/{branch}"
        with self._git.transferring() as git:
            yield from git.stream(
                "push", *args, "--", url, spec, url=url, token=self._token_for(url)
            )
        with self._git.exclusive() as git:
            git.run("update-ref", tracking, commit)
            if set_upstream:
                self.set_upstream(git, branch, name)

    def _pointers_since(self, commit: str, name: str) -> list[Pointer]:
        """Large files of all commits that the remote is not known to have."""
        output = self._git.run(
            "rev-list", "--objects", commit, "--not", f"--remotes={name}", timeout=600
        )
        oids = "".join(
            f"{line.split(' ')[0]}\n" for line in output.decode(errors="replace").splitlines()
        )
        checked = self._git.run(
            "cat-file",
            "--batch-check=%(objectname) %(objecttype) %(objectsize)",
            stdin=oids.encode(),
        )
        rows = (line.split() for line in checked.decode().splitlines())
        sizes = {
            oid: int(size)
            for oid, kind, size in rows
            if kind == "blob" and int(size) <= MAX_POINTER_BYTES
        }
        found = (parse_pointer(content) for _, content in read_blobs(self._git, sizes))
        return _unique(pointer for pointer in found if pointer is not None)

    def _large(self, name: str) -> LfsRemote:
        url = self.url(name)
        return LfsRemote(url, token=self._token_for(url))

    def _token_for(self, url: str) -> str | None:
        host = host_of(url)
        return self._token(host) if host and transport_of(url) in ("https", "http") else None

    def _require(self, name: str) -> str:
        remotes = self.all()
        if name not in remotes:
            raise NotFound(
                f"{self._model} has no remote {name[:80]!r}",
                kind="remote",
                hint=f"it has {', '.join(sorted(remotes))}"
                if remotes
                else f"hyprstream remote add {self._model} {name} URL",
            )
        return remotes[name]

    def _configuration(self) -> dict[str, str]:
        path = str(self._git.git_dir / "config")
        output = self._git.run("config", "--file", path, "--no-includes", "--list", "-z").decode(
            errors="replace"
        )
        pairs = (entry.partition("\n") for entry in output.split("\0") if entry)
        return {key: value for key, _, value in pairs}


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise Invalid(
            f"{name[:80]!r} cannot be a remote's name",
            param="remote",
            hint="up to 64 letters, digits, '_' and '-'",
        )


def _unique(pointers: Iterable[Pointer]) -> list[Pointer]:
    return list(dict.fromkeys(pointers))
