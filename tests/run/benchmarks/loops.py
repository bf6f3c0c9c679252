"""The dev loops that are compared, each as a user types it.

Each has --reload, and 4 tasks at a time where it can.
"""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.run.command import ROOT, free_port, listens

# A loop is taken for broken after so many seconds.
TIMEOUT = 60


@dataclass(frozen=True)
class Loop:
    """A way to run the benchmarked app.

    Attributes:
        name: as the table has it.
        commands: one for each terminal, after `python`.
        answer: the path of an answer that code of tasks.py gives.
        env: variables of it alone, as pairs.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    answer: str = "/task"
    env: tuple[tuple[str, str], ...] = ()


SERVE = ("main:app", "--reload")
# Its pool is prefork, Celery's default.
WORKER = f"{sys.executable} -m celery -A tasks worker --loglevel info -c 4"

OURS = Loop("run.py", (("run.py", *SERVE, "--", "-c", "4"),))
UVICORN = Loop("uvicorn alone", (("-m", "uvicorn", *SERVE),), answer="/direct")
IN_PARENT = Loop("worker in parent", (("in_parent.py", *SERVE),))
TWO_TERMINALS = Loop(
    "two terminals", (*UVICORN.commands, ("-m", "watchfiles", "--filter", "python", WORKER))
)
LOOPS = (OURS, UVICORN, IN_PARENT, TWO_TERMINALS)

DEFAULT_SWITCHES = Loop(
    "Python's default", OURS.commands, env=(("BENCHMARK_SWITCH_INTERVAL", "default"),)
)
HUNDRED_THREADS = Loop(OURS.name, (("run.py", *SERVE, "--", "-c", "100"),))


class Running:
    """A loop that runs, in a folder of its own.

    It is a context manager: all its processes have ended after the block.

    Args:
        loop: the loop.
        folder: an empty one. The project is below it. The log is beside the project, as it would
            wake the reloader.
        redis_url: of a Redis that answers, with a database for this loop alone.

    Attributes:
        tasks: the project's tasks.py.
        terminals: the outermost processes.
    """

    def __init__(self, loop: Loop, folder: Path, redis_url: str) -> None:
        self.loop = loop
        self.port = free_port()
        self.log = folder / "log"
        project = folder / "project"
        shutil.copytree(
            Path(__file__).parent / "app", project, ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(ROOT / "run.py", project)
        self.tasks = project / "tasks.py"
        env = {
            **os.environ,
            "UVICORN_PORT": str(self.port),
            "REDIS_URL": redis_url,
            **dict(loop.env),
        }
        for name in ("PYTHONDONTWRITEBYTECODE", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
            env.pop(name, None)
        self.started = time.perf_counter()
        with self.log.open("wb") as log:
            self.terminals = [
                psutil.Popen(
                    [sys.executable, *command],
                    cwd=project,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A shell does this, too: Ctrl-C reaches the command's whole process group.
                    start_new_session=True,
                )
                for command in loop.commands
            ]
        self.seen: set[psutil.Process] = set()

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        self.tree()
        for process in self.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for terminal in self.terminals:
            terminal.wait()

    def tree(self) -> list[psutil.Process]:
        """Return all processes of the loop."""
        tree = []
        for terminal in self.terminals:
            with contextlib.suppress(psutil.NoSuchProcess):
                tree += [terminal, *terminal.children(recursive=True)]
        self.seen.update(tree)
        return tree

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT)

    def get(self, path: str) -> bytes:
        """Return the body at `path`, by a connection of its own.

        Raises:
            OSError, http.client.HTTPException: the server is not there, or answers with an error.
        """
        with contextlib.closing(self.connect()) as connection:
            return get(connection, path)

    def wait_for_answer(self, answer: int, timeout: float = TIMEOUT) -> None:
        """Return as soon as the loop gives this answer.

        Raises:
            TimeoutError: it didn't in `timeout` seconds.
        """

        def answers() -> bool:
            with contextlib.suppress(OSError, http.client.HTTPException):
                return int(self.get(self.loop.answer)) == answer
            return False

        wait_for(
            answers,
            timeout,
            lambda: f"{self.loop.name} does not answer {answer}:\n{self.log.read_text()}",
        )

    def settle(self) -> None:
        """Return once the processes have nothing more to do.

        For a second they have used less than a tenth of a core's time.
        """
        before = self.cpu_seconds()

        def is_idle() -> bool:
            nonlocal before
            time.sleep(1)
            before, last = self.cpu_seconds(), before
            return sum(seconds - last.get(process, 0) for process, seconds in before.items()) < 0.1

        wait_for(is_idle)

    def cpu_seconds(self) -> dict[psutil.Process, float]:
        """Return what each process has used of a core's time."""
        seconds = {}
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                seconds[process] = times.user + times.system
        return seconds

    def press_ctrl_c(self) -> None:
        """Interrupt the foreground process group of each terminal."""
        self.tree()
        for terminal in self.terminals:
            os.killpg(terminal.pid, signal.SIGINT)


def get(connection: http.client.HTTPConnection, path: str) -> bytes:
    """Return the body at `path`, and keep the connection."""
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise http.client.HTTPException(f"{path}: {response.status}")
    return body


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a redis-server that keeps nothing, and yield its URL without a database."""
    port = free_port()
    command = [
        "redis-server",
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--save",
        "",
        "--databases",
        "1000",
    ]
    server = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for(lambda: listens(port))
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def wait_for(
    condition: Callable[[], bool], timeout: float = TIMEOUT, why: Callable[[], Any] = str
) -> None:
    """Return once `condition` holds.

    Raises:
        TimeoutError: it didn't in `timeout` seconds. The message is what `why` returns.
    """
    deadline = time.perf_counter() + timeout
    while not condition():
        if time.perf_counter() > deadline:
            raise TimeoutError(why())
        time.sleep(0.005)
