"""Tasks as people write them; a test adds what else its promise needs."""

import gc
import logging
import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor

from celery import Celery
from celery.utils.log import get_task_logger

redis_url = os.environ["REDIS_URL"]
app = Celery("guest", broker=redis_url, backend=redis_url)
logger, task_logger = logging.getLogger("service"), get_task_logger(__name__)


@app.task
def add(x, y):
    return int(x) + int(y)


@app.task
def fail():
    raise ValueError("as asked")


@app.task
def say(text):
    print(text)
    # The text is to be seen while the task runs.
    while not os.path.exists("heard"):
        time.sleep(0.01)


@app.task
def log():
    logger.info("info of a module")
    logger.warning("warning of a module")
    task_logger.info("info of a task")
    task_logger.warning("warning of a task")


# --- Processes of its own


def square(x):
    return x * x


def about_child():
    return {
        "gc": gc.isenabled(),
        "blocked signals": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    }


def run_on(connection):
    connection.send(about_child())
    time.sleep(60)


@app.task
def start_processes(method=None):
    """Compute in a pool of processes, and end one that runs on; None is Python's default."""
    context = multiprocessing.get_context(method or None)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        squares, in_pool = list(pool.map(square, range(4))), pool.submit(about_child).result()
    ours, theirs = context.Pipe()
    child = context.Process(target=run_on, args=(theirs,))
    child.start()
    of_process = ours.recv()
    child.terminate()
    child.join(10)
    code = child.exitcode
    child.kill()
    return {"squares": squares, "pool": in_pool, "process": of_process, "exit code": code}


def start():
    open("started", "w").close()


@app.task
def wait_for_process():
    """Leave the work to a process, and wait for it, as is done for what needs all of a core."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    start()
    child.join()


@app.task
def wait_for_pool():
    """The same by a pool, of which one process waits for work."""
    with multiprocessing.Pool(2) as pool:
        pool.apply(start)
        pool.apply(time.sleep, (60,))


pools = []


@app.task
def keep_pools():
    """Leave pools for the next task."""
    pools.extend([multiprocessing.Pool(2), ProcessPoolExecutor(2)])
    for pool in pools:
        list(pool.map(square, range(4)))
    start()
