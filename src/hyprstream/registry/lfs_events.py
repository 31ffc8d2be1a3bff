"""How far large files have come, and what could not come. Values only."""

from collections.abc import Sequence

from hyprstream.core.errors import SourceError
from hyprstream.core.versions import Pointer
from hyprstream.registry.sources.base import Downloading, Uploading

__all__ = ["Downloading", "Uploading", "missing_files"]


def missing_files(where: str, problems: Sequence[tuple[Pointer, str]], n_asked: int) -> SourceError:
    """What is raised after everything else has come."""
    listed = "; ".join(f"{pointer.sha256[:12]}… {problem}" for pointer, problem in problems[:5])
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return SourceError(
        f"{where} lacks {len(problems)} of {n_asked} large files: {listed}{more}",
        hint="ask who pushed the commit to push its large files too (`git lfs push --all`)",
    )
