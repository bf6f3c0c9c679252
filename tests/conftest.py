"""The app in the test's own process, beside its worker."""

import os
import socket
from collections.abc import Iterator

import pytest
from celery.contrib.testing.worker import start_worker
from fastapi.testclient import TestClient

from run import ensure_redis

with socket.create_server(("localhost", 0)) as free:  # a Redis of the tests' own, which ends with them
    os.environ["REDIS_URL"] = f"redis://localhost:{free.getsockname()[1]}/0"
for name in "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND":  # which Celery prefers to it
    os.environ.pop(name, None)


@pytest.fixture(scope="session")
def client() -> Iterator[TestClient]:
    """An HTTP client on the app. Its tasks run in threads of the test's process, in which a debugger stops."""
    from main import app
    from tasks import app as celery_app

    ensure_redis(os.environ["REDIS_URL"])
    with start_worker(celery_app, pool="threads", concurrency=4, perform_ping_check=False), TestClient(app) as client:
        yield client
