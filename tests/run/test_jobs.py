"""A job is accepted at once, tells its progress, its result or error, and can be cancelled: in threads and prefork."""

import contextlib
import json
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random

import httpx2 as httpx
import pytest
import redis
from celery import current_task
from command import free_port, listens, wait_for

LONG = {"samples": 10**9}


@pytest.fixture(params=["threads", "prefork"])
def api(request):
    """An HTTP client on the app, with a worker of either kind."""
    return request.getfixturevalue("client" if request.param == "threads" else "production")


@pytest.fixture
def production(serve, start, redis_server):
    worker = start("-m", "celery", "--workdir", "app", "-A", "tasks", "worker", REDIS_URL=redis_server)
    worker.wait_for_log("concurrency")
    assert "(prefork)" in worker.log
    return serve(redis_server)


@pytest.fixture
def serve(start):
    """Start uvicorn alone, and return an HTTP client on it."""
    clients = []

    def serve(redis_url, *command):
        server = start(*(command or ("-m", "uvicorn", "--app-dir", "app", "main:app")), REDIS_URL=redis_url)
        wait_for(lambda: listens(server.port) or server.ended(), lambda: server.log)
        clients.append(httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30))
        clients[-1].server = server
        return clients[-1]

    yield serve
    for client in clients:
        client.close()


def start_job(api, **request):
    response = api.post("/jobs", json=request)
    assert response.status_code == 202
    return response.headers["Location"]


def wait_for_state(api, job, *states):
    wait_for(lambda: api.get(job).json()["state"] in states, lambda: api.get(job).text)
    return api.get(job).json()


def events(api, job):
    response = api.get(f"{job}/events")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line.startswith("data: ")]


def test_a_job_tells_its_result_which_its_seed_determines(api):
    jobs = [start_job(api, samples=300_001, seed=seed) for seed in (1, 1, 2)]
    first, same, other = [wait_for_state(api, job, "SUCCESS") for job in jobs]
    assert first["done"] == first["total"] == 300_001
    assert first["error"] is None
    assert first["result"] == same["result"] == 3.139336202212659
    assert first["result"] != other["result"] == pytest.approx(3.14, abs=0.02)


def test_events_tell_the_progress_until_the_job_ends(api):
    job = start_job(api, samples=5_000_000)
    told = events(api, job)
    done = [event["done"] for event in told]
    assert len(set(done)) > 3
    assert done == sorted(done)
    assert {event["total"] for event in told} == {5_000_000}
    assert told[-1]["state"] == "SUCCESS"
    assert told[-1] == api.get(job).json()
    assert events(api, job) == told[-1:]


def test_a_running_job_ends_when_it_is_cancelled(api):
    job = start_job(api, **LONG)
    wait_for(lambda: api.get(job).json()["done"])
    response = api.delete(job)
    assert response.status_code == 202
    assert response.json()["state"] == "STARTED"
    wait_for(lambda: api.get(job).json()["state"] == "REVOKED", timeout=5)
    assert wait_for_state(api, start_job(api, samples=1), "SUCCESS")["result"] in (0, 4)
    assert api.delete(job).json() == api.get(job).json() == events(api, job)[0]
    assert api.get(job).json() | {"id": None} == dict.fromkeys(api.get(job).json()) | {"state": "REVOKED"}


def test_a_job_that_is_cancelled_at_any_moment_ends(api):
    jobs = []
    for moment in range(20):
        jobs.append(start_job(api, samples=600_000 if moment % 2 else 60_000))
        deadline = time.monotonic() + moment / 500
        wait_for(lambda deadline=deadline: time.monotonic() >= deadline)
        assert api.delete(jobs[-1]).status_code in (202, 409)
    states = [wait_for_state(api, job, "SUCCESS", "REVOKED")["state"] for job in jobs]
    assert "REVOKED" in states


