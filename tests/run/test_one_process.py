"""Handlers and tasks run in one process, as they do in two in production."""

import pytest
from command import MODES


@pytest.fixture(params=MODES.values(), ids=MODES)
def server(request, start, probe):
    return start("run.py", "main:app", *request.param)


def test_handler_and_task_have_the_same_process_id(server):
    assert server.get("/run/where")["pid"] == server.get("/process")["pid"]


def test_server_takes_requests_only_once_the_worker_is_ready(server):
    assert server.get() == {"2+2": 4}
    assert server.log.index(" ready.") < server.log.index("Waiting for application startup.")


@pytest.fixture
def plain(start, probe):
    return start("run.py", "main:app")


def test_waiting_for_a_result_is_allowed_in_a_handler_and_forbidden_in_a_task(plain):
    assert plain.get("/run/add", args=["1", "2"]) == "12"
    assert "Never call result.get() within a task" in plain.get("/error/wait_for_add")


def test_allow_join_result_allows_waiting_in_a_task(plain):
    assert plain.get("/run/wait_for_add_anyway") == 3


def test_default_app_is_the_one_that_runs_in_tasks_and_handlers(plain):
    assert plain.get("/run/where")["app"] == "probe"
    [task_id] = plain.get("/send/add", args=["1", "2"])
    plain.wait_for_log(task_id)
    assert plain.get(f"/state/{task_id}") == "SUCCESS"


def test_stdout_is_left_as_it_was(plain):
    assert plain.get("/process")["stdout"] == "TextIOWrapper"


@pytest.mark.parametrize(
    ("args", "env", "threads"),
    [
        ([], {}, None),
        (["--", "-c", "3"], {}, 3),
        (["--", "--concurrency=2"], {"PROBE_CONCURRENCY": "6"}, 2),
        ([], {"PROBE_CONCURRENCY": "6"}, 6),
    ],
    ids=["at least 4", "-c", "-c over the setting", "the setting"],
)
def test_worker_has_as_many_threads_as_the_option_or_the_setting_says(
    start, probe, args, env, threads
):
    server = start("run.py", "main:app", *args, **env)
    actual = server.inspect("stats")["pool"]["max-concurrency"]
    assert actual == threads or (threads is None and actual >= 4)


def test_tasks_run_beside_each_other(plain):
    # Each waits for three others.
    ids = plain.get("/send/meet", count=4)
    plain.wait_for_log("succeeded", count=4)
    assert {plain.get(f"/state/{task_id}") for task_id in ids} == {"SUCCESS"}
