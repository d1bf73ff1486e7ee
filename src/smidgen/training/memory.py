"""How the C library treats memory that a training step frees and the next operation needs again."""

from __future__ import annotations

import ctypes
import logging
import sys

logger = logging.getLogger(__name__)

# Parameters of mallopt(3) in glibc.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def reuse_freed_memory() -> None:
    """Let this process keep the large blocks that it frees, instead of returning each to the kernel at once.

    By default glibc maps every block above 32 MiB anew, and the kernel fills it with zeros a page at a time. On a CPU
    that costs a training step of elite-112m, whose activations and gradients are such blocks, a fifth of its time
    (measured: 3.35 million page faults in five steps become 0.80 million, peak memory stays). Elsewhere than under
    glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    if not (mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)):
        logger.debug("this C library keeps returning large blocks to the kernel")
