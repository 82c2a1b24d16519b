"""Memory of the processor's own: lets the C library keep what XLA's CPU backend frees, for the next program's use.

XLA takes the temporaries of a program from malloc as one buffer and frees it afterwards. glibc maps what is so large by
itself, gives it back to the system, and each step asks for all its pages anew.
"""

import ctypes
import os
import sys

# <malloc.h>'s names of what mallopt sets
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
KEPT = 2**31 - 1  # bytes at the end of the heap that are not given back, the most that mallopt takes
PAD = 64 << 20  # bytes by which the heap grows


def keep_freed() -> bool:
    """Whether it is so from now on: not with another C library than glibc, or where the environment has settings of
    malloc's own. To be called before there are threads: they would have their own heaps, which cannot keep much."""
    if any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return False
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt") or not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = {ARENA_MAX: 1, MMAP_MAX: 0, TRIM_THRESHOLD: KEPT, TOP_PAD: PAD}  # nothing is mapped by itself
    return all([library.mallopt(name, value) == 1 for name, value in settings.items()])
