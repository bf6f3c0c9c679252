"""The worker's bond with its broker.

What was revoked stays so, TLS is the app's, and a broker may go and come back.
"""

import shutil

import pytest
from command import RedisServer, make_certificate, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def redis(tmp_path_factory):
    if not shutil.which("redis-server"):
        pytest.skip("there is no redis-server on PATH")
    redis = RedisServer(tmp_path_factory.mktemp("redis"))
    yield redis
    redis.kill()


def test_worker_comes_back_by_itself_after_its_broker(start, guest, redis):
    server = start("run.py", "main:app", REDIS_URL=redis.url)
    assert server.get("/task/add", args=["2", "2"]) == 4
    again = server.log.count("Connected to")
    redis.kill()
    server.wait_for_log("Cannot connect to")
    redis.start()
    # Celery tries after 2, 4, 6 seconds, and so on.
    wait_for(lambda: server.log.count("Connected to") > again, lambda: server.log)
    # A result that is stored while Celery's backend subscribes again is lost to `.get()`.
    server.get("/send/add", args=["3", "3"])
    server.wait_for_log("succeeded", count=2)


REVOKE = """
@app.task
def note(text):
    with open("ran", "a") as file:
        file.write(text)

@app.task
def revoke_one():
    revoked = note.apply_async(["revoked "], countdown=4)
    app.control.revoke(revoked.id, reply=True, timeout=5, limit=1)
    note.apply_async(["kept "], countdown=5)
"""


def test_revoked_task_stays_so_over_a_reload_with_statedb(start, guest):
    with (guest / "tasks.py").open("a") as file:
        file.write(REVOKE)
    server = start("run.py", "main:app", "--reload", "--", "--statedb", "worker.state")
    server.get("/handler/revoke_one")
    (guest / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    ran = guest / "ran"
    wait_for(lambda: ran.exists() and ran.read_text(), lambda: server.log)
    assert ran.read_text() == "kept "


TLS = """
import ssl

app.conf.broker_use_ssl = {"ssl_cert_reqs": ssl.CERT_NONE}
app.conf.result_backend = redis_url.replace("redis:", "rediss:") + "?ssl_cert_reqs=none"
"""


@pytest.fixture
def redis_with_tls(tmp_path_factory):
    if not shutil.which("redis-server") or not shutil.which("openssl"):
        pytest.skip("there is no redis-server or no openssl on PATH")
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder / "key.pem", folder / "cert.pem")
    files = [
        "--tls-cert-file",
        "cert.pem",
        "--tls-key-file",
        "key.pem",
        "--tls-ca-cert-file",
        "cert.pem",
    ]
    redis = RedisServer(
        folder, "--port", "0", *files, "--tls-auth-clients", "no", port_option="--tls-port"
    )
    yield redis
    redis.kill()


@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_redis_with_tls_by_the_apps_settings(start, guest, redis_with_tls, args):
    with (guest / "tasks.py").open("a") as file:
        file.write(TLS)
    server = start("run.py", "main:app", *args, REDIS_URL=redis_with_tls.url)
    assert server.get("/task/add", args=["2", "2"]) == 4
    assert "ERROR" not in server.log
