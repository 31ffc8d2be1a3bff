"""The one door to the git program. Knows how to start it safely and what it answers; knows no model and no layout.

Git trusts much that is not ours: the user's configuration, hooks, helpers, the environment. None of it is asked here. Each
call is a list of arguments, each has a time limit and a limit to what it may say, and no call can ask anybody for a password.
"""

import fcntl
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from hyprstream.core.errors import Conflict, HyprstreamError, SourceError, TooLarge, Unavailable
from hyprstream.registry import git_refs
from hyprstream.registry.git_errors import cleaned, failure
from hyprstream.registry.git_refs import Ref
from hyprstream.registry.remote_urls import check_remote_url, transport_of

AUTHOR = "hyprstream <hyprstream@localhost>"
NO_COMMIT = "0" * 40

MAX_OUTPUT_BYTES = 64 << 20
MAX_ERROR_BYTES = 64 << 10
MAX_RECEIVED_BYTES = 16 << 30
"""Most bytes one fetch may bring as git objects. Large files come by another way and are not among them."""
MAX_RECEIVED_OBJECTS = 5_000_000
TRANSFER_SECONDS = 6 * 3600.0
SILENCE_SECONDS = 120.0
"""A transfer that reports nothing for this long has stopped."""
LOCK_SECONDS = 10.0

_KEPT_VARIABLES = (
    "PATH",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "no_proxy",
    "NO_PROXY",
    "ALL_PROXY",
)

_ENVIRONMENT = {
    "LC_ALL": "C",
    # Where a home would be, so that no ~/.netrc is found; ssh asks the system for the home and keeps its known hosts.
    "HOME": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "false",
    "SSH_ASKPASS": "false",
    "GIT_EDITOR": "false",
    "GIT_PAGER": "cat",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_MERGE_AUTOEDIT": "no",
    "GIT_SSH_VARIANT": "ssh",
    "GIT_SSH_COMMAND": "ssh -oBatchMode=yes -oConnectTimeout=20 -oServerAliveInterval=30 -oForwardAgent=no"
    " -oForwardX11=no -oPermitLocalCommand=no -oClearAllForwardings=yes -oControlMaster=no",
}

# Given with every call, these win over what stands in the repository's own configuration.
_CONFIGURATION = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.symlinks": "false",
    "core.fileMode": "false",
    "core.autocrlf": "false",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "core.protectHFS": "true",
    "core.protectNTFS": "true",
    "core.bigFileThreshold": "8m",
    "core.fsync": "committed,reference",
    "core.quotePath": "false",
    "credential.helper": "",
    "diff.external": "",
    "fetch.fsckObjects": "true",
    "fetch.recurseSubmodules": "false",
    "fetch.writeCommitGraph": "false",
    "receive.fsckObjects": "true",
    "transfer.fsckObjects": "true",
    "submodule.recurse": "false",
    "push.recurseSubmodules": "no",
    "push.gpgSign": "false",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "log.showSignature": "false",
    "log.mailmap": "false",
    # Two pointers to large files look alike as texts, so git would take a new one for a renamed one.
    "merge.renames": "false",
    "diff.renames": "false",
    "merge.conflictStyle": "merge",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "http.lowSpeedLimit": "1",
    "http.lowSpeedTime": str(int(SILENCE_SECONDS)),
    "protocol.allow": "never",
}

_TOKEN = "HYPRSTREAM_GIT_TOKEN"
_TOKEN_HELPER = f'!give() {{ test "$1" = get && printf \'username=hyprstream\\npassword=%s\\n\' "${_TOKEN}"; }}; give'
"""What git asks for a password: it holds none itself, and is in no file."""

_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

_PROGRESS = re.compile(
    r"(?P<remote>remote: )?(?P<phase>[A-Z][A-Za-z ]+): +(?:\d+% \((?P<completed>\d+)/(?P<total>\d+)\)|(?P<count>\d+))"
    r"(?:, (?P<size>[\d.]+) (?P<unit>bytes|KiB|MiB|GiB))?"
)


@dataclass(frozen=True, slots=True)
class GitProgress:
    """How far git is with one part of its work."""

    phase: str
    """As git calls it: `Counting objects`, `Receiving objects`, `Resolving deltas`, ..."""
    completed: int
    total: int | None
    n_bytes: int | None = None
    """Received or sent so far."""


