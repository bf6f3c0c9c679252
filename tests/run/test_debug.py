"""F5 on an entry of .vscode/launch.json stops in the handler and in its task, and Stop leaves nothing behind."""

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
TEST = "Test file at hand"
ATTACH = "Attach"


@pytest.fixture(scope="module")
def port():
    """The API's, and the same for all tests: none may leave it taken."""
    return free_port()


@pytest.fixture(scope="module")
def redis_port():
    """The same for Redis."""
    return free_port()


@pytest.fixture
def editor(project, port, redis_port):
    """An editor with a copy of the project open."""
    shutil.copytree(ROOT / ".vscode", project / ".vscode")
    with Editor(
        project, UVICORN_PORT=str(port), REDIS_URL=f"redis://localhost:{redis_port}/0"
    ) as editor:
        yield editor


@pytest.fixture
def main(project):
    return project / "app" / "main.py"


@pytest.fixture
def tasks(project):
    return project / "app" / "tasks.py"


@pytest.fixture
def line_of():
    """Return the number of the line of a file where `code` stands."""

    def line_of(file, code):
        return next(
            number for number, text in enumerate(file.read_text().splitlines(), 1) if code in text
        )

    return line_of


@pytest.fixture
def get(editor, port):
    """Request a path once the API is there, and return its response to come."""
    with ThreadPoolExecutor() as pool:

        def get(path="/"):
            wait_for(lambda: listens(port) or not editor.is_debugging(), editor.terminal.read_text)
            return pool.submit(httpx.get, f"http://127.0.0.1:{port}{path}", timeout=20)

        yield get


@pytest.fixture
def stops_in_both(editor, main, tasks, get):
    """Request `/`, and check that its handler stops and then its task, in one process. Return the latter, paused."""
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
    """Press Stop once, and check that the lifespan is shut down, and no session, process or listener is left."""

    def stop_ends_it_all():
        processes = editor.running()
        assert processes
        editor.press_stop()
        wait_for(lambda: not editor.is_debugging(), editor.terminal.read_text)
        wait_for(lambda: not editor.running(), lambda: f"{editor.running()} of {processes}")
        assert not listens(port)
        log = editor.terminal.read_text()
        assert (
            log.count("Application shutdown complete.")
            == log.count("Application startup complete.")
            > 0
        ), log

    return stop_ends_it_all


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
    before = time.monotonic()
    assert (
        get("/ping").result().json() == "pong"
    )  # which hung beside a paused task with debugpy 1.8.20
    assert time.monotonic() - before < 1
    task.step_into()
    stop = editor.wait_for_stop()
    if name == LIBRARY:
        assert "celery" in stop.file.parts
    else:  # it is over, and back in the code that sent it
        assert (stop.file, stop.function) == (main, "read_root")
    stop.press_continue()
    assert response.result().json() == {"2+2": 4}
    assert editor.stops.empty()
    stop_ends_it_all()


def test_stop_lets_what_is_paused_finish_three_times_in_a_row_on_the_same_port(
    editor, stops_in_both, stop_ends_it_all
):
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
    wait_for(
        lambda: not editor.running(),
        lambda: f"{editor.running()}\n{editor.terminal.read_text()}",
        timeout=10,
    )
    assert not listens(port)
    assert not listens(redis_port)
    editor.breakpoints.clear()
    editor.press_f5(name)
    assert get().result().json() == {"2+2": 4}


def test_under_reload_an_edit_stops_at_the_new_code(editor, tasks, stops_in_both, stop_ends_it_all):
    editor.press_f5(RELOAD)
    task, _ = stops_in_both()
    task.press_continue()
    sessions = len(editor.sessions)
    tasks.write_text(
        tasks.read_text().replace("    return x + y", "    z = 100\n    return x + y + z")
    )
    editor.set_breakpoint(tasks, "return x + y")
    wait_for(lambda: len(editor.sessions) > sessions, editor.terminal.read_text)
    task, response = stops_in_both()
    assert task.locals == {"x": "2", "y": "2", "z": "100"}
    stop_ends_it_all()
    assert response.result().json() == {"2+2": 104}


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


@pytest.mark.parametrize("name", [PLAIN, RELOAD])
def test_call_stack_of_a_task_goes_on_into_the_code_that_sent_it(
    editor, name, main, tasks, get, line_of
):
    main.write_text(main.read_text() + SENDING)
    editor.set_breakpoint(tasks, "return x + y")
    editor.press_f5(name)
    response = get("/service")
    task = editor.wait_for_stop()
    assert task.call_stack[:3] == [
        ("add", "tasks.py", line_of(tasks, "return x + y")),
        ("service", "main.py", line_of(main, "return add.delay(x, 2)")),
        ("by_service", "main.py", line_of(main, "return service(2)")),
    ]
    assert task.evaluate("(x, local)", frame=1) == "(2, 'of the service')"
    assert task.evaluate("where", frame=2) == "'handler'"
    task.press_continue()
    assert response.result().json() == 4
    response = get("/from_async")
    task = editor.wait_for_stop()
    assert task.call_stack[1][:2] == ("by_async_handler", "main.py")
    task.press_continue()
    assert response.result().status_code == 200


