"""A sample of long work: a job that reports its progress, and can be cancelled.

To delete the sample, delete:

* jobs.py, jobs.html, jobs.png, and their tests
* the two lines of main.py that say `router`
* `"jobs"` in celeryconfig.py
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

# Celery raises these if it can't send a task, or can't read or store a result.
REDIS_ERRORS = (OperationalError, BackendError, RedisError)

# The task reports its progress after this many samples.
STEP = 200_000


# If the process of a task is killed, the task is retried, three times at most.
@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=1)
def estimate_pi(self: Task, samples: int, seed: int) -> dict[str, float]:
    """Estimate pi from random points in a square: four times the share inside its circle."""
    random = Random(seed)
    inside = 0
    for done in range(0, samples, STEP):
        # The task goes on without Redis, as its result matters more than its progress.
        with suppress(*REDIS_ERRORS):
            # A thread can't be stopped from outside, so the task checks for a request to stop.
            if app.backend.get(f"cancel-{self.request.id}"):
                app.backend.mark_as_revoked(self.request.id, "cancelled", self.request)
                # Without this exception, Celery would store a success.
                raise Ignore
            self.update_state(state=states.STARTED, meta={"done": done, "total": samples})
        for _ in range(min(STEP, samples - done)):
            if random.random() ** 2 + random.random() ** 2 <= 1:
                inside += 1
    return {"done": samples, "total": samples, "result": 4 * inside / samples}


class JobRequest(BaseModel):
    """The number of random points, and their seed. The same seed gives the same result."""

    samples: int = Field(default=20_000_000, ge=1, le=10**9)
    seed: int = Field(default=0, ge=0, lt=2**53)


class Job(BaseModel):
    """A job's state, its progress in samples, and its result or error."""

    id: str
    state: Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]
    done: int | None = None
    total: int | None = None
    result: float | None = None
    error: str | None = None


def handle_redis_errors() -> Iterator[None]:
    """Respond with 503 if Redis is unavailable."""
    try:
        yield
    except REDIS_ERRORS as exc:
        raise HTTPException(503, "Redis is unavailable") from exc


router = APIRouter(prefix="/jobs", dependencies=[Depends(handle_redis_errors)], responses={503: {}})


@router.post("", status_code=202, responses={400: {}})
def start_job(request: JobRequest) -> Job:
    """Start a job, and return at once, with the id of the job."""
    job_id = uuid()
    # Celery reports an unknown id as a queued task, so store a state, by which the job is known.
    # Store it before you send the task, or it might overwrite the state of the running task.
    progress = {"done": 0, "total": request.samples}
    app.backend.store_result(job_id, progress, states.PENDING)
    estimate_pi.apply_async(kwargs=request.model_dump(), task_id=job_id)
    return read_job(job_id)


@router.get("/{job_id}", responses={404: {}})
def read_job(job_id: str) -> Job:
    """Return a job's state, and its progress, result or error.

    They are kept for a day, which is the default of Celery's `result_expires`.
    """
    match app.backend.get_task_meta(job_id):
        case {"status": state, "result": dict(value)}:
            return Job(id=job_id, state=state, **value)
        case {"status": states.FAILURE, "result": Exception() as exc}:
            return Job(id=job_id, state=states.FAILURE, error=repr(exc))
        case {"status": state, "result": Exception()}:
            return Job(id=job_id, state=state)
    raise HTTPException(404, f"There is no job {job_id}")


@router.delete("/{job_id}", status_code=202, responses={404: {}, 409: {}})
def cancel_job(job_id: str) -> Job:
    """Cancel a job. A running job ends within a second, and a queued one when it starts."""
    job = read_job(job_id)
    if job.state in states.READY_STATES:
        raise HTTPException(409, f"The job has already ended: {job.state}")
    # This is a key of its own, as the task would overwrite a state.
    app.backend.set(f"cancel-{job_id}", "1")
    return job


@router.get("", include_in_schema=False)
def read_page() -> FileResponse:
    """Return a page that starts, shows and cancels jobs."""
    return FileResponse(Path(__file__).with_name("jobs.html"))
