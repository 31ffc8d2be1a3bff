"""A text's history in memory, as quick as the tests that change it a hundred times."""

from pathlib import Path

from hyprstream.core.errors import NotFound
from hyprstream.core.versions import TextVersion


class MemoryHistory:
    """Implements `core.ports.TextHistory`; ids are forty digits that count."""

    def __init__(self, *texts: str) -> None:
        self._texts: list[str] = []
        self._draft: str | None = None
        for text in texts:
            self.put(text)

    def put(self, text: str) -> str:
        """Commit a text; its id."""
        self._texts.append(text)
        self._draft = text
        return f"{len(self._texts):040d}"

    def drop(self) -> None:
        """Forget the newest version, as `git reset` does."""
        self._texts.pop()

    @property
    def draft_path(self) -> Path:
        return Path("policy.csv")

    def draft(self) -> str | None:
        return self._draft

    def write_draft(self, text: str) -> None:
        self._draft = text

    def running_id(self) -> str | None:
        return f"{len(self._texts):040d}" if self._texts else None

    def at(self, revision: str = "HEAD") -> str:
        if revision == "HEAD":
            return self._texts[-1]
        try:
            return self._texts[int(revision) - 1]
        except (ValueError, IndexError):
            raise NotFound(f"no version {revision}", kind="version") from None

    def commit(self, message: str) -> TextVersion | None:
        if self._draft is None or (self._texts and self._texts[-1] == self._draft):
            return None
        return TextVersion(self.put(self._draft), message, "test <test@localhost>", 0)

    def log(self, limit: int = 10) -> list[TextVersion]:
        ids = range(len(self._texts), 0, -1)
        return [TextVersion(f"{i:040d}", "", "test <test@localhost>", i) for i in ids][:limit]