def test_stop_lets_an_async_handler_that_is_paused_finish(editor, main, get, stop_ends_it_all):
    """It holds up the event loop, and the thread in which signals are handled."""
    main.write_text(main.read_text() + SENDING)
    editor.set_breakpoint(main, "return add.delay(2, 2).id")
    editor.press_f5(PLAIN)
    response = get("/from_async")
    assert editor.wait_for_stop().function == "by_async_handler"
    stop_ends_it_all()
    assert response.result().status_code == 200


def test_call_stack_goes_on_through_tasks_that_send_tasks(editor, main, tasks, get, line_of):
    tasks.write_text(tasks.read_text() + "\n\n@app.task\ndef outer(n):\n    add.delay(n, n)\n")
    main.write_text(
        main.read_text()
        + "\n\nimport tasks\n\n\n@app.get('/outer')\ndef nested():\n    tasks.outer.delay(7)\n"
    )
    editor.set_breakpoint(tasks, "return x + y")
    editor.press_f5(PLAIN)
    get("/outer")
    task = editor.wait_for_stop()
    assert [name for name, *_ in task.call_stack[:3]] == ["add", "outer", "nested"]
    assert task.evaluate("n", frame=1) == "7"


@pytest.mark.parametrize("step", ["step_over", "step_out"])
def test_step_at_the_end_of_a_task_goes_to_its_sender_or_on(editor, main, tasks, get, step):
    """A breakpoint at the sending line isn't hit again, and no step stops in run.py or in Celery."""
    editor.set_breakpoint(main, "return {")
    editor.set_breakpoint(tasks, "return x + y")
    editor.press_f5(PLAIN)
    response = get()
    editor.wait_for_stop().press_continue()
    task = editor.wait_for_stop()
    assert task.function == "add"
    getattr(task, step)()
    while not response.done():
        with contextlib.suppress(queue.Empty):
            stop = editor.stops.get(timeout=0.2)
            assert stop.file in (main, tasks)
            assert stop.reason != "breakpoint"
            stop.press_continue()
    assert response.result().json() == {"2+2": 4}


SLOW = """

import tasks


@app.get("/slow")
def slow():
    tasks.slow.delay().get(timeout=3)
"""

SOON_AGAIN = {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}

SLOW_TASK = """

@app.task
def slow():
    import time

    time.sleep(6)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", [PLAIN, RELOAD])
def test_the_clock_stands_while_a_task_does(editor, project, name, main, tasks, get):
    """Neither who waits for it gives up, nor does the broker deliver it again. A timeout without a pause fires."""
    main.write_text(main.read_text().replace("timeout=10", "timeout=3") + SLOW)
    tasks.write_text(tasks.read_text() + SLOW_TASK)
    settings = project / "app" / "celeryconfig.py"
    settings.write_text(settings.read_text().replace('{"socket_timeout": 3}', str(SOON_AGAIN)))
    editor.set_breakpoint(tasks, "return x + y")
    editor.press_f5(name)
    response = get()
    task = editor.wait_for_stop()
    deadline = time.monotonic() + 5
    wait_for(lambda: time.monotonic() > deadline)
    assert not response.done()
    task.press_continue()
    assert response.result().json() == {"2+2": 4}
    assert get("/slow").result().status_code == 500
    assert editor.stops.empty()


@pytest.mark.parametrize(
    "ticked", [["uncaught"], ["userUnhandled"], ["uncaught", "userUnhandled"]], ids=" and ".join
)
def test_a_task_that_raises_stops_once_where_it_does(
    editor, tasks, main, get, ticked, stop_ends_it_all
):
    tasks.write_text(tasks.read_text().replace("return x + y", "raise ValueError(x)"))
    editor.exceptions = ticked
    editor.press_f5(PLAIN)
    response = get()
    stop = editor.wait_for_stop()
    assert (stop.reason, stop.file, stop.function) == ("exception", tasks, "add")
    assert (stop.locals["x"], stop.locals["y"]) == ("2", "2")
    stop.press_continue()
    while not response.done():
        with contextlib.suppress(queue.Empty):
            stop = editor.stops.get(timeout=0.2)
            assert stop.file != tasks
            stop.press_continue()
    stop_ends_it_all()


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


def test_attaching_stops_in_both_and_leaving_lets_the_app_run_on(
    editor, project, port, get, stops_in_both
):
    debug_port = free_port()
    listen = ["-m", "debugpy", "--listen", f"127.0.0.1:{debug_port}"]
    editor.run_in_terminal(
        {"args": [sys.executable, *listen, "run.py", "main:app"], "cwd": project, "env": {}}
    )
    wait_for(lambda: listens(port), editor.terminal.read_text)
    entry = editor.configuration(ATTACH)["connect"]
    assert entry == {"host": "127.0.0.1", "port": 5678}
    editor.press_f5(ATTACH, connect={**entry, "port": debug_port})
    _, response = stops_in_both()
    editor.press_stop()
    assert response.result().json() == get().result().json() == {"2+2": 4}
