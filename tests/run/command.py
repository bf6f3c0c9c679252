"""run.py and its peers as real processes, as a user starts them."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil

ROOT = Path(__file__).parents[2]
MODES = {
    "plain": [],
    "reload": ["--reload"],
    "workers": ["--workers", "2"],
}  # uvicorn's, as arguments


def put_in(project: Path, name: str) -> Path:
    """Replace the app by that of tests/run/projects/`name`."""
    shutil.rmtree(project / "app")
    shutil.copytree(ROOT / "tests" / "run" / "projects" / name, project, dirs_exist_ok=True)
    return project


class Command:
    """A Python command line that runs in a folder.

    Attributes:
        port: of the API, in UVICORN_PORT; free at first.
        redis_port: of REDIS_URL; free at first.
        process: the outermost one.
    """

    def __init__(self, args: tuple[str, ...], cwd: Path, env: dict[str, str | None]) -> None:
        self.args = args
        self.port, self.redis_port = free_port(), free_port()
        ours = {
            "UVICORN_PORT": str(self.port),
            "REDIS_URL": f"redis://localhost:{self.redis_port}/0",
        }
        ours["PYTHONDONTWRITEBYTECODE"] = (
            "1"  # or Python's cache takes two edits within a second for one
        )
        # Given as None, a variable is not set.
        inherited = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("UVICORN_", "CELERY_", "REDIS_"))
        }
        self.output = cwd / f"output-{self.port}.log"
        with self.output.open("wb") as output:
            self.process = psutil.Popen(
                [sys.executable, *args],
                cwd=cwd,
                env={k: v for k, v in {**inherited, **ours, **env}.items() if v is not None},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as a shell does: Ctrl-C reaches the command's whole process group
            )
        self.seen = {self.process: True}  # in the order of `tree`

    @property
    def log(self) -> str:
        return self.output.read_text()

    def wait_for_log(self, text: str, count: int = 1) -> None:
        """Return once the output has `text` at least `count` times."""
        wait_for(
            lambda: self.log.count(text) >= count or self.ended(),
            lambda: f"no {text!r} in:\n{self.log}",
        )
        assert self.log.count(text) >= count, self.log

    def get(self, path: str = "/", **params: Any) -> Any:
        """Return the JSON at `path`, waiting for the server to listen first."""
        wait_for(lambda: listens(self.port) or self.ended(), lambda: self.log)
        response = httpx.get(f"http://127.0.0.1:{self.port}{path}", params=params, timeout=30)
        assert response.status_code == 200, self.log
        return response.json()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int:
        """Return the exit code; negative for a signal, as subprocess has it."""
        wait_for(self.ended, lambda: self.log)
        return int(self.process.wait())

    def press_ctrl_c(self) -> None:
        """Interrupt the foreground process group, as a terminal does."""
        self.tree()
        os.killpg(self.process.pid, signal.SIGINT)

    def tree(self) -> list[psutil.Process]:
        """Return the outermost process and all below it, each after its parent."""
        tree = (
            [self.process, *self.process.children(recursive=True)] if is_alive(self.process) else []
        )
        self.seen.update(dict.fromkeys(tree, True))
        return tree

    def leftovers(self) -> list[psutil.Process]:
        """Return what still runs of the processes that `tree` ever returned."""
        return [process for process in self.seen if is_alive(process)]

    def wait_until_nothing_is_left(self, why: Callable[[], str] | None = None) -> None:
        """Return once no process runs and no port is taken, which a killed process's last thread holds for a moment."""
        why = why or (lambda: f"{self.leftovers()}\n{self.log}")
        wait_for(lambda: not self.leftovers(), why, timeout=5)
        wait_for(lambda: not listens(self.port) and not listens(self.redis_port), why, timeout=5)

    def end(self) -> None:
        """Kill what runs, parents first: what guards Redis ends it once its standard input does."""
        self.tree()
        for process in self.leftovers():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


class RedisServer:
    """A redis-server that may be killed and started again at its port, and keeps nothing unless an option says so."""

    def __init__(self, folder: Path, *options: str, port_option: str = "--port") -> None:
        self.port, self.folder = free_port(), folder
        self.command = ["redis-server", "--save", "", *options, port_option, str(self.port)]
        self.url = f"redis://localhost:{self.port}/0"
        self.start()

    def start(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [*self.command, *options], cwd=self.folder, stdout=subprocess.DEVNULL
        )
        wait_for(lambda: listens(self.port))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def wait_for(
    condition: Callable[[], object], why: Callable[[], str] = str, timeout: float = 30
) -> None:
    """Return once `condition` holds, or fail after `timeout` seconds with what `why` returns."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.02)


claims: list[socket.socket] = []


def free_port() -> int:
    """Return a port that no other test has, and below those that the system gives to outgoing connections.

    What claims it is UDP's port of that number, which nothing else uses: other processes run tests, too.
    """
    while True:
        port, claim = random.randrange(10_000, 32_000), socket.socket(type=socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            claim.bind(("127.0.0.1", port))
            if not listens(port):
                break
        claim.close()
    claims.append(claim)
    if len(claims) > 50:  # those of earlier tests
        claims.pop(0).close()
    return port


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
