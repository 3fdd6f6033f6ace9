"""What orbax says beside the one error it raises: nothing that a reader of the error would miss."""

from __future__ import annotations

import functools
import logging
import sys
import warnings


@functools.cache
def quiet_orbax() -> None:
    """Keeps the narration of saves and the echoes of a failed one off standard error.

    When one array cannot be written or read, orbax raises that error and closes its event loop; the arrays still
    under way then report to a closed loop, each with a traceback, and those not begun are found unawaited, with a
    warning, when they are collected.
    """
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what it logs as an error it also raises
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", r"coroutine '.*' was never awaited", RuntimeWarning)
    others = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            others(unraisable)

    sys.unraisablehook = hook
