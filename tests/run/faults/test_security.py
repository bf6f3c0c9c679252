"""No one is let in, and no secret is told."""

import pytest
from command import free_port

pytestmark = pytest.mark.slow

SECRET = "s3cret"


@pytest.mark.parametrize("path", ["redis-server", "fakeredis"])
def test_everything_listens_on_loopback_alone(start, faults, path):
    server = start(
        "run.py", "main:app", "--reload", **({} if path == "redis-server" else {"PATH": ""})
    )
    server.get()
    listening = [
        c.laddr.ip for p in server.tree() for c in p.net_connections() if c.status == "LISTEN"
    ]
    assert len(listening) >= 2
    assert {ip for ip in listening if not ip.startswith(("127.", "::1", "::ffff:127."))} == set()


@pytest.mark.parametrize(
    "url", ["redis://:{}@localhost:{}/0", "amqp://user:{}@localhost:{}//"], ids=["works", "fails"]
)
@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_secret_of_a_url_is_in_the_log(start, faults, url, level):
    url = url.format(SECRET, free_port())
    env = {"CELERY_BROKER_URL": url, "CELERY_RESULT_BACKEND": "cache+memory://"}
    server = start("run.py", "main:app", "--log-level", level, "--", "-l", level, **env)
    if url.startswith("redis"):
        server.get()
        server.press_ctrl_c()
    server.wait()
    assert "**@localhost" in server.log
    assert SECRET not in server.log