def test_a_job_that_is_cancelled_at_its_last_sample_is_no_success(client, monkeypatch):
    class Cancelling(Random):
        def random(self):
            client.delete(f"/jobs/{current_task.request.id}")
            return 0.5

    monkeypatch.setattr("jobs.Random", Cancelling)
    wait_for_state(client, start_job(client, samples=1), "REVOKED")


def test_a_job_that_is_cancelled_before_it_begins_never_runs(serve, start, redis_server):
    api = serve(redis_server)
    job = start_job(api, **LONG)
    assert api.delete(job).json()["state"] == "REVOKED"
    worker = start("-m", "celery", "--workdir", "app", "-A", "tasks", "worker", "-l", "INFO", REDIS_URL=redis_server)
    worker.wait_for_log("ignored")
    assert api.get(job).json()["state"] == "REVOKED"


def test_a_finished_job_cannot_be_cancelled(client):
    job = start_job(client, samples=1)
    wait_for_state(client, job, "SUCCESS")
    response = client.delete(job)
    assert response.status_code == 409
    assert response.json() == {"detail": "The job has already ended: SUCCESS"}


def test_a_job_that_fails_tells_the_exception(client, monkeypatch):
    monkeypatch.setattr("jobs.Random", None)  # no valid request makes it fail
    job = wait_for_state(client, start_job(client), "FAILURE")
    assert job["error"] == """TypeError("'NoneType' object is not callable")"""
    assert job["result"] is None


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "/events"), ("DELETE", "")])
def test_an_unknown_job_is_not_found(client, method, path):
    response = client.request(method, f"/jobs/00000000-0000-0000-0000-000000000000{path}")
    assert response.status_code == 404
    assert response.json() == {"detail": "There is no job 00000000-0000-0000-0000-000000000000"}


def test_a_task_that_is_no_job_is_not_found(client):
    from tasks import add

    task = add.delay(2, 2)
    task.get(timeout=10)
    assert client.get(f"/jobs/{task.id}").status_code == 404


@pytest.mark.parametrize(
    "request_body",
    [
        {"samples": 0},
        {"samples": 10**9 + 1},
        {"samples": 1.5},
        {"samples": None},
        {"seed": -1},
        {"seed": 2**53},
        {"sample": 1},
        [],
    ],
    ids=str,
)
def test_a_request_out_of_bounds_is_refused(client, request_body):
    response = client.post("/jobs", json=request_body)
    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][0] == "body"


def test_every_answer_is_documented(client):
    paths = client.get("/openapi.json").json()["paths"]
    answers = {(method, path): set(answer["responses"]) for path in paths for method, answer in paths[path].items()}
    assert answers == {
        ("get", "/"): {"200"},
        ("post", "/jobs"): {"202", "400", "422", "503"},
        ("get", "/jobs/{job_id}"): {"200", "404", "422", "503"},
        ("get", "/jobs/{job_id}/events"): {"200", "404", "422", "503"},
        ("delete", "/jobs/{job_id}"): {"202", "404", "409", "422", "503"},
    }
    responses = [answer["responses"] for methods in paths.values() for answer in methods.values()]
    problems = [answer[code] for answer in responses for code in answer if code > "400"]
    assert {media for problem in problems for media in problem["content"]} == {"application/json"}


@pytest.mark.parametrize("listener", ["nothing", "silence"])
def test_redis_that_does_not_answer_is_told_in_seconds(serve, listener):
    job = "/jobs/00000000-0000-0000-0000-000000000000"
    requests = [("POST", "/jobs"), ("GET", job), ("GET", f"{job}/events"), ("DELETE", job)]
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as pool:
        api = serve(f"redis://127.0.0.1:{free_port() if listener == 'nothing' else silent.getsockname()[1]}/0")
        for response in pool.map(lambda request: api.request(*request, json={}, timeout=60), requests):
            assert response.status_code == 503
            assert response.json() == {"detail": "Redis can't be used"}


