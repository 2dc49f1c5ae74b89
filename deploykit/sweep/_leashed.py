"""Start `deploykit` so that it ends when whoever started it is gone: the kernel sends it SIGTERM, and it unwinds.

    python -P -m deploykit.sweep._leashed PARENT_PID WORDS...

A killed driver, or a lost worker of a cluster, leaves no export behind that goes on for nobody.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent: int, words: list[str]) -> None:
    """Become `deploykit WORDS`; the parent-death signal survives that."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before prctl took hold
            sys.exit(1)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "deploykit", *words])  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
