"""A sample of long work: a job that tells its progress and can be cancelled, with its API and its page.

To delete it, delete jobs.py, jobs.html, jobs.png, their tests, and the two lines of main.py that say `router`.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Literal

from celery import Task, states, uuid
from celery.exceptions import BackendError, Ignore, OperationalError
from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field
from redis import RedisError
from tasks import app

REDIS_ERRORS = (OperationalError, BackendError, RedisError)  # what sending a task, its state and keys raise


@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=1)  # three times, if its process is killed
def estimate_pi(self: Task, samples: int, seed: int) -> dict[str, float]:
    """Estimate pi: of random points in a square, four times the share that lies in its circle."""
    random, inside, step = Random(seed), 0, 200_000
    for done in range(0, samples, step):
        with suppress(*REDIS_ERRORS):  # the result is worth more than its progress
            if app.backend.get(f"cancel-{self.request.id}"):  # nothing ends a thread from outside
                app.backend.mark_as_revoked(self.request.id, "cancelled", self.request)
                raise Ignore  # or Celery would store a success
            self.update_state(state=states.STARTED, meta={"done": done, "total": samples})
        inside += sum(random.random() ** 2 + random.random() ** 2 <= 1 for _ in range(min(step, samples - done)))
    return {"done": samples, "total": samples, "result": 4 * inside / samples}


class JobRequest(BaseModel):
    """How many random points to take, and the seed they follow from: the same seed, the same result."""

    samples: int = Field(default=20_000_000, ge=1, le=10**9)
    seed: int = Field(default=0, ge=0, lt=2**53)


class Job(BaseModel):
    """A job: how many of its samples are done as it waits, runs or has succeeded, then its result or its error."""

    id: str
    state: Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]
    done: int | None = None
    total: int | None = None
    result: float | None = None
    error: str | None = None


def tell_of_redis() -> Iterator[None]:
    """Answer 503 where Redis doesn't answer."""
    try:
        yield
    except REDIS_ERRORS as exc:
        raise HTTPException(503, "Redis can't be used") from exc


router = APIRouter(prefix="/jobs", dependencies=[Depends(tell_of_redis)], responses={503: {}})


@router.post("", status_code=202, responses={400: {}})
def start_job(request: JobRequest) -> Job:
    """Start a job. The answer comes at once, with the id to ask for."""
    job_id = uuid()
    # Stored, as an id that Celery doesn't know is a waiting task to it; and before it is sent, as the worker is quick.
    app.backend.store_result(job_id, {"done": 0, "total": request.samples}, states.PENDING)
    estimate_pi.apply_async(kwargs=request.model_dump(), task_id=job_id)
    return read_job(job_id)


@router.get("/{job_id}", responses={404: {}})
def read_job(job_id: str) -> Job:
    """Tell a job's state, and its progress, result or error, for a day (Celery's `result_expires`)."""
    match app.backend.get_task_meta(job_id):
        case {"status": state, "result": dict(value)}:
            return Job(id=job_id, state=state, **value)
        case {"status": state, "result": Exception() as exc}:
            return Job(id=job_id, state=state, error=repr(exc) if state == states.FAILURE else None)
    raise HTTPException(404, f"There is no job {job_id}")


@router.delete("/{job_id}", status_code=202, responses={404: {}, 409: {}})
def cancel_job(job_id: str) -> Job:
    """Cancel a job: one that runs ends within a second, and one that waits as it begins."""
    job = read_job(job_id)
    if job.state in states.READY_STATES:
        raise HTTPException(409, f"The job has already ended: {job.state}")
    app.backend.set(f"cancel-{job_id}", "1")  # a key, as the task would overwrite a state
    return job


@router.get("", include_in_schema=False)
def read_page() -> FileResponse:
    """A page to start, watch and cancel jobs."""
    return FileResponse(Path(__file__).with_name("jobs.html"))
