"""APP and its Celery app are found where uvicorn and celery find them, and imported once."""

import shutil

import pytest
import redis
from command import ROOT, wait_for
from uvicorn.main import STARTUP_FAILURE

PREFORK = ["-P", "prefork", "-c", "2"]


def joined(args, options):
    """Return arguments with more options, both with or without some after `--`."""
    before, after = [], []
    for each in (args, options):
        split = each.index("--") if "--" in each else len(each)
        before += each[:split]
        after += each[split + 1 :]
    return [*before, "--", *after]


@pytest.fixture
def project(request, tmp_path):
    """A copy of one of tests/run/projects, with run.py in it."""
    shutil.copytree(
        ROOT / "tests" / "run" / "projects" / request.param, tmp_path, dirs_exist_ok=True
    )
    shutil.copy(ROOT / "run.py", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [[], ["--reload"], pytest.param(["--", *PREFORK], marks=pytest.mark.slow)],
    ids=["plain", "reload", "prefork"],
)
@pytest.mark.parametrize(
    ("project", "args", "answer"),
    [
        ("core", ["app.main:app"], "hello"),
        ("factory", ["main:create_app", "--factory"], "hello"),
        ("current_app", ["main:app"], "hello"),
        ("imports", ["main:app"], "hello"),
        ("src", ["shop.main:app", "--app-dir", "src", "--env-file", ".env"], "hello"),
        ("send_task", ["main:app", "--", "-A", "worker"], ["hello", "bye"]),
    ],
    ids=[
        "core/celery.py, whose tasks autodiscover_tasks finds",
        "a factory that makes both apps",
        "celery.current_app set up in place",
        "worker.py, whose tasks a setting imports",
        "a package below src/, settings in .env",
        "a worker that the API never imports",
    ],
    indirect=["project"],
)
def test_common_layouts_work(start, project, args, answer, options):
    server = start("run.py", *joined(args, options))
    assert server.get() == answer
    assert "Warning" not in server.log


@pytest.mark.parametrize("project", ["default_app"], indirect=True)
def test_app_that_is_run_is_the_default_of_handlers_and_tasks(start, project):
    server = start("run.py", "main:app", "--", "-A", "main:real")
    assert server.get("/handler") == {"current_app": "real", "of a task": ["real", "real"]}


@pytest.mark.parametrize("reload", [[], ["--reload"]], ids=["plain", "reload"])
@pytest.mark.parametrize(
    ("project", "args", "task", "modules"),
    [
        ("flat", ["main:app"], "tasks.hello", ["main", "tasks"]),
        ("folder", ["main:app"], "tasks.hello", ["main", "tasks"]),
        ("app_dir", ["main:app", "--app-dir", "service"], "tasks.hello", ["main", "tasks"]),
        ("package", ["app.main:app"], "app.tasks.hello", ["app.celery", "app.main", "app.tasks"]),
        ("client", ["main:app"], "tasks.hello", ["main", "tasks"]),
        ("two_apps", ["main:app", "--", "-A", "one"], "one.one", ["main"]),
        ("two_apps", ["two_main:app", "--", "-A", "two:second"], "two.two", []),
    ],
    indirect=["project"],
)
def test_app_and_its_celery_app_are_found(start, project, args, task, modules, reload):
    server = start("run.py", *joined(args, reload))
    assert server.get() == {"task": task, "answer": task.rpartition(".")[2], "modules": modules}


HOW = "Name the Celery app: -- -A module:attribute"
NO_APP = f"APP has no Celery app with tasks. {HOW}"
TWO_APPS = f"APP has 2 brokers. {HOW}"
NOT_LOADED = "Could not load main:app. Fix this error:"


@pytest.mark.parametrize(
    ("project", "args", "message"),
    [
        ("client", ["alone:app"], NO_APP),
        ("client", ["api:app"], NO_APP),
        ("two_apps", ["apart_main:app"], TWO_APPS),
        ("flat", ["main:app", "--", "-A", "nowhere"], NOT_LOADED),
        ("flat", ["main:app", "--", "-A", "tasks:two"], NOT_LOADED),
        ("flat", ["main:app", "--", "-A", "tasks:hello"], NOT_LOADED),
    ],
    indirect=["project"],
    ids=["none", "none with tasks", "two", "-A no module", "-A no attribute", "-A no Celery app"],
)
def test_missing_or_ambiguous_celery_app_is_reported_in_one_line(start, project, args, message):
    server = start("run.py", *args)
    assert server.wait() == STARTUP_FAILURE
    assert f"ERROR:    {message}\n" in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize("project", ["two_apps"], indirect=True)
def test_several_celery_apps_on_one_broker_run_the_tasks_of_all_from_the_queues_of_all(
    start, project
):
    """Each is sent by its own app, to its own queue."""
    server = start("run.py", "shared_main:app")
    assert server.get() == {"one": "one", "two": "two"}


@pytest.mark.slow
@pytest.mark.parametrize("project", ["two_apps"], indirect=True)
def test_several_celery_apps_on_one_broker_lose_no_message_with_prefork(
    start, project, redis_server
):
    server = start("run.py", "shared_main:app", "--", *PREFORK, REDIS_URL=redis_server)
    for _ in range(20):
        assert server.get() == {"one": "one", "two": "two"}
    server.wait_for_log("succeeded", count=40)
    client = redis.Redis.from_url(redis_server)
    wait_for(lambda: not client.exists("queue_of_one", "queue_of_two", "unacked"))
    assert "ERROR" not in server.log


@pytest.mark.parametrize("project", ["flat"], indirect=True)
@pytest.mark.parametrize("app", ["nowhere:app", "main:nothing", "main"])
def test_wrong_app_is_reported_in_uvicorns_words(start, project, app):
    server = start("run.py", app)
    uvicorn = start("-m", "uvicorn", app)
    assert server.wait() == uvicorn.wait()
    [message] = uvicorn.log.splitlines()
    assert message in server.log
    assert "Traceback" not in server.log
