"""Importing `run`, as tests/conftest.py does, has no effect on the process."""

import json
import subprocess
import sys

import pytest
from command import ROOT

# Its libraries are imported before, as their effects are not those of run.py.
CODE = """
import json, logging, multiprocessing, os, signal, sys, threading, warnings
import billiard.einfo, celery, celery.concurrency.base, celery.bin.worker, click
import asyncio, uvicorn, uvicorn.main
from celery import signals

def state():
    loggers = [logging.getLogger(), logging.getLogger("uvicorn"), logging.getLogger("celery")]
    return {
        "signals": [str(signal.getsignal(number)) for number in signal.valid_signals()],
        "loggers": [str([it, it.handlers, it.filters, it.disabled]) for it in loggers],
        "last resort": str(logging.lastResort),
        "warnings": str(warnings.filters),
        "threads": str(threading.enumerate()),
        "environment": dict(os.environ),
        "path": sys.path,
        "arguments": sys.argv,
        "switch interval": sys.getswitchinterval(),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "uvicorn": str([
            uvicorn._subprocess.spawn,
            sys.modules["uvicorn.main"].Server,
        ]),
        "receivers": [len(getattr(signals, name).receivers) for name in signals.__all__],
        "current Celery app": str(celery._state._tls.current_app),
    }

before = state()
import run
after = state()
print(json.dumps({name: [before[name], after[name]] for name in before}))
"""


@pytest.mark.parametrize("args", [[], ["--nonsense", "-x", "--", "-P", "none"]], ids=" ".join)
def test_import_has_no_effect(args):
    """The arguments are those of pytest, for example."""
    imported = subprocess.run(
        [sys.executable, "-c", CODE, *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert imported.returncode == 0, imported.stderr
    changes = json.loads(imported.stdout)
    assert {name: pair for name, pair in changes.items() if pair[0] != pair[1]} == {}
