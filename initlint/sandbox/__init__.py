"""The second wall: what a process that reads an untrusted file may still ask of the kernel.

The first wall is that no reader runs what it reads. This one holds if a reader, or a native library
below it, has a fault: the process can read the model's folder and the interpreter's own libraries,
write to the pipes it already has, and nothing else. It needs no privilege and cannot be taken down
again. `landlock` confines paths, `seccomp` refuses system calls.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache")
"""Where the dynamic linker looks when a Python module that is imported late needs a library."""


def lock_down(readable: Iterable[str], child: int | None = None) -> tuple[str, ...]:
    """Give up, for the rest of this process's life, everything that reading a file does not need.

    To be called before any other thread runs: a thread that exists already keeps its rights.

    Args:
        readable: files, and folders with all below them, that may be opened for reading; those
            that do not exist are left out.
        child: the one process that may be sent signals.

    Returns:
        The parts of the wall that this system does not have; empty when it stands as a whole.
    """
    if sys.platform != "linux":
        return (f"confinement (none known for {sys.platform})",)
    from initlint.sandbox import landlock, seccomp

    missing = []
    if not landlock.restrict((*readable, *library_folders()), signals=child is not None):
        missing.append("Landlock")
    if not seccomp.restrict(child):
        missing.append("seccomp")
    return tuple(missing)


def library_folders() -> tuple[str, ...]:
    """Folders of the interpreter and of every package loaded so far, for modules imported later.

    Other entries of the search path are left out: they may be a folder of the user's own.
    """
    found = {os.path.dirname(os.path.dirname(os.__file__)), *_SYSTEM_LIBRARIES}
    found.update(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))
    for name, module in list(sys.modules.items()):
        if "." not in name:
            found.update(path for path in getattr(module, "__path__", ()) if os.path.isabs(path))
    return tuple(sorted(found))


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that started it ends."""
    if sys.platform != "linux":
        return
    import ctypes
    import signal

    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGKILL), 0, 0, 0)
