"""Landlock by its system calls: an allowlist of paths, no TCP, no signals to others.

Interface: Linux ``include/uapi/linux/landlock.h``; https://docs.kernel.org/userspace-api/landlock.html.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, the same on every architecture."""

_GET_VERSION = 1
_RULE_PATH_BENEATH = 1
_NO_NEW_PRIVS = 38

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
"""Version of the interface to the number of rights on files it knows; 16 from version 5 on."""

_TCP_BIND_CONNECT = 0b11
_TCP_SINCE = 4
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_SCOPES_SINCE = 6


def version() -> int:
    """Version of the kernel's Landlock; 0 where there is none."""
    library = ctypes.CDLL(None, use_errno=True)
    return max(int(library.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _GET_VERSION)), 0)


def restrict(readable: Iterable[str], *, signals: bool) -> bool:
    """Confine this thread, and those it starts, to reading these paths.

    Args:
        readable: files, and folders with all below them; a missing one is left out.
        signals: leave signals to processes outside alone.

    Returns:
        False when the kernel has no Landlock; nothing is restricted then.
    """
    known = version()
    if known < 1:
        return False
    library = ctypes.CDLL(None, use_errno=True)
    attributes = struct.pack("=Q", (1 << _FILE_RIGHTS.get(known, 16)) - 1)
    if known >= _TCP_SINCE:
        attributes += struct.pack("=Q", _TCP_BIND_CONNECT)
    if known >= _SCOPES_SINCE:
        scopes = _SCOPE_ABSTRACT_SOCKETS | (0 if signals else _SCOPE_SIGNALS)
        attributes += struct.pack("=Q", scopes)
    ruleset = library.syscall(
        _CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0)
    )
    if ruleset < 0:
        return False
    try:
        for path in readable:
            _allow(library, ruleset, path)
        library.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
        return int(library.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint(0))) == 0
    finally:
        os.close(ruleset)


def _allow(library: ctypes.CDLL, ruleset: int, path: str) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError):
        return
    try:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        rights = _READ_FILE | (_READ_DIR if folder else 0)
        rule = struct.pack("=Qi", rights, descriptor)
        library.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, ctypes.c_uint(0))
    finally:
        os.close(descriptor)
