"""Any broker that Celery has: run.py steps in for Redis on this machine alone."""

import os
import shutil
import subprocess

import pytest
from command import MODES, free_port, listens, make_certificate, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def broker(request, tmp_path):
    """The URLs of a broker and of a result backend, both running, by the broker's kind."""
    kind = request.param
    if kind in ("memory", "filesystem"):
        yield {
            "memory": ("memory://", "cache+memory://"),
            "filesystem": ("filesystem://", f"file://{tmp_path}"),
        }[kind]
        return
    program = "rabbitmq-server" if kind == "amqp" else "redis-server"
    if not shutil.which(program):
        pytest.skip(f"there is no {program} on PATH")
    with {"amqp": rabbitmq, "rediss": redis_with_tls, "redis+socket": redis_at_a_socket}[kind](
        tmp_path
    ) as server:
        try:
            yield server.urls
        finally:
            server.terminate()


def redis_with_tls(folder):
    port, key, cert = free_port(), folder / "key.pem", folder / "cert.pem"
    make_certificate(key, cert)
    tls = [
        "--tls-cert-file",
        cert,
        "--tls-key-file",
        key,
        "--tls-ca-cert-file",
        cert,
        "--tls-auth-clients",
        "no",
    ]
    url = f"rediss://localhost:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={cert}"
    return Server(
        ["redis-server", "--save", "", "--port", "0", "--tls-port", str(port), *tls], port, url
    )


def redis_at_a_socket(folder):
    path = folder / "redis.sock"
    return Server(
        ["redis-server", "--save", "", "--port", "0", "--unixsocket", path],
        path,
        f"redis+socket://{path}",
    )


def rabbitmq(folder):
    """Start a node of its own, with a name service of its own, which would stay otherwise."""
    port, names_port = free_port(), free_port()
    node = {
        "NODENAME": f"test{port}@localhost",
        "NODE_IP_ADDRESS": "127.0.0.1",
        "NODE_PORT": port,
        "DIST_PORT": free_port(),
        "MNESIA_BASE": folder,
        "LOG_BASE": folder,
        "PID_FILE": folder / "pid",
        "ENABLED_PLUGINS_FILE": folder / "plugins",
        "LOGS": "-",
    }
    env = {f"RABBITMQ_{name}": str(value) for name, value in node.items()}
    env |= {"ERL_EPMD_PORT": str(names_port), "ERL_EPMD_ADDRESS": "127.0.0.1", "HOME": str(folder)}
    # Debian's command of that name changes to another user, and the server itself doesn't.
    program = shutil.which("rabbitmq-server", path="/usr/lib/rabbitmq/bin") or "rabbitmq-server"
    names = Server(["epmd", "-port", str(names_port), "-address", "127.0.0.1"], names_port, "")
    return Server([program], port, f"amqp://localhost:{port}//", "rpc://", env=env, needs=names)


class Server(subprocess.Popen):
    """A broker that runs until `terminate`. `urls` are those of the broker and the backend."""

    def __init__(self, command, address, url, backend_url=None, env=None, needs=None):
        self.urls = (url, backend_url or url)
        self.needs = needs
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        super().__init__(command, env={**os.environ, **(env or {})}, **quiet)
        wait_for(
            lambda: listens(address) if isinstance(address, int) else address.exists(), timeout=90
        )

    def terminate(self):
        super().terminate()
        self.wait(timeout=60)
        if self.needs:
            self.needs.terminate()


@pytest.mark.parametrize(
    ("broker", "mode"),
    [
        *(
            ("memory", "plain"),
            ("filesystem", "reload"),
            ("redis+socket", "reload"),
            ("rediss", "plain"),
        ),
        *(("amqp", mode) for mode in MODES),
    ],
    indirect=["broker"],
)
def test_tasks_run_through_it_and_one_that_still_runs_does_not_hold_up_the_end(
    start, probe, broker, mode
):
    tasks = probe / "tasks.py"
    folders = {
        "data_folder_in": str(probe),
        "data_folder_out": str(probe),
        "control_folder": str(probe),
    }
    if broker[0] == "filesystem://":
        tasks.write_text(tasks.read_text() + f"\napp.conf.broker_transport_options = {folders}\n")
    # CELERY_BROKER_URL and CELERY_RESULT_BACKEND come before what the code says.
    urls = {"CELERY_BROKER_URL": broker[0], "CELERY_RESULT_BACKEND": broker[1]}
    server = start("run.py", "main:app", "--timeout-graceful-shutdown", "1", *MODES[mode], **urls)
    for _ in range(4):
        assert server.get() == {"2+2": 4}
    server.get("/send/sleep", args="600")
    wait_for(lambda: "tasks.sleep" in server.get("/active"))
    server.press_ctrl_c()
    wait_for(server.ended, lambda: server.log, timeout=15)
    assert server.process.wait() == 0
    assert "Starting" not in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("broker", ["amqp"], indirect=True)
def test_rabbitmq_needs_no_redis_py(start, probe, broker):
    (probe / "lib").mkdir()
    (probe / "lib" / "redis.py").write_text("raise ImportError\n")
    urls = {"CELERY_BROKER_URL": broker[0], "CELERY_RESULT_BACKEND": broker[1]}
    server = start("run.py", "main:app", "--reload", PYTHONPATH=str(probe / "lib"), **urls)
    assert server.get() == {"2+2": 4}
