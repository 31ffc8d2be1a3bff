"""Files that survive a power cut whole. Knows bytes, modes and fsync; knows nothing of what the files mean."""

import os
from pathlib import Path


def durable_replace(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path` so that a power cut leaves either the old state or the new one.

    The content must be on the disk already (fsync); this sees to the directory.
    """
    temporary.replace(path)
    sync_directory(path.parent)


def write_durably(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Give `path` this content, whole or not at all, readable as `mode` says from its first byte."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    durable_replace(temporary, path)


def make_private(directory: Path) -> Path:
    """Make a directory that only its owner may enter, and its parents as usual; returns it."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    return directory


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
