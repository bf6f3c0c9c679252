"""Celery's testing worker in a thread around uvicorn's command.

It is the shortest way to one process, and run.py is compared with it.

    python in_parent.py main:app [uvicorn options]

The worker runs in the outermost process, which under --reload is uvicorn's reloader.
"""

import uvicorn
from celery.contrib.testing.worker import start_worker
from tasks import app

serve = uvicorn.main.callback


def serve_with_worker(**options: object) -> None:
    with start_worker(app, perform_ping_check=False):
        serve(**options)


uvicorn.main.callback = serve_with_worker

if __name__ == "__main__":
    uvicorn.main()
