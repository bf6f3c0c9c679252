"""Projects in folders of their own, and commands typed there."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import debugpy
import pytest
from command import ROOT, Command, RedisServer, put_in


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a copy of run.py and of the app, where a command may be typed."""
    shutil.copy(ROOT / "run.py", tmp_path)
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture
def probe(project: Path) -> Path:
    """The same with an app that returns facts about its process (tests/run/projects/probe)."""
    return put_in(project, "probe")


@pytest.fixture
def faults(project: Path) -> Path:
    """The same with tasks that end badly and endless responses (tests/run/projects/faults)."""
    return put_in(project, "faults")


@pytest.fixture(scope="session")
def libs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a copy of debugpy. An editor has one of its own, too."""
    folder = tmp_path_factory.mktemp("extension") / "libs"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(debugpy.__file__).parent, folder / "debugpy", ignore=ignored)
    return folder


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[str]:
    """The URL of a redis-server that outlives the commands of the test."""
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server on PATH")
    server = RedisServer(tmp_path)
    yield server.url
    server.kill()


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., Command]]:
    """Start a command in the project's folder, with a free port to serve and no Redis running.

    `start("run.py", "main:app", …)` is `python run.py main:app …`, and `start("-m", "uvicorn", …)`
    is `python -m uvicorn …`.
    """
    commands: list[Command] = []

    def start(*args: str, cwd: Path = project, **env: str | None) -> Command:
        commands.append(Command(args, cwd, env))
        return commands[-1]

    yield start
    for command in commands:
        command.end()
