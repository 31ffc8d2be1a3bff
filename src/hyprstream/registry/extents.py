"""Blocks that files share on disk until one is written to. Knows two ioctls of Linux; knows no blob. Elsewhere nothing is shared.

`FICLONE` and `FS_IOC_FIEMAP` are of `linux/fs.h` and `linux/fiemap.h`; btrfs, XFS and bcachefs know both.
"""

import fcntl
import struct
import sys
from pathlib import Path
from typing import NamedTuple

_FICLONE = 0x40049409
_FS_IOC_FIEMAP = 0xC020660B
_HEADER = struct.Struct("=QQLLLL")
"""`struct fiemap`: start, length, flags, extents found, extents there is room for, reserved."""
_EXTENT = struct.Struct("=QQQ16xL12x")
"""`struct fiemap_extent`: offset in the file, offset on the disk, length, flags."""
_SYNC = 0x1
_LAST, _SHARED = 0x1, 0x2000
_N_EXTENTS = 256
"""Asked for at once."""
_TO_THE_END = (1 << 64) - 1


class _Extent(NamedTuple):
    logical: int
    physical: int
    length: int


def reflink(source: Path, target: Path) -> bool:
    """Make `target` a new file with the blocks of `source`; False, and no file, where the file system cannot.

    Raises:
        FileExistsError: `target` is there already.
        OSError: `source` cannot be read, or no file can be made.
    """
    if sys.platform != "linux":
        return False
    with source.open("rb") as original, target.open("xb") as clone:
        try:
            fcntl.ioctl(clone.fileno(), _FICLONE, original.fileno())
            return True
        except OSError:
            target.unlink()
            return False


def share_extents(one: Path, other: Path) -> bool:
    """Whether two files have all their blocks in common. False of empty files, and where the file system does not tell.

    Raises:
        OSError: a file cannot be read.
    """
    if sys.platform != "linux" or one.stat().st_size != other.stat().st_size:
        return False
    extents = _shared_extents(one)
    return bool(extents) and extents == _shared_extents(other)


def _shared_extents(path: Path) -> list[_Extent]:
    """Where the file is on the disk, in order; empty if any of it is its own."""
    found: list[_Extent] = []
    with path.open("rb") as file:
        while True:
            start = found[-1].logical + found[-1].length if found else 0
            room = _HEADER.pack(start, _TO_THE_END - start, _SYNC, 0, _N_EXTENTS, 0)
            buffer = bytearray(room + bytes(_N_EXTENTS * _EXTENT.size))
            try:
                fcntl.ioctl(file.fileno(), _FS_IOC_FIEMAP, buffer)
            except OSError:
                return []
            n_found: int = _HEADER.unpack_from(buffer)[3]
            for i in range(n_found):
                *place, flags = _EXTENT.unpack_from(buffer, _HEADER.size + i * _EXTENT.size)
                if not flags & _SHARED:
                    return []
                _append(found, _Extent(*place))
                if flags & _LAST:
                    return found
            if n_found == 0:
                return found


def _append(extents: list[_Extent], extent: _Extent) -> None:
    """Add an extent, as one with the last if it goes on where that ends: where it is cut is no difference."""
    if extents:
        last = extents[-1]
        steps = (extent.logical - last.logical, extent.physical - last.physical)
        if steps == (last.length, last.length):
            extents[-1] = last._replace(length=last.length + extent.length)
            return
    extents.append(extent)
