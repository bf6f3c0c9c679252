"""run.py and other commands as real processes, as a user starts them."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2 as httpx
import psutil
from celery import Celery

ROOT = Path(__file__).parents[2]

# What the task `log` of projects/guest logs.
LINES_OF_LOG = [
    "info of a module",
    "warning of a module",
    "info of a task",
    "warning of a task",
    "succeeded in",
]

# The ways in which uvicorn serves, and their arguments.
MODES = {"plain": [], "reload": ["--reload"]}


def put_in(project: Path, name: str) -> Path:
    """Replace the app by that of tests/run/projects/`name`."""
    shutil.rmtree(project / "app")
    shutil.copytree(ROOT / "tests" / "run" / "projects" / name, project, dirs_exist_ok=True)
    return project


def add_to(file: Path, code: str) -> None:
    """Add code to the end of a file."""
    file.write_text(file.read_text() + code)


class Command:
    """A Python command line that runs in a folder.

    Attributes:
        port: The port of the API, in UVICORN_PORT. It is free at first.
        redis_port: The port of REDIS_URL. It is free at first.
        process: The outermost process.
    """

    def __init__(self, args: tuple[str, ...], cwd: Path, env: dict[str, str | None]) -> None:
        self.args = args
        self.port = free_port()
        self.redis_port = free_port()
        self.redis_url = f"redis://localhost:{self.redis_port}/0"
        own_names = ("UVICORN_", "CELERY_", "REDIS_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(own_names)}
        variables: dict[str, str | None] = {
            "UVICORN_PORT": str(self.port),
            "REDIS_URL": self.redis_url,
            # Python's cache would take two edits within a second for one.
            "PYTHONDONTWRITEBYTECODE": "1",
            **env,
        }
        # A variable whose value is None is not set.
        given = {k: v for k, v in variables.items() if v is not None}
        kept = {k: v for k, v in inherited.items() if k not in variables}
        self.output = cwd / f"output-{self.port}.log"
        with self.output.open("wb") as output:
            self.process = psutil.Popen(
                [sys.executable, *args],
                cwd=cwd,
                env={**kept, **given},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # As in a shell, Ctrl-C reaches the command's whole process group.
                start_new_session=True,
            )
        # In the order of `tree`.
        self.seen = {self.process: True}

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

    def wait_for_line(self, pattern: str) -> str:
        """Return a line of the output that matches the regular expression, once there is one."""
        lines = re.compile(f"^.*{pattern}.*$", re.M)
        wait_for(
            lambda: lines.search(self.log) or self.ended(),
            lambda: f"no line matches {pattern!r} in:\n{self.log}",
        )
        line = lines.search(self.log)
        assert line, self.log
        return line[0]

    def get(self, path: str = "/", **params: Any) -> Any:
        """Return the JSON at `path`. Wait for the server to listen first."""
        wait_for(lambda: listens(self.port) or self.ended(), lambda: self.log)
        response = httpx.get(f"http://127.0.0.1:{self.port}{path}", params=params, timeout=30)
        assert response.status_code == 200, self.log
        return response.json()

    def inspect(self, what: str) -> Any:
        """Return the answer of the only worker to `celery inspect WHAT`, once it is ready."""
        self.wait_for_log(" ready.")
        answers: dict[str, Any] = {}
        with Celery(broker=self.redis_url, set_as_current=False) as client:
            ask = getattr(client.control.inspect(timeout=2, limit=1), what)
            # The worker may be ready just before it listens.
            wait_for(lambda: answers.update(ask() or {}) or answers, lambda: self.log)
        [answer] = answers.values()
        return answer

    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self) -> int:
        """Return the exit code. As in subprocess, that of a signal is negative."""
        wait_for(self.ended, lambda: self.log)
        return int(self.process.wait())

    def press_ctrl_c(self) -> None:
        """Interrupt the foreground process group, as a terminal does."""
        self.tree()
        os.killpg(self.process.pid, signal.SIGINT)

    def tree(self) -> list[psutil.Process]:
        """Return the outermost process and all below it, each after its parent."""
        tree = []
        if is_alive(self.process):
            tree = [self.process, *self.process.children(recursive=True)]
        self.seen.update(dict.fromkeys(tree, True))
        return tree

    def leftovers(self) -> list[psutil.Process]:
        """Return what still runs of the processes that `tree` ever returned."""
        return [process for process in self.seen if is_alive(process)]

    def wait_until_nothing_is_left(self, why: Callable[[], str] | None = None) -> None:
        """Return once no process runs and no port is in use.

        The last thread of a killed process, and Redis, hold their ports for a moment.
        """
        why = why or (lambda: f"{self.leftovers()}\n{self.log}")
        wait_for(lambda: not self.leftovers(), why, timeout=5)
        wait_for(lambda: not listens(self.port) and not listens(self.redis_port), why, timeout=5)

    def end(self) -> None:
        """Kill all processes, parents first. The Redis that run.py started ends with them."""
        self.tree()
        for process in self.leftovers():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


class RedisServer:
    """A redis-server that may be killed and started again at its port.

    It keeps nothing, unless an option says so.
    """

    def __init__(self, folder: Path, *options: str, port_option: str = "--port") -> None:
        self.port = free_port()
        self.folder = folder
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


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port
    return port


def listening_addresses(*ports: int) -> list[str]:
    """Return the addresses of this machine at which something listens on one of these ports."""
    connections = psutil.net_connections("tcp")
    listening = [c for c in connections if c.status == psutil.CONN_LISTEN]
    return [c.laddr.ip for c in listening if c.laddr.port in ports]


def is_loopback(address: str) -> bool:
    return address.startswith(("127.", "::1", "::ffff:127."))


def make_certificate(key: Path, cert: Path) -> None:
    """Write a private key, and a certificate of localhost that it has signed itself."""
    certify = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    certify += ["-subj", "/CN=localhost", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(certify, check=True, capture_output=True)


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
    """Return a port that no other test has.

    It is below those that the system gives to outgoing connections. UDP's port of that number,
    which nothing else uses, claims it in all processes that run tests.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        with contextlib.suppress(OSError):
            claim.bind(("127.0.0.1", port))
            if not listens(port):
                break
        claim.close()
    claims.append(claim)
    # Those of earlier tests are no longer needed.
    if len(claims) > 50:
        claims.pop(0).close()
    return port


def listens(port: int) -> bool:
    """Return whether something accepts connections at this port of 127.0.0.1."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
