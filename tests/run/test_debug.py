"""F5 on an entry of launch.json stops in handlers and tasks, and Stop leaves nothing behind."""

import contextlib
import queue
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import psutil
import pytest
from command import ROOT, free_port, listens, wait_for
from dap import Editor

PLAIN = "App and worker"
RELOAD = "App and worker, reloading"
LIBRARY = "App and worker, into library code"
TEST = "Current test file"
PROCESS = "Attach to a running command"
PORT = "Attach to a port"

# The filters of exceptions: the first is the editor's default.
DEFAULT = ["uncaught"]
BOTH = ["uncaught", "userUnhandled"]


@pytest.fixture(scope="module")
def port():
    """Return the API's port. It is the same for all tests, and none may leave it taken."""
    return free_port()


@pytest.fixture(scope="module")
def redis_port():
    """Return the port of Redis. It is the same for all tests, too."""
    return free_port()


@pytest.fixture
def editor(project, libs, port, redis_port):
    """An editor with a copy of the project open."""
    shutil.copytree(ROOT / ".vscode", project / ".vscode")
    env = {"UVICORN_PORT": str(port), "REDIS_URL": f"redis://localhost:{redis_port}/0"}
    with Editor(project, libs, **env) as editor:
        yield editor


@pytest.fixture
def main(project):
    return project / "app" / "main.py"


@pytest.fixture
def tasks(project):
    return project / "app" / "tasks.py"


@pytest.fixture
def get(editor, port):
    """Request a path once the API listens, and return its response to come."""
    with ThreadPoolExecutor() as pool:

        def get(path="/"):
            wait_for(lambda: listens(port) or not editor.is_debugging(), editor.terminal.read_text)
            return pool.submit(httpx.get, f"http://127.0.0.1:{port}{path}", timeout=20)

        yield get


@pytest.fixture
def finish(editor):
    """Continue at each stop until there is the response, and return both."""

    def finish(response):
        stops = []
        while not response.done():
            with contextlib.suppress(queue.Empty):
                stop = editor.stops.get(timeout=0.2)
                stops.append((stop.reason, stop.function, stop.file))
                stop.press_continue()
        return stops, response.result()

    return finish


@pytest.fixture
def stops_in_both(editor, main, tasks, get):
    """Request `/`, and check that it stops in its handler, and then in its task, in one process.

    Return the latter stop, and the response to come.
    """
    editor.set_breakpoint(main, "return {")
    editor.set_breakpoint(tasks, "return x + y")

    def stops_in_both():
        response = get()
        handler = editor.wait_for_stop()
        assert (handler.file, handler.function, handler.locals) == (main, "read_root", {})
        pid = handler.pid
        handler.press_continue()
        task = editor.wait_for_stop()
        assert (task.file, task.function) == (tasks, "add")
        assert (task.locals["x"], task.locals["y"], task.pid) == ("2", "2", pid)
        return task, response

    return stops_in_both


@pytest.fixture
def stop_ends_it_all(editor, port):
    """Press Stop once, and check that it leaves no session, no process and no listener."""

    def stop_ends_it_all():
        processes = editor.running()
        assert processes
        editor.press_stop()
        wait_for(lambda: not editor.is_debugging(), editor.terminal.read_text)
        wait_for(lambda: not editor.running(), lambda: f"{editor.running()} of {processes}")
        assert not listens(port)
        log = editor.terminal.read_text()
        startups = log.count("Application startup complete.")
        assert log.count("Application shutdown complete.") == startups, log

    return stop_ends_it_all


@pytest.fixture
def edit(editor, tasks):
    """Edit a task, set its breakpoint again, and return when the new process is debugged."""

    def edit(old, new):
        sessions = len(editor.sessions)
        tasks.write_text(tasks.read_text().replace(old, new))
        if tasks in editor.breakpoints:
            editor.set_breakpoint(tasks, "return x + y")
        wait_for(lambda: len(editor.sessions) > sessions, editor.terminal.read_text)

    return edit


@pytest.fixture
def run(editor, project, port):
    """Run a command in the editor's terminal, and return its process when the API answers."""

    def run(*args):
        command = {"args": [sys.executable, *args], "cwd": project, "env": {}}
        process = editor.run_in_terminal(command)
        terminal = editor.terminal
        wait_for(lambda: "startup complete." in terminal.read_text(), terminal.read_text)
        wait_for(lambda: listens(port), terminal.read_text)
        return process

    return run


PING = """

@app.get("/ping")
def ping() -> str:
    return "pong"
"""


