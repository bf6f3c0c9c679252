"""Errors are reported in one line that names the next step, without a traceback of run.py's."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import MODES
from uvicorn.main import STARTUP_FAILURE

SYNTAX = "def broken(:\n"
MISSING = "import nowhere_to_be_found\n"
RAISES = "def connect():\n    raise RuntimeError('no settings')\n\n\nconnect()\n"


def errors(server):
    return [line for line in server.log.splitlines() if line.startswith(("ERROR:", "Error:"))]


@pytest.fixture
def project(probe):
    return probe


@pytest.mark.parametrize(
    ("file", "code", "args", "shown"),
    [
        (
            "main.py",
            SYNTAX,
            [],
            ['  File "{}/main.py", line 1', "    def broken(:", "SyntaxError: "],
        ),
        (
            "tasks.py",
            SYNTAX,
            [],
            ['  File "{}/main.py", line', '  File "{}/tasks.py", line 1', "SyntaxError: "],
        ),
        (
            "tasks.py",
            MISSING,
            [],
            ['  File "{}/tasks.py", line 1', "ModuleNotFoundError: No module named 'nowhere_to"],
        ),
        (
            "main.py",
            RAISES,
            [],
            ['  File "{}/main.py", line 5', '  File "{}/main.py", line 2', "RuntimeError: no se"],
        ),
        ("worker.py", SYNTAX, ["-A", "worker"], ['  File "{}/worker.py", line 1', "SyntaxError: "]),
        (
            "worker.py",
            MISSING,
            ["-A", "worker"],
            ['  File "{}/worker.py", line 1', "ModuleNotFoundError: "],
        ),
        (
            "celeryconfig.py",
            "imports = ['gone']\n",
            [],
            ["ModuleNotFoundError: No module named 'gone'"],
        ),
    ],
    ids=[
        "a syntax error in APP",
        "in what it imports",
        "a package that is missing",
        "an exception",
        "a syntax error in -A",
        "a package that is missing there",
        "a module of `imports` that is missing",
    ],
)
def test_users_own_error_is_shown_with_their_own_frames(start, project, file, code, args, shown):
    (project / file).write_text(code)
    if file == "celeryconfig.py":
        tasks = project / "tasks.py"
        tasks.write_text(tasks.read_text() + "\napp.config_from_object('celeryconfig')\n")
    server = start("run.py", "main:app", "--", *args)
    assert server.wait() == STARTUP_FAILURE
    message = "ERROR:    Could not load main:app. Fix this error:\n"
    assert message in server.log
    assert len(errors(server)) == 1
    trace = server.log.partition(message)[2]
    for line in shown:
        assert line.format(project) in trace
    files = [Path(name) for name in re.findall(r'File "(.+?)"', trace)]
    own_files = [file for file in files if file.parent == project and file.name != "run.py"]
    assert own_files == files


def test_syntax_error_in_an_edit_is_shown_and_the_next_good_edit_recovers(start, project):
    server = start("run.py", "main:app", "--reload")
    assert server.get() == {"2+2": 4}
    tasks = project / "tasks.py"
    good = tasks.read_text()
    tasks.write_text(good + SYNTAX)
    server.wait_for_log("SyntaxError: ")
    tasks.write_text(good.replace("return x + y", "return x + y + 100"))
    server.wait_for_log("Application startup complete.", count=2)
    assert server.get() == {"2+2": 104}
    trace = server.log.partition("Fix this error:")[2].partition("SyntaxError: ")[0]
    assert f'File "{tasks}"' in trace
    assert "run.py" not in trace


@pytest.mark.parametrize("mode", MODES)
def test_busy_port_is_reported_before_anything_starts(start, project, mode):
    first = start("run.py", "main:app")
    first.get()
    second = start("run.py", "main:app", *MODES[mode], UVICORN_PORT=str(first.port))
    assert second.wait() == 1
    port = first.port
    message = f"Error: Port {port} is in use. Choose another one: --port {port + 1}\n"
    assert second.log == message


FAILING_STEP = """
from celery import bootsteps

class Step(bootsteps.StartStopStep):
    requires = ["celery.worker.consumer.connection:Connection"]

    def start(self, consumer):
        raise ValueError("as asked")

app.steps["consumer"].add(Step)
"""


def test_worker_that_fails_at_its_start_is_reported(start, project):
    (project / "tasks.py").write_text((project / "tasks.py").read_text() + FAILING_STEP)
    server = start("run.py", "main:app")
    assert server.wait() == STARTUP_FAILURE
    assert "Unrecoverable error: ValueError('as asked')" in server.log
    assert "ERROR:    The Celery worker could not start: its log says why." in server.log


def test_missing_package_is_reported_in_one_line(project):
    change = "sys.path = [p for p in sys.path if 'site-packages' not in p]"
    code = f"import runpy, sys; {change}; runpy.run_path('run.py', run_name='__main__')"
    typed = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=30
    )
    assert typed.returncode == 1
    command = f"{sys.executable} -m pip install celery"
    assert typed.stderr == f"run.py needs celery. Install it: {command}\n"
