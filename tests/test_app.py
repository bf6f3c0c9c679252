"""The app's handlers return what its task computes."""

import os

import pytest
from celery import signals
from fastapi.testclient import TestClient


@pytest.mark.parametrize("path", ["/", "/async"])
def test_handler_returns_the_result_of_the_task(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.json() == {"2+2": 4}


def test_task_runs_in_the_process_of_the_test(client: TestClient) -> None:
    pids = []

    @signals.task_prerun.connect
    def record_pid(**_: object) -> None:
        pids.append(os.getpid())

    client.get("/")
    assert pids == [os.getpid()]