@pytest.mark.parametrize("name", [PLAIN, RELOAD, LIBRARY])
def test_f5_stops_in_the_handler_and_in_its_task_while_the_api_answers(
    editor, name, main, get, stops_in_both, stop_ends_it_all
):
    main.write_text(main.read_text() + PING)
    editor.press_f5(name)
    task, response = stops_in_both()
    # With debugpy 1.8.20, a paused task blocked it.
    before = time.monotonic()
    assert get("/ping").result().json() == "pong"
    assert time.monotonic() - before < 1
    task.step_into()
    if name == LIBRARY:
        stop = editor.wait_for_stop()
        assert "celery" in stop.file.parts
        stop.press_continue()
    assert response.result().json() == {"2+2": 4}
    assert editor.stops.empty()
    stop_ends_it_all()


@pytest.mark.parametrize("name", [PLAIN, RELOAD])
def test_the_terminal_shows_only_the_log(editor, name, get):
    """The project's debugpy beside the editor's would warn at the first task."""
    editor.press_f5(name)
    assert get().result().json() == {"2+2": 4}
    lines = editor.terminal.read_text().splitlines()
    assert all(line.startswith("INFO:     ") for line in lines), lines


def test_under_reload_the_editor_debugs_the_serving_process_alone(editor, get, edit):
    """It has a session for each. One for a helper process would take the focus from the app."""
    editor.breakpoints.clear()
    editor.press_f5(RELOAD)
    assert get().result().json() == {"2+2": 4}
    for count in (1, 2):
        log = editor.terminal.read_text()
        pids = [int(part.split("]")[0]) for part in log.split("Started server process [")[1:]]
        children = editor.sessions[1:]
        assert [child.configuration["subProcessId"] for child in children] == pids
        assert len(pids) == count
        if count == 1:
            edit("return x + y", "return x + y + 1")
            wait_for(lambda: get().result().json() == {"2+2": 5}, editor.terminal.read_text)


@pytest.mark.parametrize("name", [PLAIN, RELOAD])
@pytest.mark.parametrize("moment", ["starting", "idle", "at a breakpoint", "after a stop"])
def test_one_press_on_stop_ends_it_all(editor, name, moment, get, stops_in_both, stop_ends_it_all):
    if moment == "idle":
        editor.breakpoints.clear()
    editor.press_f5(name)
    if moment == "idle":
        assert get().result().status_code == 200
    elif moment == "starting":
        read = editor.terminal.read_text
        wait_for(lambda: "INFO:     Starting" in read(), read)
    else:
        task, response = stops_in_both()
        if moment == "after a stop":
            task.press_continue()
            assert response.result().json() == {"2+2": 4}
    stop_ends_it_all()
    if moment == "at a breakpoint":
        assert response.result().json() == {"2+2": 4}
    assert "Traceback" not in editor.terminal.read_text()


@pytest.mark.parametrize("has_stopped", [False, True])
def test_one_press_on_stop_ends_it_all_after_an_edit(
    editor, has_stopped, get, edit, stops_in_both, stop_ends_it_all
):
    if not has_stopped:
        editor.breakpoints.clear()
    editor.press_f5(RELOAD)
    if has_stopped:
        task, response = stops_in_both()
        task.press_continue()
        assert response.result().json() == {"2+2": 4}
    else:
        assert get().result().json() == {"2+2": 4}
    edit("    return x + y", "    z = 100\n    return x + y + z")
    if has_stopped:
        task, response = stops_in_both()
        assert task.locals == {"x": "2", "y": "2", "z": "100"}
    else:
        wait_for(lambda: get().result().json() == {"2+2": 104}, editor.terminal.read_text)
    stop_ends_it_all()
    if has_stopped:
        assert response.result().json() == {"2+2": 104}


def test_stop_works_three_times_in_a_row_on_the_same_port(editor, stops_in_both, stop_ends_it_all):
    for _ in range(3):
        editor.press_f5(PLAIN)
        _, response = stops_in_both()
        stop_ends_it_all()
        assert response.result().json() == {"2+2": 4}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "victim"), [(PLAIN, "server"), (RELOAD, "reloader")])
def test_kill_9_while_a_task_is_paused_leaves_nothing(
    editor, name, victim, stops_in_both, port, redis_port, get
):
    editor.press_f5(name)
    task, _ = stops_in_both()
    server = psutil.Process(task.pid)
    editor.running()
    (server if victim == "server" else server.parent()).kill()
    reason = lambda: f"{editor.running()}\n{editor.terminal.read_text()}"  # noqa: E731
    wait_for(lambda: not editor.running(), reason, timeout=10)
    assert not listens(port)
    assert not listens(redis_port)
    editor.breakpoints.clear()
    editor.press_f5(name)
    assert get().result().json() == {"2+2": 4}


SENDING = """

def service(x):
    local = "of the service"
    return add.delay(x, 2).get(timeout=10)


@app.get("/service")
def by_service() -> int:
    where = "handler"
    return service(2)


@app.get("/from_async")
async def by_async_handler() -> str:
    where = "async handler"
    return add.delay(2, 2).id
"""


