"""The app answers with what its task computed, in the test's own process."""

import os

from celery import signals
from fastapi.testclient import TestClient


def test_root_answers_what_the_task_computed(client: TestClient) -> None:
    response = client.get("/")
    assert response.status_code == 200
    assert response.json() == {"2+2": 4}


def test_task_runs_in_the_process_of_the_test(client: TestClient) -> None:
    pids = []

    @signals.task_prerun.connect
    def note_pid(**_: object) -> None:
        pids.append(os.getpid())

    client.get("/")
    assert pids == [os.getpid()]
