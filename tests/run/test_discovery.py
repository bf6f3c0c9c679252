"""APP and its Celery app are found where uvicorn and celery would find them, and nothing is imported twice."""

import shutil

import pytest
from command import ROOT
from uvicorn.main import STARTUP_FAILURE


@pytest.fixture
def project(request, tmp_path):
    """A copy of one of tests/run/projects, with run.py in it."""
    shutil.copytree(
        ROOT / "tests" / "run" / "projects" / request.param, tmp_path, dirs_exist_ok=True
    )
    shutil.copy(ROOT / "run.py", tmp_path)
    return tmp_path


@pytest.mark.parametrize("reload", [[], ["--reload"]], ids=["plain", "reload"])
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
        "a worker that the API never imports, with a stub of its task in the API",
    ],
    indirect=["project"],
)
def test_layouts_that_people_have(start, project, args, answer, reload):
    split = args.index("--") if "--" in args else len(args)
    server = start("run.py", *args[:split], *reload, *args[split:])
    assert server.get() == answer
    assert "Warning" not in server.log


@pytest.mark.parametrize("kind", ["handler", "async"])
@pytest.mark.parametrize("project", ["default_app"], indirect=True)
def test_app_that_is_run_is_the_default_of_handlers_and_tasks(start, project, kind):
    server = start("run.py", "main:app")
    assert server.get(f"/{kind}") == {"current_app": "real", "of a task": ["real", "real"]}


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
    split = args.index("--") if "--" in args else len(args)
    server = start("run.py", *args[:split], *reload, *args[split:])
    assert server.get() == {"task": task, "answer": task.rpartition(".")[2], "modules": modules}


@pytest.mark.parametrize(
    ("project", "args", "told"),
    [
        (
            "client",
            ["alone:app"],
            "made no Celery app with tasks. Name the one to run: -- -A module:attribute",
        ),
        (
            "client",
            ["api:app"],
            "made no Celery app with tasks. Name the one to run: -- -A module:attribute",
        ),
        (
            "two_apps",
            ["apart_main:app"],
            "2 Celery apps with a broker each. Name the one to run: -- -A apart_main:away or -- -A one:first",
        ),
        ("flat", ["main:app", "--", "-A", "nowhere"], "Loading main:app and its Celery app failed"),
        (
            "flat",
            ["main:app", "--", "-A", "tasks:two"],
            "Loading main:app and its Celery app failed",
        ),
        (
            "flat",
            ["main:app", "--", "-A", "tasks:hello"],
            "Loading main:app and its Celery app failed",
        ),
    ],
    indirect=["project"],
    ids=["none", "none with tasks", "two", "-A no module", "-A no attribute", "-A no Celery app"],
)
def test_no_celery_app_or_several_are_told_in_one_line(start, project, args, told):
    server = start("run.py", *args)
    assert server.wait() == STARTUP_FAILURE
    assert [line for line in server.log.splitlines() if line.startswith("ERROR: ") and told in line]
    assert "Traceback" not in server.log


@pytest.mark.parametrize("project", ["two_apps"], indirect=True)
def test_several_celery_apps_on_one_broker_run_the_tasks_of_all_from_the_queues_of_all(
    start, project
):
    """Each is sent by its own app, to its own queue."""
    server = start("run.py", "shared_main:app")
    assert server.get() == {"one": "one", "two": "two"}


@pytest.mark.parametrize("project", ["flat"], indirect=True)
@pytest.mark.parametrize("app", ["nowhere:app", "main:nothing", "main"])
def test_wrong_app_is_told_as_uvicorn_does(start, project, app):
    ours, uvicorn = start("run.py", app), start("-m", "uvicorn", app)
    assert ours.wait() == uvicorn.wait()
    [message] = uvicorn.log.splitlines()
    assert message in ours.log
    assert "Traceback" not in ours.log