def line_of(file, code):
    """Return the number of the line of a file where `code` stands."""
    lines = file.read_text().splitlines()
    return next(number for number, text in enumerate(lines, 1) if code in text)


@pytest.mark.parametrize("name", [PLAIN, RELOAD])
def test_call_stack_of_a_task_goes_on_into_the_code_that_sent_it(editor, name, main, tasks, get):
    main.write_text(main.read_text() + SENDING)
    editor.set_breakpoint(tasks, "return x + y")
    editor.press_f5(name)
    response = get("/service")
    task = editor.wait_for_stop()
    assert task.call_stack == [
        ("add", "tasks.py", line_of(tasks, "return x + y")),
        ("service", "main.py", line_of(main, "return add.delay(x, 2)")),
        ("by_service", "main.py", line_of(main, "return service(2)")),
    ]
    assert task.evaluate("(x, local)", frame=1) == "(2, 'of the service')"
    assert task.evaluate("where", frame=2) == "'handler'"
    assert task.evaluate("'__call__' in {**globals(), **locals()}", frame=1) == "False"
    task.press_continue()
    assert response.result().json() == 4
    response = get("/from_async")
    task = editor.wait_for_stop()
    assert [frame[:2] for frame in task.call_stack] == [
        ("add", "tasks.py"),
        ("by_async_handler", "main.py"),
    ]
    task.press_continue()
    assert response.result().status_code == 200


def test_stop_lets_an_async_handler_that_is_paused_finish(editor, main, get, stop_ends_it_all):
    """It blocks the event loop, and the thread that handles signals."""
    main.write_text(main.read_text() + SENDING)
    editor.set_breakpoint(main, "return add.delay(2, 2).id")
    editor.press_f5(PLAIN)
    response = get("/from_async")
    assert editor.wait_for_stop().function == "by_async_handler"
    stop_ends_it_all()
    assert response.result().status_code == 200


OUTER_TASK = """

@app.task
def outer(n):
    add.delay(n, n)
"""

OUTER = """

import tasks


@app.get("/outer")
def nested():
    tasks.outer.delay(7)
"""


def test_call_stack_goes_on_through_tasks_that_send_tasks(editor, main, tasks, get):
    tasks.write_text(tasks.read_text() + OUTER_TASK)
    main.write_text(main.read_text() + OUTER)
    editor.set_breakpoint(tasks, "return x + y")
    editor.press_f5(PLAIN)
    get("/outer")
    task = editor.wait_for_stop()
    assert [name for name, *_ in task.call_stack] == ["add", "outer", "nested"]
    assert task.evaluate("n", frame=1) == "7"


@pytest.mark.parametrize("step", ["step_over", "step_out", "step_into"])
def test_a_step_at_the_end_of_a_task_runs_on(editor, get, stops_in_both, step):
    """It stops neither in the sender's frame, whose handler may be done, nor in the next task."""
    editor.press_f5(PLAIN)
    task, response = stops_in_both()
    getattr(task, step)()
    assert response.result().json() == {"2+2": 4}
    editor.clear_breakpoints()
    # Each of the threads runs one of these.
    assert [get().result().json() for _ in range(8)] == [{"2+2": 4}] * 8
    assert editor.stops.empty()


TWO_AT_ONCE = """

@app.get("/both")
def both() -> int:
    result = add.delay(2, 2)
    first = 1
    second = 2
    return result.get(timeout=10)
"""


def test_a_step_in_the_handler_leaves_its_paused_task_where_it_is(editor, main, tasks, get):
    main.write_text(main.read_text() + TWO_AT_ONCE)
    editor.set_breakpoint(main, "first = 1")
    editor.set_breakpoint(tasks, "return x + y")
    editor.press_f5(PLAIN)
    response = get("/both")
    stops = {stop.function: stop for stop in (editor.wait_for_stop(), editor.wait_for_stop())}
    stops["both"].step_over()
    handler = editor.wait_for_stop()
    assert (handler.reason, handler.frame["line"]) == ("step", line_of(main, "second = 2"))
    assert stops["add"].locals == {"x": "2", "y": "2"}
    # Continue lets both go on.
    handler.press_continue()
    assert response.result().json() == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", [PLAIN, RELOAD])
def test_timeout_of_get_does_not_count_the_time_at_a_breakpoint(editor, name, main, tasks, get):
    main.write_text(main.read_text().replace("timeout=10", "timeout=3"))
    editor.set_breakpoint(tasks, "return x + y")
    editor.press_f5(name)
    response = get()
    task = editor.wait_for_stop()
    deadline = time.monotonic() + 5
    wait_for(lambda: time.monotonic() > deadline)
    assert not response.done()
    task.press_continue()
    assert response.result().json() == {"2+2": 4}
    assert editor.stops.empty()


