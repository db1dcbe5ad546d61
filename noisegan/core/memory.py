"""The C library's allocator on Linux, told to keep what is freed.

glibc gives large blocks back to the system at every free, so that every new feature map is paid for page by page, again
and again. How much that costs depends on the machine: keeping blocks made a small training step 1.4 to 1.7 times faster
on one, and nothing that could be measured on another.
"""

from __future__ import annotations

import ctypes
import os
import sys

VARIABLE = "NOISEGAN_MALLOC"
"""`system` leaves the allocator as it is; so does any of glibc's own MALLOC_ variables."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # glibc's malloc.h
_TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Set the allocator for the rest of this process. Returns whether it was: on Linux with glibc, unless refused."""
    refused = os.environ.get(VARIABLE) == "system" or any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform != "linux" or refused:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, _TOP_PAD_BYTES))  # -1: never give back
    return all(mallopt(name, value) == 1 for name, value in settings)
