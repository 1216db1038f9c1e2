"""Memory that a process frees and soon needs again."""

import ctypes

# Constants of glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
KEPT = 2**30  # bytes of freed memory
# Bytes of one piece; larger ones would leave gaps that nothing fits into, and go back to the system as always.
LARGEST = 2**25


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next allocation, and return whether it is glibc, which can.

    Each step of a training allocates and frees the same tensors. By default the larger ones go back to the system and
    return page by page, and each page is cleared: a fifth of a small network's CPU time. The peak memory does not
    change.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(TRIM_THRESHOLD, KEPT) and mallopt(MMAP_THRESHOLD, LARGEST))