@pytest.mark.parametrize("name", [PLAIN, RELOAD])
def test_a_task_that_fails_stops_once_at_the_line_that_raised(
    editor, name, tasks, get, finish, stop_ends_it_all
):
    tasks.write_text(tasks.read_text().replace("return x + y", "raise ValueError(x)"))
    editor.exceptions = DEFAULT
    editor.press_f5(name)
    response = get()
    stop = editor.wait_for_stop()
    assert (stop.reason, stop.file, stop.function) == ("exception", tasks, "add")
    assert [name for name, *_ in stop.call_stack] == ["add", "read_root"]
    assert (stop.locals["x"], stop.locals["y"]) == ("2", "2")
    assert stop.exception == "2"
    stop.press_continue()
    stops, result = finish(response)
    assert (stops, result.status_code) == ([], 500)
    stop_ends_it_all()


@pytest.mark.parametrize("name", [PLAIN, RELOAD])
def test_a_box_of_exceptions_may_be_ticked_at_any_time(editor, name, main, tasks, get, finish):
    """The debugger then stops in the task, and in the handler that gets its exception."""
    tasks.write_text(tasks.read_text().replace("return x + y", "raise ValueError(x)"))
    editor.exceptions = DEFAULT
    editor.press_f5(name)
    for filters in (DEFAULT, BOTH, BOTH, ["userUnhandled"], DEFAULT):
        editor.tick(filters)
        response = get()
        stop = editor.wait_for_stop()
        assert (stop.file, stop.function, stop.exception) == (tasks, "add", "2")
        stop.press_continue()
        stops, result = finish(response)
        in_handler = [("exception", "read_root", main)]
        assert stops == ([] if filters == DEFAULT else in_handler)
        assert result.status_code == 500


def test_a_test_stops_in_the_task_that_it_runs(editor, project, tasks):
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", project / "tests")
    editor.file = project / "tests" / "test_root.py"
    editor.file.write_text(
        'def test_root(client):\n    assert client.get("/").json() == {"2+2": 4}\n'
    )
    editor.set_breakpoint(tasks, "return x + y")
    assert editor.configuration(TEST)["purpose"] == ["debug-test"]
    editor.press_f5(TEST)
    task = editor.wait_for_stop()
    assert (task.file, task.function, task.locals) == (tasks, "add", {"x": "2", "y": "2"})
    task.press_continue()
    wait_for(lambda: not editor.is_debugging(), editor.terminal.read_text)
    assert "1 passed" in editor.terminal.read_text()


@pytest.fixture
def attaching_stops_in_both_and_leaving_lets_the_app_run_on(editor, get, stops_in_both):
    """Check that an entry that attaches does the same as one that starts the app."""

    def check(name, presses=1, **changes):
        editor.press_f5(name, **changes)
        # The app doesn't wait for the editor.
        wait_for(lambda: [it.started.done() for it in editor.sessions] == [True] * presses)
        task, response = stops_in_both()
        assert [function for function, *_ in task.call_stack] == ["add", "read_root"]
        # There is nothing to step into but run.py.
        task.step_into()
        assert response.result().json() == {"2+2": 4}
        _, response = stops_in_both()
        for _ in range(presses):
            assert editor.is_debugging()
            editor.press_stop()
            wait_for(lambda: editor.focus is None or not editor.focus.is_in_shutdown)
        wait_for(lambda: not editor.is_debugging())
        assert response.result().json() == get().result().json() == {"2+2": 4}
        assert editor.stops.empty()

    return check


@pytest.mark.parametrize("options", [[], ["--reload"]], ids=["plain", "reload"])
def test_attaching_to_a_port(
    editor, run, options, attaching_stops_in_both_and_leaving_lets_the_app_run_on
):
    address = editor.configuration(PORT)["connect"]
    assert address == {"host": "127.0.0.1", "port": 5678}
    address["port"] = free_port()
    listen = ["-m", "debugpy", "--listen", f"127.0.0.1:{address['port']}"]
    run(*listen, "run.py", "main:app", *options)
    # With --reload, there is a session for each of two processes, and a press leaves one.
    presses = 1 + len(options)
    attaching_stops_in_both_and_leaving_lets_the_app_run_on(PORT, presses, connect=address)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="Python 3.14 brings sys.remote_exec()")
@pytest.mark.parametrize("options", [[], ["--reload"]], ids=["plain", "reload"])
def test_attaching_to_a_process_that_was_started_without_a_debugger(
    editor, run, options, attaching_stops_in_both_and_leaving_lets_the_app_run_on
):
    run("run.py", "main:app", *options)
    log = editor.terminal.read_text()
    editor.process = int(log.split("Started server process [")[1].split("]")[0])
    attaching_stops_in_both_and_leaving_lets_the_app_run_on(PROCESS)
