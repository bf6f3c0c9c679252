"""A job is accepted at once, tells its progress, then its result or error, and can be cancelled."""

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
    """Return the job once the condition holds for it."""
    deadline = time.monotonic() + 30
    while not condition(state := client.get(job).json()):
        assert time.monotonic() < deadline, state
        time.sleep(0.02)
    return state


def wait_for_end(client: TestClient, job: str) -> Any:
    return wait_for(client, job, lambda state: state["state"] in ("SUCCESS", "FAILURE", "REVOKED"))


def test_a_job_tells_its_result_which_its_seed_determines(client: TestClient) -> None:
    jobs = [start_job(client, samples=300_001, seed=seed) for seed in (1, 1, 2)]
    first, same, other = [wait_for_end(client, job) for job in jobs]
    assert first | {"id": ""} == {
        **{"id": "", "state": "SUCCESS", "done": 300_001, "total": 300_001},
        **{"result": 3.139336202212659, "error": None},
    }
    assert first["result"] == same["result"] != other["result"]


def test_a_job_tells_its_progress_until_it_is_cancelled(client: TestClient) -> None:
    job = start_job(client, samples=10**9)
    before = wait_for(client, job, lambda state: state["done"])
    after = wait_for(client, job, lambda state: state["done"] > before["done"])
    assert (before["state"], before["total"]) == (after["state"], after["total"]) == ("STARTED", 10**9)
    assert client.delete(job).status_code == 202
    assert wait_for_end(client, job)["state"] == "REVOKED"


def test_a_job_that_fails_tells_the_exception(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.Random", None)  # no valid request makes it fail
    job = wait_for_end(client, start_job(client))
    assert job["state"] == "FAILURE"
    assert job["error"] == """TypeError("'NoneType' object is not callable")"""


def test_a_job_that_has_ended_cannot_be_cancelled(client: TestClient) -> None:
    job = start_job(client, samples=1)
    wait_for_end(client, job)
    response = client.delete(job)
    assert response.status_code == 409
    assert response.json() == {"detail": "The job has already ended: SUCCESS"}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_an_unknown_job_is_not_found(client: TestClient, method: str) -> None:
    response = client.request(method, "/jobs/unknown")
    assert response.status_code == 404
    assert response.json() == {"detail": "There is no job unknown"}


@pytest.mark.parametrize("request_body", [{"samples": 0}, {"samples": 10**9 + 1}, {"samples": 1.5}, {"seed": -1}, []])
def test_a_request_out_of_bounds_is_refused(client: TestClient, request_body: object) -> None:
    assert client.post("/jobs", json=request_body).status_code == 422
