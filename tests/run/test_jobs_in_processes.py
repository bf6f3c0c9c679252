"""Jobs in a prefork worker, without Redis and at a breakpoint, and an app without jobs."""

import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
import redis
from command import ROOT, free_port, listens, port_of, wait_for
from dap import Editor

pytestmark = pytest.mark.slow

UVICORN = ["-m", "uvicorn", "--app-dir", "app", "main:app"]
WORKER = ["-m", "celery", "--workdir", "app", "-A", "tasks", "worker", "-l", "INFO"]
LONG = {"samples": 10**9}


@pytest.fixture
def client_of():
    """Return an HTTP client on a port of this machine, once something listens there."""
    clients = []

    def client_of(port):
        wait_for(lambda: listens(port))
        clients.append(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))
        return clients[-1]

    yield client_of
    for client in clients:
        client.close()


def start_job(api, **request):
    response = api.post("/jobs", json=request)
    assert response.status_code == 202
    return f"/jobs/{response.json()['id']}"


def wait_for_state(api, job, *states):
    wait_for(lambda: api.get(job).json().get("state") in states, lambda: api.get(job).text)
    return api.get(job).json()["state"]


def test_a_prefork_worker_ends_jobs_that_are_cancelled_at_any_moment(
    start, client_of, redis_server
):
    api = client_of(start(*UVICORN, REDIS_URL=redis_server).port)
    waiting = start_job(api, **LONG)
    assert api.delete(waiting).json()["state"] == "PENDING"
    worker = start(*WORKER, REDIS_URL=redis_server)
    assert wait_for_state(api, waiting, "REVOKED")
    assert "(prefork)" in worker.log
    running = start_job(api, **LONG)
    wait_for(lambda: api.get(running).json()["done"])
    assert api.delete(running).json()["state"] == "STARTED"
    assert wait_for_state(api, running, "REVOKED")
    jobs = []
    for moment in range(20):
        jobs.append(start_job(api, samples=600_000))
        deadline = time.monotonic() + moment / 200
        wait_for(lambda deadline=deadline: time.monotonic() >= deadline)
        assert api.delete(jobs[-1]).status_code in (202, 409)
    assert "REVOKED" in [wait_for_state(api, job, "SUCCESS", "REVOKED") for job in jobs]


@pytest.mark.parametrize("listener", ["nothing", "silence"])
def test_redis_that_does_not_answer_is_reported_in_seconds(start, client_of, listener):
    requests = [("POST", "/jobs"), ("GET", "/jobs/any"), ("DELETE", "/jobs/any")]
    with socket.create_server(("127.0.0.1", 0)) as silent, ThreadPoolExecutor() as pool:
        port = free_port() if listener == "nothing" else silent.getsockname()[1]
        api = client_of(start(*UVICORN, REDIS_URL=f"redis://127.0.0.1:{port}/0").port)
        for response in pool.map(lambda request: api.request(*request, json={}), requests):
            assert response.status_code == 503
            assert response.json() == {"detail": "Redis is unavailable"}


def test_a_job_outlives_a_restart_of_redis(start, client_of, redis_server):
    api = client_of(start("run.py", "main:app", REDIS_URL=redis_server).port)
    job = start_job(api, **LONG)
    wait_for(lambda: api.get(job).json()["done"])
    redis.Redis.from_url(redis_server).shutdown(nosave=True)
    wait_for(lambda: api.get(job).status_code == 503)
    # By then, the task has met it several times.
    deadline = time.monotonic() + 1
    wait_for(lambda: time.monotonic() > deadline)
    port = str(port_of(redis_server))
    with subprocess.Popen(
        ["redis-server", "--port", port, "--save", ""], stdout=subprocess.DEVNULL
    ) as server:
        try:
            wait_for(lambda: api.get(job).json().get("done"), lambda: api.get(job).text)
            assert api.delete(job).status_code == 202
            assert wait_for_state(api, job, "REVOKED")
        finally:
            server.kill()


def test_a_job_can_be_cancelled_while_it_stands_at_a_breakpoint(project, libs, client_of):
    shutil.copytree(ROOT / ".vscode", project / ".vscode")
    port = free_port()
    env = {"UVICORN_PORT": str(port), "REDIS_URL": f"redis://localhost:{free_port()}/0"}
    with Editor(project, libs, **env) as editor:
        editor.set_breakpoint(project / "app" / "jobs.py", "self.update_state(")
        editor.press_f5("App and worker")
        api = client_of(port)
        job = start_job(api, **LONG)
        task = editor.wait_for_stop()
        assert task.function == "estimate_pi"
        assert api.delete(job).status_code == 202
        task.press_continue()
        assert wait_for_state(api, job, "REVOKED")
        editor.press_stop()
        wait_for(lambda: not editor.running(), editor.terminal.read_text)


def test_without_the_sample_the_app_is_as_before(start, project):
    app = project / "app"
    for file in app.glob("jobs.*"):
        file.unlink()
    lines = (app / "main.py").read_text().splitlines(True)
    kept = [line for line in lines if "router" not in line]
    assert len(kept) == len(lines) - 2
    (app / "main.py").write_text("".join(kept))
    settings = (app / "celeryconfig.py").read_text()
    (app / "celeryconfig.py").write_text(settings.replace(', "jobs"', ""))
    assert "jobs" not in "".join(file.read_text() for file in app.glob("*.py"))
    assert start("run.py", "main:app").get() == {"2+2": 4}
