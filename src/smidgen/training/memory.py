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

    By default glibc maps every block above 32 MiB anew, and the kernel fills it with zeros a page at a time. The
    activations and gradients of a training step are such blocks: without this, a step of elite-112m (2 × 512 tokens,
    one thread) takes 3.2 s of CPU time instead of 2.6 s, at the same peak memory. Elsewhere than under glibc it does
    nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    if not (mallopt(_M_MMAP_THRESHOLD, 2**30) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)):
        logger.debug("this C library keeps returning large blocks to the kernel")
