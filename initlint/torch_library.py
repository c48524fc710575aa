"""PyTorch's shared library, opened while the interpreter imports what does not need it.

Of initlint only what has a shared object of its own is imported before: the opening waits for it.

Opening it takes a fifth of ``import torch``, in which the interpreter would do nothing else: the
time of ``torch._C`` itself in what ``python -X importtime -c "import torch"`` prints.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

_EXTENSIONS = (
    "numpy",
    "_asyncio",
    "_bisect",
    "_blake2",
    "_bz2",
    "_csv",
    "_ctypes",
    "_decimal",
    "_hashlib",
    "_heapq",
    "_json",
    "_lzma",
    "_multiprocessing",
    "_posixshmem",
    "_posixsubprocess",
    "_queue",
    "_random",
    "_sha512",
    "_socket",
    "_ssl",
    "_statistics",
    "_uuid",
    "cmath",
    "grp",
    "mmap",
    "unicodedata",
    "zlib",
    "initlint.measure._moments",
)
"""Modules with shared objects of their own that the rules and PyTorch import: the dynamic loader
opens one at a time, and they would wait for the large one."""


def open_ahead() -> None:
    """Begin to open PyTorch's library on a thread; does nothing where there is none.

    ``import torch`` then finds it open, or waits for it.
    """
    if not sys.platform.startswith("linux"):
        return
    from importlib import import_module
    from importlib.util import find_spec

    spec = find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return
    library = os.path.join(spec.submodule_search_locations[0], "lib", "libtorch_cpu.so")
    if not os.path.isfile(library):
        return
    for name in _EXTENSIONS:
        with suppress(ImportError):  # built into the interpreter, or not built at all
            import_module(name)
    import ctypes
    from threading import Thread

    dlopen = ctypes.CDLL(None).dlopen  # a foreign call: other threads run meanwhile
    dlopen.restype = ctypes.c_void_p
    Thread(target=dlopen, args=(library.encode(), os.RTLD_LAZY), daemon=True).start()
