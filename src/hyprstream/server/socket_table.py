"""Which user made a socket? Knows the kernel's table of TCP sockets; knows nothing of what is said over them.

Linux answers for one socket in some tens of microseconds (sock_diag(7)); where it may not be asked so, the table is read as
text (proc(5)). Other systems are not asked.
"""

import contextlib
import socket
import struct
import sys
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

Address = tuple[IPv4Address | IPv6Address, int]
"""An IP address and a TCP port."""

_OVERFLOW_UID = 65534
"""What the kernel says of a user who does not exist in this user namespace. It may be anybody."""


# sock_diag(7) and linux/inet_diag.h: a request for one socket, and the answer.
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 1
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI")
_SOCKET_ID = struct.Struct("=2s2s16s16sI8s")
_ANSWER = struct.Struct("=BBBB48sIIIII")
_NO_COOKIE = b"\xff" * 8
_ALL_STATES = 0xFFFFFFFF
_CONNECTED = {1, 4, 5}
"""ESTABLISHED, FIN_WAIT1, FIN_WAIT2: the last two are a client that has sent all and waits for its answer."""


def owner_of_socket(*, local: Address, remote: Address) -> int | None:
    """The uid that made this machine's connected TCP socket between two addresses; None if it is gone or cannot be told."""
    if sys.platform != "linux":
        return None
    uid = None
    # A socket that listens on both families has its IPv4 connections in the IPv6 table, under mapped addresses.
    for pair in ((local, remote), (_mapped(local), _mapped(remote))):
        if uid is None:
            try:
                uid = _ask_kernel(*pair)
            except OSError:
                uid = _look_in_proc(*pair)
    return None if uid == _OVERFLOW_UID else uid


def _ask_kernel(local: Address, remote: Address) -> int | None:
    wanted = _SOCKET_ID.pack(
        local[1].to_bytes(2, "big"),
        remote[1].to_bytes(2, "big"),
        local[0].packed.ljust(16, b"\0"),
        remote[0].packed.ljust(16, b"\0"),
        0,
        _NO_COOKIE,
    )
    family = socket.AF_INET if local[0].version == 4 else socket.AF_INET6
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ALL_STATES) + wanted
    head = _HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(1.0)
        kernel.send(head + request)
        answer = kernel.recv(4096)
    return _uid_in(answer, wanted)


def _uid_in(answer: bytes, wanted: bytes) -> int | None:
    _, kind, *_ = _HEADER.unpack_from(answer)
    if kind == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if code == -2:  # ENOENT
            return None
        raise OSError(-code, "sock_diag")
    _, state, _, _, found, _, _, _, uid, inode = _ANSWER.unpack_from(answer, _HEADER.size)
    # Without a connected socket the kernel offers the listening one.
    is_it = found[:36] == wanted[:36] and state in _CONNECTED
    # A socket its process has closed belongs to root and has no inode. The kernel reads the user first, so that a socket
    # with an inode still had its user.
    return uid if is_it and inode else None


def _look_in_proc(local: Address, remote: Address) -> int | None:
    table = Path("/proc/net/tcp" if local[0].version == 4 else "/proc/net/tcp6")
    wanted = f"{_in_hex(local)} {_in_hex(remote)}"
    with contextlib.suppress(OSError):
        first = _uid_in_table(table.read_text(), wanted)
        # The table does not say in which order it was read: only a socket that is still there had its user before.
        return first if _uid_in_table(table.read_text(), wanted) == first else None
    return None


def _uid_in_table(table: str, wanted: str) -> int | None:
    start = table.find(f": {wanted} ")
    if start < 0:
        return None
    line = table[start + 2 : table.find("\n", start)]
    _, _, state, _, _, _, uid, _, inode, *_ = line.split()
    return int(uid) if int(state, 16) in _CONNECTED and inode != "0" else None


def _in_hex(address: Address) -> str:
    # Words of 32 bits, each in the machine's own order.
    packed = address[0].packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def _mapped(address: Address) -> Address:
    ip, port = address
    return (IPv6Address(f"::ffff:{ip}") if isinstance(ip, IPv4Address) else ip), port
