"""Jobs: CPU-bound tasks that take minutes, with progress, a result that is fetched later, and cancelling.

A sample. To delete it, delete it and jobs.html, jobs.png, their two tests, and what names them in main.py and tasks.py.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from math import inf
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal
from uuid import UUID, uuid4

from celery import Task
from celery.exceptions import BackendError, Ignore
from celery.states import FAILURE, PENDING, READY_STATES, REVOKED, STARTED
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from fastapi.sse import EventSourceResponse
from kombu.exceptions import OperationalError
from pydantic import BaseModel, ConfigDict, Field
from redis import RedisError
from tasks import app

UNAVAILABLE = (OperationalError, BackendError, RedisError)  # what sending, states and keys raise without Redis

# --- The task --------------------------------------------------------------------------------------------------------


# A job whose process is killed, say for want of memory, is tried again after a second, three times (`max_retries`).
@app.task(bind=True, retry_on_worker_lost=True, default_retry_delay=1)
def estimate_pi(self: Task, samples: int, seed: int) -> dict[str, float]:
    """Estimate pi: of random points in a square, four times the share that lies in its circle."""
    random, inside, last_report = Random(seed), 0, -inf
    for done in range(0, samples, 10_000):
        if time.monotonic() - last_report > 0.2:
            report(self, done, samples)
            last_report = time.monotonic()
        for _ in range(min(10_000, samples - done)):
            inside += random.random() ** 2 + random.random() ** 2 <= 1
    report(self, samples, samples)
    return {"done": samples, "total": samples, "result": 4 * inside / samples}


def report(task: Task, done: int, total: int) -> None:
    """Store how far a running task is, or end the task if it is cancelled. A thread can't be ended from outside.

    Without Redis the task goes on. Its progress is worth less than its result.
    """
    with suppress(*UNAVAILABLE):
        if app.backend.get(cancel_key(task.request.id)):
            app.backend.mark_as_revoked(task.request.id, "cancelled", task.request)
            raise Ignore  # or Celery would store a success
        task.update_state(state=STARTED, meta={"done": done, "total": total})


def cancel_key(job_id: object) -> str:
    """Return the key that cancels a job once it is set. It is no state of the job, which `report` would overwrite."""
    return f"cancel-{job_id}"


# --- The API ---------------------------------------------------------------------------------------------------------


class JobRequest(BaseModel):
    """How many random points to take, and the seed they follow from: the same seed, the same result."""

    model_config = ConfigDict(extra="forbid")

    samples: int = Field(default=20_000_000, ge=1, le=10**9)
    seed: int = Field(default=0, ge=0, lt=2**53)


class Job(BaseModel):
    """A job, in a [state of Celery's](https://docs.celeryq.dev/en/stable/userguide/tasks.html#built-in-states)."""

    id: UUID
    state: Literal["PENDING", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"]
    done: int | None = Field(default=None, description="Samples so far; null if failed, cancelled or tried again")
    total: int | None = Field(default=None, description="Samples in all; null if failed, cancelled or tried again")
    result: float | None = Field(default=None, description="The estimate, of a job that succeeded")
    error: str | None = Field(default=None, description="The exception, of a job that failed")


def tell_of_redis() -> Iterator[None]:
    """Answer 503 where Redis doesn't answer."""
    try:
        yield
    except UNAVAILABLE as exc:
        raise HTTPException(503, "Redis can't be used") from exc


DETAIL = {"type": "object", "properties": {"detail": {"type": "string"}}, "required": ["detail"]}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": description, "content": {"application/json": {"schema": DETAIL}}}
    for status, description in [
        (400, "The body can't be read"),
        (404, "No such job"),
        (409, "The job has already ended"),
        (503, "Redis can't be used"),
    ]
}
LOCATION = {"headers": {"Location": {"description": "The job's URL", "schema": {"type": "string", "format": "uri"}}}}

router = APIRouter(prefix="/jobs", tags=["jobs"], dependencies=[Depends(tell_of_redis)], responses={503: PROBLEMS[503]})


@router.post("", status_code=202, responses={202: LOCATION, 400: PROBLEMS[400]})
def start_job(job: JobRequest, request: Request, response: Response) -> Job:
    """Start a job. Its URL is in `Location`."""
    job_id = str(uuid4())
    # Stored before it is sent, as the worker may be quick. Celery takes an id that it doesn't know for a pending task.
    app.backend.store_result(job_id, {"done": 0, "total": job.samples}, PENDING)
    estimate_pi.apply_async(kwargs=job.model_dump(), task_id=job_id)
    response.headers["Location"] = str(request.url_for("read_job", job_id=job_id))
    return read_job(UUID(job_id))


@router.get("/{job_id}", responses={404: PROBLEMS[404]})
def read_job(job_id: UUID) -> Job:
    """Tell a job's state, and its progress, result or error. It is known for a day (Celery's `result_expires`)."""
    meta = app.backend.get_task_meta(str(job_id))
    state, value = meta["status"], meta["result"]
    if isinstance(value, dict):
        return Job(id=job_id, state=state, **value)
    if isinstance(value, Exception):
        return Job(id=job_id, state=state, error=repr(value) if state == FAILURE else None)
    raise HTTPException(404, f"There is no job {job_id}")


@router.get("/{job_id}/events", response_class=EventSourceResponse, responses={404: PROBLEMS[404]})
async def watch_job(job: Annotated[Job, Depends(read_job)]) -> AsyncIterator[Job]:
    """Tell the same at each change, as server-sent events, until the job ends."""
    told = None
    while not server_is_stopping():
        if job != told:
            yield (told := job)
        if job.state in READY_STATES:
            break
        await asyncio.sleep(0.2)
        try:
            job = await run_in_threadpool(read_job, job.id)
        except UNAVAILABLE:
            continue  # it may come back
        except HTTPException:
            break  # it came back without the job


def server_is_stopping() -> bool:
    """Tell whether uvicorn waits for open responses to end. It tells the app itself only after that.

    Its handler of signals is a method of the server: https://github.com/Kludex/uvicorn/blob/main/uvicorn/server.py
    """
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return bool(getattr(server, "should_exit", False))


@router.delete("/{job_id}", status_code=202, responses={404: PROBLEMS[404], 409: PROBLEMS[409]})
def cancel_job(job_id: UUID) -> Job:
    """Cancel a job. One that runs ends within a second. To cancel a job twice is no error."""
    job = read_job(job_id)
    if job.state in READY_STATES - {REVOKED}:
        raise HTTPException(409, f"The job has already ended: {job.state}")
    app.backend.set(cancel_key(job_id), "1")
    if job.state == PENDING:
        app.backend.mark_as_revoked(str(job_id), "cancelled before it began")
    return read_job(job_id)


@router.api_route("", methods=["GET", "HEAD"], include_in_schema=False)
async def read_page() -> FileResponse:
    """A page to start, watch and cancel jobs. By HEAD it asks whether the API answers."""
    return FileResponse(Path(__file__).with_name("jobs.html"))
