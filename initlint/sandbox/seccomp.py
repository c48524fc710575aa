"""A seccomp filter: system calls that reading a file never needs are refused.

They fail with EPERM, or as unknown (ENOSYS) where a library then falls back to an older call that
can be judged by its arguments. It is a list of what is refused, so that a new C library keeps
working; Landlock beside it is a list of what is allowed. Interfaces: Linux
``include/uapi/linux/{seccomp,filter,audit}.h`` and each architecture's ``unistd.h``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _ALL_THREADS = 1, 1

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000

_LOAD, _RETURN = 0x20, 0x06
_EQUAL, _AT_LEAST, _ANY_BIT = 0x15, 0x35, 0x45
"""Instructions of the classic packet filter; the last three jump."""

_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
"""Offsets in ``struct seccomp_data``; an argument has eight bytes, the low half first."""

_X32_CALLS = 0x40000000
"""First number of x86-64's second table of calls, which is refused as a whole."""

_CLONE_THREAD = 0x00010000

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_TABLE = """
socket 41 198, socketpair 53 199, bind 49 200, listen 50 201, accept 43 202, accept4 288 242
connect 42 203, sendto 44 206, sendmsg 46 211, sendmmsg 307 269
execve 59 221, execveat 322 281, fork 57 -, vfork 58 -
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271
tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240
pidfd_open 434 434, pidfd_send_signal 424 424, pidfd_getfd 438 438
creat 85 -, unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38, renameat2 316 276
mkdir 83 -, mkdirat 258 34, rmdir 84 -, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36
mknod 133 -, mknodat 259 33, open_by_handle_at 304 265, name_to_handle_at 303 264
chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452
chown 92 -, lchown 94 -, fchown 93 55, fchownat 260 54
utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88
setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, setxattrat 463 463
removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, removexattrat 466 466
truncate 76 45, ftruncate 77 46, fallocate 285 47
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268
open_tree 428 428, move_mount 429 429, fsopen 430 430, fsconfig 431 431, fsmount 432 432
fspick 433 433, mount_setattr 442 442, quotactl 179 60, acct 163 89
bpf 321 280, perf_event_open 298 241, userfaultfd 323 282
io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427
keyctl 250 219, add_key 248 217, request_key 249 218
init_module 175 105, finit_module 313 273, delete_module 176 106
kexec_load 246 104, kexec_file_load 320 294, reboot 169 142, syslog 103 116
swapon 167 224, swapoff 168 225, sethostname 170 161, setdomainname 171 162, personality 135 92
settimeofday 164 170, clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266
shmget 29 194, shmat 30 196, shmctl 31 195, memfd_create 319 279, memfd_secret 447 447
msgget 68 186, msgsnd 69 189, msgctl 71 187, mq_open 240 180, mq_unlink 241 181
semget 64 190, semop 65 193, semctl 66 191, semtimedop 220 192, setrlimit 160 164
"""
"""Calls that are refused whatever their arguments: name, number on x86-64 and on 64-bit ARM."""

_JUDGED = """
open 2 -, openat 257 56, openat2 437 437, clone 56 220, clone3 435 435, kill 62 129, tgkill 234 131
prlimit64 302 261, seccomp 317 277
"""
"""Calls that are judged by their arguments, and the one that installs the filter."""


@dataclass(frozen=True, slots=True)
class _Architecture:
    """The kernel's number of an architecture and its column in the tables."""

    audit: int
    column: int


_ARCHITECTURES = {"x86_64": _Architecture(0xC000003E, 1), "aarch64": _Architecture(0xC00000B7, 2)}


def restrict(child: int | None) -> bool:
    """Put the filter on every thread of this process; ``child`` may still be sent signals.

    Returns:
        False when the kernel or the architecture has none; nothing is restricted then.
    """
    architecture = _ARCHITECTURES.get(os.uname().machine)
    if architecture is None or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    code = b"".join(_program(architecture, os.getpid(), child))
    instructions = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    number = _numbers(_JUDGED, architecture)["seccomp"]
    found = library.syscall(number, _SET_MODE_FILTER, ctypes.c_uint(_ALL_THREADS), header)
    return int(found) == 0


def _numbers(table: str, architecture: _Architecture) -> dict[str, int]:
    """Call names to numbers; calls that the architecture lacks are left out."""
    entries = (entry.split() for line in table.splitlines() for entry in line.split(",") if entry)
    column = architecture.column
    return {entry[0]: int(entry[column]) for entry in entries if entry[column] != "-"}


def _program(architecture: _Architecture, own: int, child: int | None) -> Iterator[bytes]:
    """The filter's instructions: refuse what is listed, judge some, allow the rest."""
    yield _load(_ARCHITECTURE_AT)
    yield _jump(_EQUAL, architecture.audit, 1, 0)
    yield _return(_KILL)
    yield _load(_NUMBER_AT)
    yield _jump(_AT_LEAST, _X32_CALLS, 0, 1)
    yield _return(_ERRNO | errno.EPERM)
    yield _refusals(architecture)
    judged = _numbers(_JUDGED, architecture)
    for name in ("openat2", "clone3"):  # their arguments are out of a filter's reach
        yield _jump(_EQUAL, judged[name], 0, 1)
        yield _return(_ERRNO | errno.ENOSYS)
    if "open" in judged:
        yield from _judge(judged["open"], 1, _ANY_BIT, _WRITES, allow=False)
    yield from _judge(judged["openat"], 2, _ANY_BIT, _WRITES, allow=False)
    yield from _judge(judged["clone"], 0, _ANY_BIT, _CLONE_THREAD, allow=True)
    yield from _judge(judged["tgkill"], 0, _EQUAL, own, allow=True)
    yield from _judge(judged["kill"], 0, _EQUAL, own if child is None else child, allow=True)
    yield from _judge(judged["prlimit64"], 2, _EQUAL, 0, allow=True)
    yield _return(_ALLOW)


@lru_cache(maxsize=1)
def _refusals(architecture: _Architecture) -> bytes:
    """Instructions for what is refused whatever its arguments; the same in every process."""
    refuse = _return(_ERRNO | errno.EPERM)
    numbers = _numbers(_TABLE, architecture).values()
    return b"".join(_jump(_EQUAL, number, 0, 1) + refuse for number in numbers)


def prepare() -> None:
    """Make now what forks of this process would each make for themselves."""
    architecture = _ARCHITECTURES.get(os.uname().machine)
    if architecture is not None:
        _refusals(architecture)


def _judge(
    number: int, argument: int, test: int, operand: int, *, allow: bool
) -> tuple[bytes, ...]:
    """Allow a call only if the low half of an argument passes the test, or only if it fails."""
    refused = _ERRNO | errno.EPERM
    passed, failed = (_ALLOW, refused) if allow else (refused, _ALLOW)
    return (
        _jump(_EQUAL, number, 0, 4),
        _load(_ARGUMENTS_AT + 8 * argument),
        _jump(test, operand, 0, 1),
        _return(passed),
        _return(failed),
    )


def _load(offset: int) -> bytes:
    return struct.pack("=HBBI", _LOAD, 0, 0, offset)


def _jump(test: int, operand: int, if_true: int, if_false: int) -> bytes:
    return struct.pack("=HBBI", test, if_true, if_false, operand)


def _return(action: int) -> bytes:
    return struct.pack("=HBBI", _RETURN, 0, 0, action)
