"""The user's code finds the interpreter as under `python -m uvicorn`."""

import contextlib
import os
import sys
from pathlib import Path

import pytest

RELOAD = [[], ["--reload"]]
IDS = ["plain", "reload"]


@pytest.mark.parametrize("args", RELOAD, ids=IDS)
@pytest.mark.parametrize(
    ("options", "env"),
    [
        ([], {"PYTHONDONTWRITEBYTECODE": None, "PYTHONWARNINGS": None}),
        ([], {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "once", "PYTHONPATH": "lib"}),
        (["-O", "-W", "once"], {"PYTHONDONTWRITEBYTECODE": None}),
    ],
    ids=["as it is", "variables of Python", "options of Python"],
)
def test_state_of_the_process_is_as_under_uvicorn(start, guest, redis_server, args, options, env):
    commands = ["run.py"], ["-m", "uvicorn"]
    ours, stock = (
        start(*options, *command, "main:app", *args, REDIS_URL=redis_server, **env)
        for command in commands
    )
    seen, right = ours.get("/process"), stock.get("/process")
    for process in (seen, right):
        process["environment"].pop("UVICORN_PORT")
        del process["pid"], process["modules of the worker"]
    assert seen.pop("argv") == ["run.py", "main:app", *args]
    assert right.pop("argv")[1:] == ["main:app", *args]
    # `uvicorn --reload` leaves its own start method there.
    assert seen.pop("start method") is None
    del right["start method"]
    # Celery warns if root runs it, a container's usual user.
    seen["warnings"].remove("ignore Warning")
    assert seen == right


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="there is no /proc")
def test_serving_process_has_no_file_of_the_reloaders(start, guest):
    server = start("run.py", "main:app", "--reload")
    serving = files(server.get("/process")["pid"])
    assert not [file for file in serving if "inotify" in file]


def files(pid):
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        # A file may have just been closed.
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(file))
    return found


@pytest.mark.parametrize("args", RELOAD, ids=IDS)
def test_app_may_change_the_arguments_at_import(start, guest, args):
    state = guest / "state.py"
    state.write_text(f"{state.read_text()}\nsys.argv = ['other']\n")
    server = start("run.py", "main:app", *args, "--", "-n", "other@%h")
    assert server.get("/task/add", args=["2", "2"]) == 4
    assert "worker - other@" in server.log


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python has it since 3.11")
@pytest.mark.parametrize("args", RELOAD, ids=IDS)
def test_safe_path_and_a_path_of_the_users(start, guest, tmp_path_factory, args):
    folder = tmp_path_factory.mktemp("lib")
    (folder / "extra_lib.py").touch()
    with (guest / "tasks.py").open("a") as file:
        file.write("import extra_lib\n")
    server = start("run.py", "main:app", *args, PYTHONSAFEPATH="1", PYTHONPATH=str(folder))
    assert server.get("/task/add", args=["2", "2"]) == 4