class Git:
    """One repository. Any number of calls may run at once; whoever changes several things holds `exclusive`.

    Every method that starts git raises:
        NotFound: no such revision.
        Conflict: a reference moved meanwhile, or is locked.
        SourceError: a remote cannot be reached, refuses, sends what is malformed or too much, or is too slow.
        Corrupt: the repository is damaged.
        TooLarge: the answer is longer than allowed, or the disk is full.
        Unavailable: there is no git program, or it did not end in time.
    """

    def __init__(
        self, git_dir: Path, *, work_tree: Path | None = None, lock: int | None = None
    ) -> None:
        self.git_dir = git_dir.absolute()
        self.work_tree = work_tree
        self._lock = lock

    @classmethod
    def init(cls, git_dir: Path, bare: bool = True, branch: str = "main") -> "Git":
        """Make an empty repository; one that is there already is left as it is."""
        git_dir.parent.mkdir(parents=True, exist_ok=True)
        work_tree = None if bare else git_dir.parent
        git = cls(git_dir, work_tree=work_tree)
        # No template: it would bring hooks, and a file of excluded names nobody asked for.
        kind = ("--bare",) if bare else ()
        git.run("init", "--quiet", "--template=", f"--initial-branch={branch}", *kind)
        return git

    def run(
        self,
        *args: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
        max_bytes: int = MAX_OUTPUT_BYTES,
        ok: Sequence[int] = (0,),
    ) -> bytes:
        """What git prints. `timeout` is in seconds; codes in `ok` are no failure."""
        output = bytearray()
        errors = bytearray()
        with self._started(args, stdin, env or {}) as process:
            for is_output, chunk in _read(process, timeout, timeout):
                if is_output:
                    output += chunk
                    if len(output) > max_bytes:
                        raise TooLarge(f"git {args[0]} answers with more than {max_bytes} bytes")
                else:
                    errors += chunk[: MAX_ERROR_BYTES - len(errors)]
            code = process.wait()
        if code not in ok:
            raise failure(args, code, cleaned(errors.decode(errors="replace")))
        return bytes(output)

    def write_blob(self, oid: str, path: Path, *, timeout: float = 3600) -> None:
        """Make `path`, which does not exist, with the content of a blob of any size, synced."""
        args = ("cat-file", "blob", oid)
        errors = bytearray()
        with path.open("xb") as file:
            with self._started(args, b"", {}, stdout=file.fileno()) as process:
                for _, chunk in _read(process, timeout, timeout):
                    errors += chunk[: MAX_ERROR_BYTES - len(errors)]
                code = process.wait()
            os.fsync(file.fileno())
        if code:
            path.unlink()
            raise failure(args, code, cleaned(errors.decode(errors="replace")))

    def stream(
        self,
        *args: str,
        url: str | None = None,
        token: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = TRANSFER_SECONDS,
        silence: float = SILENCE_SECONDS,
        max_received: int = MAX_RECEIVED_BYTES,
    ) -> Generator[GitProgress, None, str]:
        """Run what takes long (give it `--progress`), and yield how far it is; returns what git printed.

        `url` is the one address git may reach, `token` what it presents there as a password (https only). Leaving the generator
        ends git.

        Raises:
            Invalid: the URL is none git may be given.
        """
        remote, secrets = _remote_configuration(url, token)
        said: list[str] = []
        output = bytearray()
        with self._started(args, b"", {**(env or {}), **secrets}, remote) as process:
            lines = _Lines()
            for is_output, chunk in _read(process, timeout, silence, is_remote=url is not None):
                if is_output:
                    output += chunk[: MAX_ERROR_BYTES - len(output)]
                    continue
                for line in lines.feed(chunk):
                    progress = _parse_progress(line)
                    if progress is None:
                        said = [*said[-99:], line[:1000]]
                    else:
                        _check_size(progress, line, max_received)
                        yield progress
            said += lines.rest()
            code = process.wait()
        printed = output.decode(errors="replace")
        if code:
            raise failure(args, code, cleaned("\n".join([printed, *said]), [*secrets.values()]))
        return cleaned(printed, [*secrets.values()])

    @contextmanager
    def exclusive(self, wait: float = LOCK_SECONDS) -> Generator["Git"]:
        """The right to change this repository, as a Git whose processes share it.

        Raises:
            Conflict: another process still had it after `wait` seconds.
        """
        with (self.git_dir / "hyprstream.lock").open("ab") as file:
            deadline = time.monotonic() + wait
            while not _try_lock(file.fileno()):
                if time.monotonic() >= deadline:
                    raise Conflict(
                        f"another process is changing {self.git_dir.parent.name}",
                        hint="wait until it is done, or end it",
                    )
                time.sleep(0.02)
            self._sweep()
            shutil.rmtree(self._scratch, ignore_errors=True)
            yield Git(self.git_dir, work_tree=self.work_tree, lock=file.fileno())

    @contextmanager
    def transferring(self) -> Generator["Git"]:
        """For what takes long and changes one reference at its end: others may change the repository meanwhile."""
        with self._transfers.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            yield Git(self.git_dir, work_tree=self.work_tree, lock=file.fileno())

    def _sweep(self) -> None:
        # Our git processes inherit our locks. So whoever gets both knows that none of them is alive, however it ended, and that
        # a lock git itself left is nobody's.
        with self._transfers.open("ab") as file:
            if _try_lock(file.fileno()):
                for stale in _ref_locks(self.git_dir):
                    stale.unlink(missing_ok=True)

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """An empty directory on the repository's disk, for files that are not whole yet. Needs the right to change it."""
        assert self._lock is not None, "only its holder makes files that the next holder deletes"
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        directory = Path(tempfile.mkdtemp(dir=self._scratch))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    @property
    def is_exclusive(self) -> bool:
        """Whether its holder has the right to change the repository."""
        return self._lock is not None

    @property
    def _transfers(self) -> Path:
        return self.git_dir / "hyprstream-transfers.lock"

    @property
    def _scratch(self) -> Path:
        return self.git_dir / "hyprstream-scratch"

    def refs(self, prefix: str = "refs/") -> dict[str, Ref]:
        """References by their full names; starts no process."""
        return git_refs.read_refs(self.git_dir, prefix)

    def branches(self) -> dict[str, str]:
        """Commit ids by branch; starts no process."""
        return {
            name.removeprefix("refs/heads/"): ref.oid
            for name, ref in self.refs("refs/heads/").items()
        }

    def tags(self) -> dict[str, str]:
        """Commit ids by tag; starts a process only for annotated tags in packs that packed-refs does not list."""
        return {
            name.removeprefix("refs/tags/"): self._peel(name, ref)
            for name, ref in self.refs("refs/tags/").items()
        }

    def head(self) -> str | None:
        """The commit id HEAD stands for, None before the first; starts no process."""
        return git_refs.read_ref(self.git_dir, "HEAD")

    @property
    def head_branch(self) -> str | None:
        """The branch HEAD names; starts no process."""
        return git_refs.head_branch(self.git_dir)

    def _peel(self, name: str, ref: Ref) -> str:
        peeled = ref.peeled or git_refs.peel_loose(self.git_dir, ref.oid)
        if peeled is not None:
            return peeled
        return (
            self.run("rev-parse", "--verify", "--end-of-options", f"{name}^{{}}").decode().strip()
        )

    @contextmanager
    def _started(
        self,
        args: Sequence[str],
        stdin: bytes,
        env: Mapping[str, str],
        configuration: Mapping[str, str] | None = None,
        stdout: int = subprocess.PIPE,
    ) -> Generator[subprocess.Popen[bytes]]:
        # Input comes from a file: git reads it when it likes, and nobody waits for the other.
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            try:
                process = subprocess.Popen(
                    ["git", *args],
                    stdin=file,
                    stdout=stdout,
                    stderr=subprocess.PIPE,
                    env={**self._environment(configuration or {}), **env},
                    cwd=self.work_tree if self.work_tree and self.work_tree.is_dir() else "/",
                    start_new_session=True,
                    pass_fds=() if self._lock is None else (self._lock,),
                )
            except FileNotFoundError:
                raise Unavailable(
                    "there is no git program", hint="install git 2.38 or newer"
                ) from None
            try:
                yield process
            finally:
                _end(process)

    def _environment(self, configuration: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        settings = {**_CONFIGURATION, **configuration}
        environment = {
            **kept,
            **_ENVIRONMENT,
            **identity(AUTHOR),
            "GIT_DIR": str(self.git_dir),
            "GIT_CONFIG_COUNT": str(len(settings)),
        }
        if self.work_tree is not None:
            environment["GIT_WORK_TREE"] = str(self.work_tree)
        # Not as arguments: anybody on this machine can read those, and some of these are secret.
        for i, (key, value) in enumerate(settings.items()):
            environment[f"GIT_CONFIG_KEY_{i}"] = key
            environment[f"GIT_CONFIG_VALUE_{i}"] = value
        return environment


def identity(author: str) -> dict[str, str]:
    """The variables that make `Name <address>` author and committer."""
    name, _, address = author.partition("<")
    name = re.sub(r"[\x00-\x1f<>]", "", name).strip() or "hyprstream"
    address = re.sub(r"[\x00-\x1f<>]", "", address).strip() or "hyprstream@localhost"
    return {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (("NAME", name), ("EMAIL", address))
    }


def _remote_configuration(
    url: str | None, token: str | None
) -> tuple[dict[str, str], dict[str, str]]:
    """What git is configured with to reach one address, and the variable with what it may say there."""
    if url is None:
        return {}, {}
    transport = transport_of(check_remote_url(url))
    configuration = {f"protocol.{transport}.allow": "always"}
    if token is None or transport not in ("https", "http"):
        return configuration, {}
    # As a password, which every host of repositories takes, and given to whoever asks for this origin's. Not as a header: where
    # the first answer redirects to another host, git sends the headers of the first there too.
    parts = urlsplit(url)
    configuration[f"credential.{parts.scheme}://{parts.netloc}.helper"] = _TOKEN_HELPER
    return configuration, {_TOKEN: token}


def _read(
    process: subprocess.Popen[bytes], timeout: float, silence: float, *, is_remote: bool = False
) -> Generator[tuple[bool, bytes]]:
    """Yield (whether it is output, bytes) until git has closed both of its ends."""
    deadline = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        for is_output, pipe in ((True, process.stdout), (False, process.stderr)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, is_output)
        while selector.get_map():
            left = min(silence, deadline - time.monotonic())
            ready = selector.select(left) if left > 0 else []
            if not ready:
                raise _too_slow(process, timeout if left < silence else silence, is_remote)
            for key, _ in ready:
                if chunk := os.read(key.fd, 1 << 16):
                    yield key.data, chunk
                else:
                    selector.unregister(key.fileobj)


def _too_slow(process: subprocess.Popen[bytes], seconds: float, is_remote: bool) -> HyprstreamError:
    arguments = process.args
    assert isinstance(arguments, list), "git is always started with a list of arguments"
    message = f"git {arguments[1]} said nothing, or did not end, for {seconds:.0f} s"
    if is_remote:
        return SourceError(message, hint="try again")
    return Unavailable(message, hint="the disk may be slow or full; try again")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        _signal(process, signal.SIGTERM)  # git takes its locks and half-written packs with it
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


class _Lines:
    """Bytes in, whole lines out; git ends a line of progress with a carriage return."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        *lines, rest = re.split(rb"[\r\n]+", self._rest + chunk)
        self._rest = rest[-MAX_ERROR_BYTES:]
        return [line.decode(errors="replace") for line in lines if line.strip()]

    def rest(self) -> list[str]:
        return [self._rest.decode(errors="replace")] if self._rest.strip() else []


def _parse_progress(line: str) -> GitProgress | None:
    match = _PROGRESS.match(line)
    if match is None:
        return None
    size = float(match["size"]) * _UNITS[match["unit"]] if match["size"] else None
    return GitProgress(
        phase=match["phase"],
        completed=int(match["completed"] or match["count"]),
        total=int(match["total"]) if match["total"] else None,
        n_bytes=None if size is None else int(size),
    )


def _check_size(progress: GitProgress, line: str, max_received: int) -> None:
    if line.startswith("remote: ") or not progress.phase.startswith(("Receiving", "Unpacking")):
        return
    if (progress.n_bytes or 0) > max_received or (progress.total or 0) > MAX_RECEIVED_OBJECTS:
        raise SourceError(
            f"the remote sends more than {max_received} bytes or {MAX_RECEIVED_OBJECTS} objects",
            hint="fetch less of it with --depth 1, or one branch; large files belong into Git LFS",
        )


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _ref_locks(git_dir: Path) -> list[Path]:
    names = ("HEAD.lock", "packed-refs.lock", "packed-refs.new", "config.lock", "shallow.lock")
    return [*(git_dir / name for name in names), *(git_dir / "refs").rglob("*.lock")]
