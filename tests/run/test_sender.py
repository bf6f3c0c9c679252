"""A task's line in the log names the user's line that sent it. No message carries it."""

import re

import redis


def sender_of(server, task):
    server.wait_for_log(f"Task tasks.{task}[")
    return re.search(rf"Task tasks\.{task}\[\S+\] from (\S+) ", server.log)[1]


def line_of(path, text):
    lines = path.read_text().splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)


def test_sender_is_a_line_of_the_app(start, project):
    server = start("run.py", "main:app", "--reload")
    server.get()
    assert (
        sender_of(server, "add")
        == f"app/main.py:{line_of(project / 'app' / 'main.py', 'add.delay')}"
    )


def test_sender_may_be_a_task(start, probe):
    server = start("run.py", "main:app")
    server.get("/run/wait_for_add_anyway")
    assert (
        sender_of(server, "add")
        == f"tasks.py:{1 + line_of(probe / 'tasks.py', 'with allow_join_result')}"
    )


def test_task_of_another_process_has_no_sender(start, probe, redis_server):
    server = start("run.py", "main:app", REDIS_URL=redis_server)
    server.get()
    start("-m", "celery", "-A", "tasks", "call", "tasks.fail", REDIS_URL=redis_server)
    server.wait_for_log("Task tasks.fail[")
    assert re.search(r"Task tasks\.fail\[\S+\] raised", server.log)


def test_message_of_a_task_has_nothing_of_its_sender(start, probe, redis_server):
    server = start("run.py", "main:app", "--", "-Q", "elsewhere", REDIS_URL=redis_server)
    server.get("/send/add", args=["1", "2"])
    [message] = redis.Redis.from_url(redis_server).lrange("celery", 0, -1)
    assert b"main.py" not in message
    assert str(probe).encode() not in message
