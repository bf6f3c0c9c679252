"""A bad task and a message that is no task each give a clear error, and the worker goes on."""

import httpx2 as httpx
import pytest
import redis
from celery import Celery
from command import wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("task", "state", "value"),
    [
        ("raising", "FAILURE", "ValueError('as asked')"),
        ("not_json", "FAILURE", "Object of type object is not JSON serializable"),
        ("too_deep", "FAILURE", "RecursionError"),
        ("huge", "SUCCESS", "xxx"),
    ],
)
def test_task_that_ends_badly_has_a_result_that_says_so(start, faults, task, state, value):
    server = start("run.py", "main:app", "--", "-c", "2")
    # More often than there are threads.
    for _ in range(3):
        result = server.get(f"/result/{task}")
        assert result["state"] == state
        assert value in result["value"]
        assert server.get() == {"2+2": 4}
    # It is logged once its result is stored.
    server.wait_for_log(f"Task tasks.{task}", count=3)
    assert server.log.count(f"Task tasks.{task}") == 3
    assert ("ERROR:    worker - Task" in server.log) is (state == "FAILURE")


@pytest.mark.parametrize(
    ("send", "message"),
    [
        (
            lambda app: app.send_task("nowhere.add", (1, 2)),
            "Received unregistered task of type 'nowhere.add'",
        ),
        (
            lambda app: app.send_task("tasks.add", (1, 2), serializer="pickle"),
            "Refusing to deserialize untrusted",
        ),
        (
            lambda app: app.send_task("tasks.add", (1, 2, 3)),
            "add() takes 2 positional arguments but 3 were given",
        ),
        (lambda app: publish(app, {"no": "task"}), "Received and deleted unknown message"),
        (
            lambda app: redis.Redis.from_url(app.conf.broker_url).lpush("celery", '{"body": 1}'),
            "'properties'",
        ),
        (
            lambda app: redis.Redis.from_url(app.conf.broker_url).lpush("celery", "garbage"),
            "Expecting value",
        ),
    ],
    ids=[
        "a name no worker knows",
        "a pickle",
        "wrong arguments",
        "a message without a task",
        "JSON that is no message",
        "text that is no JSON",
    ],
)
def test_message_that_is_no_task_is_logged_and_skipped(start, faults, redis_server, send, message):
    server = start("run.py", "main:app", REDIS_URL=redis_server)
    server.get()
    with Celery(broker=redis_server, set_as_current=False) as app:
        send(app)
    server.wait_for_log(message)
    assert server.get() == {"2+2": 4}
    assert server.get() == {"2+2": 4}


def publish(app, message):
    with app.producer_pool.acquire(block=True) as producer:
        producer.publish(message, routing_key="celery", serializer="json")


def test_task_that_ends_the_process_ends_all_of_it(start, faults):
    server = start("run.py", "main:app")
    end_by_task(server)
    assert server.wait() == 5
    wait_for(lambda: not server.leftovers())


def test_task_that_ends_the_process_under_reload_has_the_next_edit_start_it_again(start, faults):
    server = start("run.py", "main:app", "--reload")
    end_by_task(server)
    (faults / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    assert server.get() == {"2+2": 4}


def end_by_task(server):
    server.get()
    server.tree()
    with pytest.raises(httpx.TransportError):
        server.get("/result/ending_the_process")


def test_queue_that_is_none_is_logged_and_may_be_repaired(start, faults, redis_server):
    server = start("run.py", "main:app", REDIS_URL=redis_server)
    server.get()
    client = redis.Redis.from_url(redis_server)
    client.set("celery", "is no list")
    server.wait_for_log("ResponseError")
    client.delete("celery")
    assert server.get() == {"2+2": 4}
