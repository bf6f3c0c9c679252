"""A long session ends with the memory, threads, files and connections that it began with.

By default a short one. The long one: `python -m pytest -m long`, which takes some minutes.
"""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx
import pytest
import redis
from command import wait_for

pytestmark = pytest.mark.slow

LONG = pytest.mark.long


@pytest.fixture
def server(start, redis_server, project):
    return start("run.py", "main:app", "--reload", REDIS_URL=redis_server)


@pytest.fixture
def figures(server, redis_server):
    """Return what the session holds, once that is at rest."""
    client = redis.Redis.from_url(redis_server)

    def memory(process):
        info = process.memory_full_info()
        return getattr(info, "pss", info.uss)

    def count():
        tree = server.tree()
        return {
            "memory (MiB)": sum(map(memory, tree)) / 2**20,
            "processes": len(tree),
            "threads": sum(p.num_threads() for p in tree),
            "files": sum(p.num_fds() for p in tree),
            "connections": len(client.client_list()),
        }

    def figures():
        counts = [count()]

        def is_at_rest():
            time.sleep(0.2)
            counts.append(count())
            return [*counts[-1].values()][1:] == [*counts[-2].values()][1:]

        wait_for(is_at_rest, lambda: str(counts))
        return counts[-1]

    yield figures
    client.close()


def run_tasks(server, count):
    """Send `count` requests with a task each, four at a time: each thread keeps a connection."""
    with (
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=30) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        for response in pool.map(lambda _: client.get("/"), range(count)):
            assert response.status_code == 200, server.log[-3000:]


def reload(server, project, number):
    """Change what the task returns, and wait for the answer."""
    tasks = project / "app" / "tasks.py"
    before, _, _ = tasks.read_text().rpartition("return ")
    tasks.write_text(f"{before}return {number} + x + y\n")

    def is_new():
        with contextlib.suppress(httpx.TransportError):
            return server.get() == {"2+2": number + 4}

    wait_for(is_new, lambda: server.log[-3000:])


def assert_none_grew(began, ended):
    """Allow 5 %, and the threads that AnyIO starts as it needs them, each with a connection."""
    print(f"\nbegan with {began}\nended with {ended}")
    assert {name: figure for name, figure in ended.items() if figure > 1.05 * began[name] + 5} == {}


@pytest.mark.parametrize(("reloads", "tasks"), [(10, 30), pytest.param(200, 100, marks=LONG)])
def test_nothing_grows_over_reloads(server, project, figures, reloads, tasks):
    """Each process does the same number of tasks."""
    for number in range(1, 4):
        reload(server, project, number)
        run_tasks(server, tasks)
    began = figures()
    for number in range(4, 4 + reloads):
        reload(server, project, number)
        run_tasks(server, tasks)
    assert_none_grew(began, figures())


@pytest.mark.parametrize("tasks", [500, pytest.param(20_000, marks=LONG)])
def test_nothing_grows_over_tasks(server, figures, tasks):
    server.get()
    run_tasks(server, 500)
    began = figures()
    run_tasks(server, tasks)
    assert_none_grew(began, figures())
