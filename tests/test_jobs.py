"""The jobs API starts jobs, returns their progress, result or error, and cancels them."""

import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient


def start_job(client: TestClient, **request: int) -> str:
    """Start a job, and return its path."""
    response = client.post("/jobs", json=request)
    assert response.status_code == 202
    return f"/jobs/{response.json()['id']}"


def wait_for(client: TestClient, job: str, condition: Callable[[Any], object]) -> Any:
    """Wait until the condition holds for the job, and return the job."""
    deadline = time.monotonic() + 30
    while True:
        state = client.get(job).json()
        if condition(state):
            return state
        assert time.monotonic() < deadline, state
        time.sleep(0.02)


def wait_for_end(client: TestClient, job: str) -> Any:
    """Wait until the job has ended, and return the job."""
    return wait_for(client, job, lambda state: state["state"] in ("SUCCESS", "FAILURE", "REVOKED"))


def test_job_returns_its_result(client: TestClient) -> None:
    job = start_job(client, samples=300_001, seed=1)
    assert wait_for_end(client, job) == {
        "id": job.removeprefix("/jobs/"),
        "state": "SUCCESS",
        "done": 300_001,
        "total": 300_001,
        "result": 3.139336202212659,
        "error": None,
    }


def test_seed_determines_the_result(client: TestClient) -> None:
    jobs = [start_job(client, samples=1000, seed=seed) for seed in (1, 1, 2)]
    first, same, other = [wait_for_end(client, job)["result"] for job in jobs]
    assert first == same
    assert first != other


def test_job_reports_its_progress_until_it_is_cancelled(client: TestClient) -> None:
    job = start_job(client, samples=10**9)
    before = wait_for(client, job, lambda state: state["done"])
    after = wait_for(client, job, lambda state: state["done"] > before["done"])
    for state in before, after:
        assert state["state"] == "STARTED"
        assert state["total"] == 10**9
    assert client.delete(job).status_code == 202
    assert wait_for_end(client, job)["state"] == "REVOKED"


def test_failed_job_returns_its_error(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    # No valid request makes a job fail, so break the task itself.
    monkeypatch.setattr("jobs.Random", None)
    job = wait_for_end(client, start_job(client))
    assert job["state"] == "FAILURE"
    assert job["error"] == """TypeError("'NoneType' object is not callable")"""


def test_ended_job_cannot_be_cancelled(client: TestClient) -> None:
    job = start_job(client, samples=1)
    wait_for_end(client, job)
    response = client.delete(job)
    assert response.status_code == 409
    assert response.json() == {"detail": "The job has already ended: SUCCESS"}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_job_is_not_found(client: TestClient, method: str) -> None:
    response = client.request(method, "/jobs/unknown")
    assert response.status_code == 404
    assert response.json() == {"detail": "There is no job unknown"}


@pytest.mark.parametrize(
    "request_body",
    [{"samples": 0}, {"samples": 10**9 + 1}, {"samples": 1.5}, {"seed": -1}, []],
)
def test_invalid_request_is_rejected(client: TestClient, request_body: object) -> None:
    assert client.post("/jobs", json=request_body).status_code == 422
