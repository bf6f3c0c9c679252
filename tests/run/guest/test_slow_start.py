"""A worker that starts slowly is waited for, and Ctrl-C ends it meanwhile."""

import pytest
from command import wait_for

pytestmark = pytest.mark.slow

# As long as a model takes to load: longer than a broker may take to answer.
LOADING = """
from celery import signals

@signals.{name}.connect
def load(**_):
    print("loading", flush=True)
    time.sleep(8)
    print("loaded", flush=True)
"""


@pytest.mark.parametrize("name", ["worker_init", "worker_process_init"])
def test_slow_receiver_of_a_worker_signal_is_waited_for(start, add, name):
    add(tasks=LOADING.format(name=name))
    server = start("run.py", "main:app")
    assert server.get("/task/add", args=["2", "2"]) == 4
    assert server.log.index("loaded") < server.log.index("Application startup complete.")


@pytest.mark.parametrize("pool", ["threads", "prefork", "solo"])
def test_ctrl_c_ends_a_worker_that_starts(start, add, pool):
    add(tasks=LOADING.format(name="worker_init").replace("8", "60"))
    server = start("run.py", "main:app", "--", "-P", pool)
    server.wait_for_log("loading")
    server.press_ctrl_c()
    wait_for(server.ended, lambda: server.log, timeout=15)
    server.wait_until_nothing_is_left()
