"""A second uvicorn server in a thread of the app, as for metrics, has no worker of its own."""

import pytest
from command import free_port, put_in

SECOND = """
import os
import threading

import httpx2
import uvicorn

metrics, metrics_port = FastAPI(), int(os.environ["METRICS_PORT"])
uvicorn_of_metrics = {
    "run": lambda: uvicorn.run(metrics, port=metrics_port),
    "Server": uvicorn.Server(uvicorn.Config(metrics, port=metrics_port)).run,
}

@metrics.get("/")
def read_metrics():
    return "metrics"

@app.get("/workers")
def workers():
    seen = httpx2.get(f"http://127.0.0.1:{metrics_port}/").json()
    threads = [thread.name for thread in threading.enumerate()]
    return seen, threads.count("celery-worker"), tasks.app.control.ping()

threading.Thread(target=uvicorn_of_metrics[os.environ["METRICS_BY"]], daemon=True).start()
"""


@pytest.mark.parametrize("by", ["run", "Server"])
@pytest.mark.parametrize("args", [[], ["--reload"]], ids=["plain", "reload"])
def test_second_server_starts_no_second_worker(start, project, args, by):
    guest = put_in(project, "guest")
    with (guest / "main.py").open("a") as file:
        file.write(SECOND)
    server = start("run.py", "main:app", *args, METRICS_PORT=str(free_port()), METRICS_BY=by)
    server.wait_for_log("Application startup complete.", count=2)
    seen, threads, answers = server.get("/workers")
    assert (seen, threads, len(answers)) == ("metrics", 1, 1)
    assert server.get("/task/add", args=["2", "2"]) == 4
