"""The command line is uvicorn's before `--` and that of `celery worker` after it."""

import pstats
import subprocess
import sys

import click
import pytest
import uvicorn
from celery import Celery
from celery.bin.worker import worker
from uvicorn.main import STARTUP_FAILURE


@pytest.fixture
def type_command(project):
    """Type `python run.py …` and return what it prints and its exit code."""

    def type_command(*args):
        return subprocess.run(
            [sys.executable, "run.py", *args],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=30,
        )

    return type_command


@pytest.mark.parametrize(
    ("args", "command", "text"),
    [
        (["--help"], uvicorn.main, "Options of `celery worker` follow after `--`"),
        (["main:app", "--", "--help"], worker, "-A, --app"),
    ],
    ids=["uvicorn", "celery worker"],
)
def test_help_shows_every_option_of_each(type_command, args, command, text):
    shown = type_command(*args)
    assert shown.returncode == 0
    options = [
        name for param in command.params if isinstance(param, click.Option) for name in param.opts
    ]
    assert len(options) > 20
    assert [name for name in options if name not in shown.stdout] == []
    assert text in " ".join(shown.stdout.split())


def test_help_is_shown_while_the_app_runs(start, type_command):
    server = start("run.py", "main:app")
    server.get()
    assert type_command("main:app", "--port", str(server.port), "--", "--help").returncode == 0


def test_app_is_served_under_the_profiler(start, project):
    """cProfile runs run.py in a module of another name than `__main__`."""
    server = start("-m", "cProfile", "-o", "profile", "run.py", "main:app")
    assert server.get() == {"2+2": 4}
    server.press_ctrl_c()
    server.wait()
    assert "Traceback" not in server.log
    names = [name for _, _, name in pstats.Stats(str(project / "profile")).stats]
    assert "load_app" in names


def test_version_is_uvicorns(type_command):
    assert type_command("--version").stdout.startswith("Running uvicorn")


def test_uvicorn_variables_count(start):
    server = start("run.py", UVICORN_APP="main:app", UVICORN_ACCESS_LOG="false")
    assert server.get() == {"2+2": 4}
    assert "GET /" not in server.log


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 reads no pyproject.toml")
@pytest.mark.parametrize("args", [[], ["--reload"], ["--", "-c", "1"]], ids=" ".join)
def test_app_is_the_entrypoint_that_pyproject_names_for_fastapi(start, project, args):
    (project / "pyproject.toml").write_text('[tool.fastapi]\nentrypoint = "main:app"\n')
    assert start("run.py", *args).get() == {"2+2": 4}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "Missing argument 'APP'"),
        (["--", "-c", "2"], "Missing argument 'APP'"),
        (["main:app", "--nonsense"], "No such option '--nonsense'"),
        (["main:app", "--", "--nonsense"], "No such option '--nonsense'"),
        (["main:app", "--port", "x"], "Invalid value for '--port'"),
        (["main:app", "--", "-c", "x"], "must be a non-negative integer"),
        (["main:app", "--", "-l", "loud"], "Invalid value for '-l'"),
        (["main:app", "--", "-P", "fork"], "'fork' is not one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistake_is_reported_before_anything_starts(type_command, args, message):
    typed = type_command(*args)
    assert typed.returncode == 2
    assert message in typed.stderr
    assert "Traceback" not in typed.stderr


def test_help_after_the_dashes_is_celerys(type_command):
    shown = type_command("main:app", "--", "--help")
    assert shown.returncode == 0
    assert shown.stdout.startswith("Usage: celery worker")


def test_setting_of_the_app_that_celery_refuses_is_reported_in_one_line(start, project):
    tasks = project / "app" / "tasks.py"
    tasks.write_text(tasks.read_text() + "\napp.conf.task_create_missing_queues = False\n")
    server = start("run.py", "main:app", "--", "-Q", "nowhere")
    assert server.wait() == STARTUP_FAILURE
    message = "ERROR:    The Celery worker could not start: Trying to select queue subset of"
    assert message in server.log
    assert "Traceback" not in server.log


def test_options_of_the_worker_reach_it(start, probe, redis_server):
    options = [
        "-c",
        "3",
        "-n",
        "own@%n",
        "-E",
        "-O",
        "fair",
        "--prefetch-multiplier",
        "7",
        "-l",
        "debug",
        "--purge",
    ]
    Celery(broker=redis_server, set_as_current=False).send_task("tasks.fail")
    server = start("run.py", "main:app", "--", *options, REDIS_URL=redis_server)
    server.get()
    with Celery(broker=redis_server, set_as_current=False) as client:
        [(name, stats)] = client.control.inspect().stats().items()
    assert name.startswith("own@")
    assert stats["pool"]["max-concurrency"] == 3
    assert stats["prefetch_count"] == 21
    assert stats["total"] == {"tasks.add": 1}
    assert "DEBUG:    worker - " in server.log
    assert "Starting Events" in server.log
