"""Memory of the processor's own: lets the C library keep what XLA's CPU backend frees, for the next program's use.

XLA takes the buffers of every program from malloc and frees them after it. glibc gives such memory back to the system
and asks for it anew, page by page: a training step of the shapes text model took 146,000 page faults a second, and a
fifth of the time.
"""

import ctypes
import os

# <malloc.h>'s names of what mallopt sets
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
KEPT = 1 << 30  # bytes at the end of the heap that are not given back
LARGE = 32 << 20  # bytes of a buffer from which it is mapped by itself, the most that glibc allows


def keep_freed() -> bool:
    """Whether it is so from now on: not with another C library than glibc, or where the environment has settings of
    malloc's own. To be called before there are threads: they would have their own heaps, which cannot keep much."""
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    settings = {ARENA_MAX: 1, MMAP_THRESHOLD: LARGE, TRIM_THRESHOLD: KEPT, TOP_PAD: LARGE}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
