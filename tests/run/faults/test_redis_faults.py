"""While Redis fails, requests get an error in seconds. After that, the worker goes on by itself."""

import shutil
import time

import httpx2 as httpx
import psutil
import pytest
import redis
from celery import Celery
from command import RedisServer, wait_for
from redis.backoff import NoBackoff
from redis.retry import Retry

pytestmark = pytest.mark.slow


@pytest.fixture
def server_of_redis(tmp_path_factory):
    """A redis-server that keeps what it holds, with a client of it."""
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server on PATH")
    keep = ["--appendonly", "yes", "--appendfsync", "always"]
    server = RedisServer(tmp_path_factory.mktemp("redis"), *keep)
    server.client = redis.Redis(port=server.port, retry=Retry(NoBackoff(), 0))
    yield server
    server.kill()


@pytest.fixture
def server(start, faults, server_of_redis):
    server = start("run.py", "main:app", "--", "-c", "2", REDIS_URL=server_of_redis.url)
    assert server.get() == {"2+2": 4}
    return server


@pytest.fixture
def send(server_of_redis):
    """Send tasks that note each of their runs, and return their ids."""
    with Celery(
        broker=server_of_redis.url, backend=server_of_redis.url, set_as_current=False
    ) as app:
        yield lambda count: [app.send_task("tasks.count", (0.05,)).id for _ in range(count)]


def status(server):
    return httpx.get(f"http://127.0.0.1:{server.port}/", timeout=60).status_code


@pytest.fixture
def wait_until_done(server_of_redis, faults):
    """Wait until all tasks have run, except `losses`, and all but `lost_results` have a result."""

    def wait_until_done(sent, losses=0, lost_results=0):
        def missing():
            runs = set((faults / "runs").read_text().splitlines())
            results = server_of_redis.client.mget(f"celery-task-meta-{task}" for task in sent)
            return len(set(sent) - runs), results.count(None)

        def are_done():
            runs, results = missing()
            return runs <= losses and results <= losses + lost_results

        wait_for(
            are_done,
            lambda: f"runs and results that are missing: {missing()} of {len(sent)}",
            timeout=60,
        )

    return wait_until_done


def test_redis_may_be_killed_and_started_again_ten_times(
    server, server_of_redis, send, wait_until_done
):
    sent = []
    for _ in range(10):
        sent += send(10)
        server_of_redis.kill()
        assert status(server) == 500
        server_of_redis.start()
        wait_for(lambda: status(server) == 200, timeout=15)
    # One that begins is acknowledged already, and one may be on its way from Redis. It may be lost.
    wait_until_done(sent, losses=10)


def test_redis_may_be_silent_for_half_a_minute(server, server_of_redis, send, wait_until_done):
    sent = send(50)
    silence = psutil.Process(server_of_redis.process.pid)
    silence.suspend()
    end = time.monotonic() + 30
    while time.monotonic() < end:
        assert status(server) == 500
    silence.resume()
    wait_for(lambda: status(server) == 200, timeout=15)
    # A result is tried ten times, for 3 s each. A message on its way from Redis may be lost.
    wait_until_done(sent, losses=1, lost_results=2)


def test_redis_may_drop_connections_twenty_times(server, server_of_redis, send, wait_until_done):
    sent = []
    for _ in range(20):
        sent += send(10)
        server_of_redis.client.client_kill_filter(_type="normal", skipme=True)
        server_of_redis.client.client_kill_filter(_type="pubsub", skipme=True)
        wait_for(lambda: status(server) == 200, timeout=15)
    # One for each, as above.
    wait_until_done(sent, losses=20)


def out_of_memory(server):
    server.client.config_set("maxmemory", 1)
    return lambda: server.client.config_set("maxmemory", 0)


def wrong_password(server):
    server.client.config_set("requirepass", "changed")
    server.client.auth("changed")
    server.client.client_kill_filter(_type="normal", skipme=True)
    return lambda: server.client.config_set("requirepass", "")


def full_disk(server):
    """Let it fail to save, as on a full disk: then it refuses to write."""
    server.client.config_set("save", "3600 1")
    (server.folder / "dump.rdb").mkdir()
    server.client.bgsave()
    wait_for(lambda: server.client.info("persistence")["rdb_last_bgsave_status"] == "err")
    return lambda: server.client.config_set("stop-writes-on-bgsave-error", "no")


def loading(server):
    server.client.eval("for i = 1, 40000 do redis.call('set', 'key-' .. i, i) end", 0)
    server.kill()
    # The delay is in microseconds.
    server.start("--key-load-delay", "100")
    with pytest.raises(redis.BusyLoadingError):
        server.client.ping()
    return lambda: None


@pytest.mark.parametrize("fault", [out_of_memory, wrong_password, full_disk, loading])
def test_fault_is_an_error_in_seconds_and_passes(server, server_of_redis, fault):
    repair = fault(server_of_redis)
    assert status(server) == 500
    repair()
    wait_for(lambda: status(server) == 200, lambda: server.log, timeout=30)
