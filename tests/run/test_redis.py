"""run.py starts a Redis if the broker's address is a free port of this machine.

If it can't use the broker, it reports why.
"""

import contextlib
import re
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import redis
from command import free_port, is_loopback, listening_addresses, listens, port_of
from uvicorn.main import STARTUP_FAILURE

NO_REDIS_ON_PATH = {"PATH": ""}


@pytest.fixture
def project(probe):
    return probe


@pytest.fixture
def environment(request, tmp_path):
    """Set PATH to a folder with one Redis server, or to none."""
    if request.param is None:
        return NO_REDIS_ON_PATH
    program = shutil.which("redis-server") or pytest.skip("there is no redis-server on PATH")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sh").symlink_to(shutil.which("sh"))
    (tmp_path / "bin" / request.param).symlink_to(program)
    return {"PATH": str(tmp_path / "bin")}


each_server = pytest.mark.parametrize(
    ("environment", "name"),
    [("redis-server", "redis-server"), ("valkey-server", "valkey-server"), (None, "valkey-server")],
    indirect=["environment"],
)


@each_server
def test_redis_is_started_at_the_address_and_ends_with_run_py(start, project, environment, name):
    server = start("run.py", "main:app", "--reload", **environment)
    assert server.get() == {"2+2": 4}
    message = f"Starting {name} on port {server.redis_port}"
    assert server.log.startswith(f"INFO:     {message}\n")
    addresses = listening_addresses(server.redis_port)
    assert addresses
    assert all(map(is_loopback, addresses))
    server.process.kill()
    server.wait_until_nothing_is_left()
    sources = {"main.py", "tasks.py", "__pycache__", "run.py"}
    assert {path.name for path in project.iterdir()} <= {*sources, "bin", server.output.name}


@each_server
def test_queued_tasks_survive_a_reload(start, probe, environment, name):
    server = start("run.py", "main:app", "--reload", "--", "-c", "1", **environment)
    ids = server.get("/send/sleep", args="0.2", count=15)
    (probe / "tasks.py").touch()
    server.wait_for_log("succeeded", count=15)
    assert {server.get(f"/state/{task_id}") for task_id in ids} == {"SUCCESS"}
    assert server.log.count("Application startup complete.") == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ":s%65cret@localhost", "[::1]"])
def test_redis_is_started_at_any_address_of_this_machine(start, host):
    if host == "[::1]" and not has_ipv6_loopback():
        pytest.skip("this machine has no ::1")
    url = f"redis://{host}:{free_port()}/3"
    server = start("run.py", "main:app", REDIS_URL=url)
    assert server.get() == {"2+2": 4}
    assert redis.Redis.from_url(url).ping()
    assert "secret" not in server.log
    if "@" in host:
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(url.replace("s%65cret", "wrong")).ping()


def has_ipv6_loopback():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as sock:
        sock.bind(("::1", 0))
        return True


def test_redis_that_runs_is_used(start, redis_server):
    server = start("run.py", "main:app", REDIS_URL=redis_server)
    assert server.get() == {"2+2": 4}
    assert "Starting" not in server.log
    assert redis.Redis.from_url(redis_server).dbsize()


def test_celery_broker_url_comes_before_redis_url(start, redis_server):
    env = {"CELERY_BROKER_URL": redis_server, "CELERY_RESULT_BACKEND": redis_server}
    server = start("run.py", "main:app", REDIS_URL="redis://nowhere.invalid/0", **env)
    assert server.get() == {"2+2": 4}


def test_env_file_is_read(start, project):
    port = free_port()
    (project / "dev.env").write_text(f"REDIS_URL=redis://localhost:{port}/0\n")
    server = start("run.py", "main:app", "--env-file", "dev.env", REDIS_URL=None)
    assert server.get() == {"2+2": 4}
    assert listens(port)


def test_localhost_6379_is_the_default(start, project):
    if listens(6379):
        pytest.skip("something listens on port 6379 of this machine")
    server = start("run.py", "main:app", REDIS_URL=None)
    assert server.get() == {"2+2": 4}
    assert "Starting redis-server on port 6379" in server.log


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (
            "redis://redis.invalid:6379/0",
            "Name or service not known|nodename nor servname|resolution",
        ),
        ("redis://localhost:{http}/0", "Protocol Error|Connection closed"),
        ("redis://:wrong@localhost:{redis}/0", "invalid username-password pair"),
    ],
    ids=[
        "another machine that does not answer",
        "an HTTP server",
        "a wrong password",
    ],
)
def test_broker_that_cannot_be_used_is_reported_in_one_line(start, ports, url, problem):
    server = start("run.py", "main:app", REDIS_URL=url.format(**ports))
    assert server.wait() == STARTUP_FAILURE
    [line] = [line for line in server.log.splitlines() if line.startswith("ERROR:")]
    assert line.startswith("ERROR:    The Celery worker could not start: no connection to redis://")
    assert re.search(problem.format(**ports), line)
    assert " Start it" in line
    assert line.endswith(" or set CELERY_BROKER_URL.")
    assert "wrong" not in line
    assert server.log.endswith(f"{line}\n")


@pytest.fixture
def ports(redis_server):
    """Return the ports of an HTTP server, and of a Redis with a password."""
    port = port_of(redis_server)
    redis.Redis(port=port).config_set("requirepass", "right")
    web = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with web:
        yield {"http": web.server_port, "redis": port}
        web.shutdown()


def test_broker_that_the_app_really_uses_is_tried_too(start, project):
    set_broker(project, "redis://redis.invalid:6379/0")
    server = start("run.py", "main:app")
    assert server.wait() == STARTUP_FAILURE
    assert re.search(
        "^ERROR: .* no connection to redis://.*redis.invalid:6379/0 ", server.log, re.M
    )
    assert "Traceback" not in server.log


def test_no_redis_is_started_if_none_is_used(start, project):
    env = {"CELERY_BROKER_URL": "memory://", "CELERY_RESULT_BACKEND": "cache+memory://"}
    server = start("run.py", "main:app", **env)
    assert server.get() == {"2+2": 4}
    assert "Starting" not in server.log


def test_broker_of_another_kind_is_tried_too(start, project):
    set_broker(project, f"amqp://localhost:{free_port()}//")
    server = start("run.py", "main:app")
    assert server.wait() == STARTUP_FAILURE
    assert re.search("^ERROR: .* no connection to amqp://.*refused", server.log, re.M)
    assert "Traceback" not in server.log


def set_broker(project, url):
    tasks = project / "tasks.py"
    urls = f"broker={url!r}, backend={url!r}"
    tasks.write_text(tasks.read_text().replace("broker=redis_url, backend=redis_url", urls))
