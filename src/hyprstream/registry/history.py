"""One text file under git: a draft beside its versions. Knows no policy, no rules and no other file.

<directory>/<filename>   the draft: what an editor opens
<directory>/.git         the versions; the running one is HEAD
"""

from contextlib import suppress
from pathlib import Path

from hyprstream.core.errors import Conflict, Invalid, NotFound, TooLarge
from hyprstream.core.files import write_durably
from hyprstream.core.versions import TextVersion
from hyprstream.registry.commits import hash_bytes, read_log, write_commit, write_tree
from hyprstream.registry.git import AUTHOR, NO_COMMIT, Git

MAX_TEXT_BYTES = 4 << 20
MAX_REVISION_LENGTH = 256


class GitTextHistory:
    """Implements `core.ports.TextHistory`. Any number of processes may read; `commit` lets one at a time through."""

    def __init__(self, directory: Path, filename: str, *, author: str = AUTHOR) -> None:
        self._directory = directory.absolute()
        self._filename = filename
        self._author = author
        self._git = Git(self._directory / ".git", work_tree=self._directory)

    @property
    def draft_path(self) -> Path:
        """The file an editor may open."""
        return self._directory / self._filename

    def draft(self) -> str | None:
        """What the file says now; None if there is none.

        Raises:
            Invalid: it is not UTF-8.
            TooLarge: nobody writes such a text.
        """
        content = self._read_draft()
        return None if content is None else _decode(content, str(self.draft_path))

    def write_draft(self, text: str) -> None:
        """Replace the file, whole or not at all."""
        self._make_directory()
        write_durably(self.draft_path, text.encode())

    def running_id(self) -> str | None:
        """The commit id of the running version, read from one or two small files; None before the first."""
        return self._git.head()

    def at(self, revision: str = "HEAD") -> str:
        """What a version says.

        Raises:
            NotFound: there is no such version.
        """
        commit = self._commit_id(revision)
        try:
            content = self._git.run("cat-file", "blob", f"{commit}:{self._filename}")
        except NotFound:
            raise self._no_version(revision) from None
        return _decode(content, f"{self._filename} at {revision}")

    def commit(self, message: str) -> TextVersion | None:
        """Make the draft the running version; None where both say the same.

        Raises:
            NotFound: there is no draft.
            Conflict: another process is committing.
        """
        content = self._read_draft()
        if content is None:
            raise NotFound(f"there is no file {self.draft_path}", kind="file")
        self._make_directory()
        if not (self._git.git_dir / "HEAD").exists():
            Git.init(self._git.git_dir, bare=False)
        with self._git.exclusive() as git:
            parent = git.head()
            if parent is not None and self._content_at(git, parent) == content:
                return None
            tree = write_tree(git, parent, {self._filename: hash_bytes(git, content)})
            parents = (parent,) if parent else ()
            commit = write_commit(git, tree, parents, message, self._author)
            git.run("update-ref", "HEAD", commit, parent or NO_COMMIT)
            # For whoever runs git here by hand, and may be at it. The commit counts without it.
            with suppress(Conflict):
                git.run("read-tree", commit)
            return read_log(git, commit, 1)[0]

    def log(self, limit: int = 10) -> list[TextVersion]:
        """The versions, newest first; empty before the first."""
        head = self.running_id()
        return [] if head is None else read_log(self._git, head, limit)

    def _read_draft(self) -> bytes | None:
        try:
            with self.draft_path.open("rb") as file:
                content = file.read(MAX_TEXT_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(content) > MAX_TEXT_BYTES:
            raise TooLarge(f"{self.draft_path} has more than {MAX_TEXT_BYTES} bytes")
        return content

    def _content_at(self, git: Git, commit: str) -> bytes | None:
        try:
            return git.run("cat-file", "blob", f"{commit}:{self._filename}")
        except NotFound:
            return None

    def _commit_id(self, revision: str) -> str:
        head = self.running_id()
        if head is None or not _is_revision(revision):
            raise self._no_version(revision)
        if revision in ("HEAD", head):
            return head
        name = f"{revision}^{{commit}}"
        try:
            output = self._git.run(
                "rev-parse", "--verify", "--quiet", "--end-of-options", name, ok=(0, 1)
            )
        except NotFound:
            raise self._no_version(revision) from None
        if not (commit := output.decode().strip()):
            raise self._no_version(revision)
        return commit

    def _no_version(self, revision: str) -> NotFound:
        n_versions = len(self.log(1000))
        return NotFound(
            f"{self._filename} has no version {revision[:80]!r}",
            kind="revision",
            hint=f"it has {n_versions}; name one by its commit id, HEAD or HEAD~1"
            if n_versions
            else "nothing was ever committed",
        )

    def _make_directory(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory.chmod(0o700)


def _is_revision(text: str) -> bool:
    return (
        0 < len(text) <= MAX_REVISION_LENGTH
        and text.isprintable()
        and not text.startswith("-")
        and ":" not in text  # `HEAD:file` names a content, `:/text` searches
    )


def _decode(content: bytes, where: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise Invalid(f"{where} is not UTF-8 at byte {error.start}") from error
