"""How the interpreter is set up: as the app is imported, and later."""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import warnings
from typing import Any

at_import: dict[str, Any] = {
    "argv": list(sys.argv),
    "modules of the worker": sorted(
        name
        for name in sys.modules
        if name.startswith(("celery.worker", "celery.apps.worker", "celery.app.trace"))
    ),
}


def process() -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "flags": repr(sys.flags),
        "path": sys.path,
        "environment": dict(os.environ),
        "dont_write_bytecode": sys.dont_write_bytecode,
        "warnoptions": sys.warnoptions,
        "warnings": [
            f"{action} {category.__name__}" for action, _, category, _, _ in warnings.filters
        ],
        "levels": {
            name: logging.getLogger(name).level
            for name in ("uvicorn", "uvicorn.access", "uvicorn.error")
        },
        "start method": multiprocessing.get_start_method(allow_none=True),
        "gc": [gc.isenabled(), gc.get_freeze_count(), list(gc.get_threshold())],
        "blocked signals": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "ignored signals": [
            int(number)
            for number in signal.valid_signals()
            if signal.getsignal(number) == signal.SIG_IGN
        ],
        "recursion limit": sys.getrecursionlimit(),
    }