def test_a_job_and_its_watcher_outlive_a_restart_of_redis(serve, redis_server):
    api = serve(redis_server, "run.py", "main:app")
    job = start_job(api, **LONG)
    wait_for(lambda: api.get(job).json()["done"])
    port = redis_server.split(":")[2].split("/")[0]
    with api.stream("GET", f"{job}/events"):
        redis.Redis.from_url(redis_server).shutdown(nosave=True)
        wait_for(lambda: api.get(job).status_code == 503)
        deadline = time.monotonic() + 1  # by then both have met it several times
        wait_for(lambda: time.monotonic() > deadline)
        with subprocess.Popen(["redis-server", "--port", port, "--save", ""], stdout=subprocess.DEVNULL) as server:
            try:
                wait_for(lambda: api.get(job).json().get("done"), lambda: api.server.log)
                assert api.delete(job).status_code == 202
                wait_for_state(api, job, "REVOKED")
            finally:
                server.kill()
    assert "Exception in ASGI application" not in api.server.log


@pytest.fixture
def watch():
    """Watch a job that no worker takes, and return the response and its lines after the first."""
    kept = []  # what is let go closes its connection
    with contextlib.ExitStack() as stack:

        def watch(api):
            response = stack.enter_context(api.stream("GET", f"{start_job(api)}/events"))
            kept.append(lines := response.iter_lines())
            assert "PENDING" in next(lines)
            return response, lines

        yield watch


def test_a_watcher_that_leaves_is_not_served_any_more(serve, watch, redis_server):
    api = serve(redis_server)
    stats = redis.Redis.from_url(redis_server)

    def reads():
        return stats.info("commandstats")["cmdstat_get"]["calls"]

    response, _ = watch(api)
    before = reads()
    wait_for(lambda: reads() >= before + 3)
    response.close()

    def is_quiet():
        before, deadline = reads(), time.monotonic() + 1
        wait_for(lambda: time.monotonic() > deadline)
        return reads() == before

    wait_for(is_quiet)


def test_events_of_a_job_that_is_forgotten_end(serve, watch, redis_server):
    api = serve(redis_server)
    _, lines = watch(api)
    redis.Redis.from_url(redis_server).flushall()
    assert not any(lines)
    api.server.press_ctrl_c()
    api.server.wait()
    assert "Exception in ASGI application" not in api.server.log


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "uvicorn", "--app-dir", "app", "main:app"],
        ["-m", "uvicorn", "--app-dir", "app", "--workers", "2", "main:app"],
        ["run.py", "main:app", "--", "-Q", "other"],
        ["run.py", "main:app", "--reload", "--", "-Q", "other"],
    ],
    ids=["uvicorn", "uvicorn --workers", "run.py", "run.py --reload"],
)
def test_a_server_with_a_watcher_ends(serve, watch, redis_server, command):
    api = serve(redis_server, *command)
    watch(api)
    api.server.press_ctrl_c()
    api.server.wait()
    wait_for(lambda: not api.server.leftovers())


def test_a_reload_does_not_wait_for_a_watcher(serve, watch, redis_server, project):
    api = serve(redis_server, "run.py", "main:app", "--reload", "--", "-Q", "other")
    watch(api)
    (project / "app" / "tasks.py").touch()
    api.server.wait_for_log("Application startup complete.", count=2)


def test_without_its_files_and_what_names_them_the_app_is_as_before(start, project):
    app = project / "app"
    (app / "jobs.py").unlink()
    (app / "jobs.html").unlink()
    main, tasks = (app / "main.py").read_text(), (app / "tasks.py").read_text()
    (app / "main.py").write_text("".join(line for line in main.splitlines(True) if "router" not in line))
    (app / "tasks.py").write_text(tasks.replace(', include=["jobs"]', ""))
    assert "jobs" not in (app / "main.py").read_text() + (app / "tasks.py").read_text()
    assert start("run.py", "main:app").get() == {"2+2": 4}
