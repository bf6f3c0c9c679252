"""The commands in the README's chapter Production serve the app without run.py, and lose no job."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import httpx2 as httpx
import psutil
import pytest
import redis
from celery import Celery
from command import ROOT, free_port, listens, port_of, wait_for
from test_brokers import rabbitmq

pytestmark = pytest.mark.slow

README = (ROOT / "README.md").read_text()
API, ONE, TWO, PING = re.search(r"^## Production\n.*?```sh\n(.*?)```", README, re.M | re.S)[
    1
].splitlines()
# How many each worker has.
PROCESSES = 4
SCRIPTS = (
    f"{Path(sys.executable).parent}{os.pathsep}{sysconfig.get_path('scripts', f'{os.name}_user')}"
)


@pytest.fixture
def type_line(project, start):
    """Start a line of the README with another Redis and a free port, where there is no run.py."""
    (project / "run.py").unlink()

    def type_line(line, redis_url, **env):
        setting, program, *args = shlex.split(line)
        assert setting == "REDIS_URL=redis://localhost:6379/0"
        return start(shutil.which(program, path=SCRIPTS), *args, REDIS_URL=redis_url, **env)

    return type_line


@pytest.fixture
def serve(type_line):
    """Start the API, and return an HTTP client on it."""
    clients = []

    def serve(redis_url, **env):
        server = type_line(API, redis_url, **env)
        wait_for(lambda: listens(server.port) or server.ended(), lambda: server.log)
        clients.append(httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30))
        return clients[-1]

    yield serve
    for client in clients:
        client.close()


@pytest.fixture
def change(project):
    """Replace text in the app's celeryconfig.py."""

    def change(old, new):
        path = project / "app" / "celeryconfig.py"
        assert path.read_text().count(old) == 1
        path.write_text(path.read_text().replace(old, new))

    return change


@pytest.fixture
def workers(type_line):
    """Start both workers."""

    def workers(redis_url, **env):
        both = [type_line(line, redis_url, **env) for line in (ONE, TWO)]
        for worker in both:
            worker.wait_for_log("ready.")
            assert "(prefork)" in worker.log
        return both

    return workers


def start_job(api, samples, seed=0):
    response = api.post("/jobs", json={"samples": samples, "seed": seed})
    assert response.status_code == 202
    return f"/jobs/{response.json()['id']}"


def wait_for_state(api, job, state):
    wait_for(lambda: api.get(job).json()["state"] == state, lambda: api.get(job).text, timeout=60)


def test_health_check_finds_both_workers(workers, type_line, redis_server):
    workers(redis_server)
    ping = type_line(PING, redis_server)
    assert ping.wait() == 0
    assert "2 nodes online." in ping.log


def test_500_jobs_are_done_though_a_worker_is_killed(change, serve, workers, redis_server):
    # By default, it takes an hour, and Celery looks every 100 s.
    seconds = (
        '"visibility_timeout": 8, "unacked_restore_interval": 1, "unacked_restore_throttle": 1'
    )
    change('{"socket_timeout"', f'{{{seconds}, "socket_timeout"')
    api, store = serve(redis_server), redis.Redis.from_url(redis_server)
    jobs = [start_job(api, 30_000, seed) for seed in range(500)]
    victim, other = workers(redis_server)
    wait_for(lambda: store.llen("celery") < 250, timeout=60)

    def all_processes_work():
        """Suspend the victim, and check that it isn't about to take a message.

        Redis would have forgotten that message.
        """
        victim.process.suspend()
        if store.hlen("unacked") == 2 * PROCESSES:
            return True
        victim.process.resume()

    wait_for(all_processes_work)
    victim.end()
    wait_for(
        lambda: not store.llen("celery") and not store.hlen("unacked"),
        lambda: other.log,
        timeout=60,
    )
    assert Counter(api.get(job).json()["state"] for job in jobs) == {"SUCCESS": 500}
    taken = Counter(re.findall(r"Task jobs.estimate_pi\[(.*?)\] received", victim.log + other.log))
    assert len(taken) == 500
    assert 1 <= list(taken.values()).count(2) <= PROCESSES
    assert max(taken.values()) == 2


def test_a_job_that_loses_its_process_is_tried_again(serve, type_line, redis_server):
    api, worker = serve(redis_server), type_line(ONE, redis_server)
    job = start_job(api, 3_000_000)
    wait_for(lambda: api.get(job).json()["done"])
    with Celery(broker=redis_server, set_as_current=False) as app:
        [[task]] = app.control.inspect(limit=1).active().values()
    psutil.Process(task["worker_pid"]).kill()
    wait_for_state(api, job, "SUCCESS")
    assert "WorkerLostError" in worker.log


def test_rabbitmq_hands_the_job_of_a_killed_worker_over_at_once(
    serve, workers, redis_server, tmp_path
):
    if not shutil.which("rabbitmq-server"):
        pytest.skip("there is no rabbitmq-server on PATH")
    with rabbitmq(tmp_path) as broker:
        try:
            env = {"CELERY_BROKER_URL": broker.urls[0]}
            api, (one, two) = serve(redis_server, **env), workers(redis_server, **env)
            job = start_job(api, 3_000_000)
            wait_for(lambda: api.get(job).json()["done"])
            (one if job.split("/")[-1] in one.log else two).end()
            wait_for_state(api, job, "SUCCESS")
        finally:
            broker.terminate()


@pytest.fixture
def sentinel(redis_server, tmp_path):
    """The URL of a Redis Sentinel that has another Redis take the place of `redis_server`."""
    master = port_of(redis_server)
    replica = free_port()
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(
        f"port {port}\nsentinel monitor mymaster 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds mymaster 500\nsentinel failover-timeout mymaster 2000\n"
    )
    quiet = {"cwd": tmp_path, "stdout": subprocess.DEVNULL}
    follow = ["--port", str(replica), "--save", "", "--replicaof", f"127.0.0.1 {master}"]
    with subprocess.Popen(
        ["redis-server", *follow, "--repl-diskless-sync-delay", "0"], **quiet
    ) as follower:
        wait_for(
            lambda: (
                redis.Redis.from_url(redis_server)
                .info("replication")
                .get("slave0", {})
                .get("state")
                == "online"
            )
        )
        with subprocess.Popen(["redis-server", config, "--sentinel"], **quiet) as watcher:
            wait_for(lambda: listens(port))
            wait_for(lambda: redis.Redis(port=port).sentinel_slaves("mymaster"))
            yield f"sentinel://localhost:{port}/0"
            watcher.kill()
        follower.kill()


def test_another_redis_takes_over_by_sentinel(change, serve, type_line, redis_server, sentinel):
    change('{"socket_timeout"', '{"master_name": "mymaster", "socket_timeout"')
    change('{"retry_policy"', '{"master_name": "mymaster", "retry_policy"')
    api = serve(sentinel)
    worker = type_line(ONE, sentinel)
    before = start_job(api, 1)
    wait_for_state(api, before, "SUCCESS")
    redis.Redis.from_url(redis_server).shutdown(nosave=True)
    wait_for(lambda: api.post("/jobs", json={"samples": 1}).status_code == 202, timeout=60)
    after = start_job(api, 1)
    wait_for(lambda: api.get(after).json()["state"] == "SUCCESS", lambda: worker.log, timeout=60)
    assert api.get(before).json()["state"] == "SUCCESS"
