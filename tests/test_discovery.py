"""APP and its Celery app are found where uvicorn and celery would find them, and nothing is imported twice."""

import shutil

import pytest
from conftest import ROOT


@pytest.fixture
def project(request, tmp_path):
    """A copy of one of tests/projects, with run.py in it."""
    shutil.copytree(ROOT / "tests" / "projects" / request.param, tmp_path, dirs_exist_ok=True)
    shutil.copy(ROOT / "run.py", tmp_path)
    return tmp_path


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
        ("client", ["alone:app"], "made no Celery app with tasks. Name the one to run: -- -A module:attribute"),
        ("client", ["api:app"], "made no Celery app with tasks. Name the one to run: -- -A module:attribute"),
        (
            "two_apps",
            ["main:app"],
            "2 Celery apps with tasks. Name the one to run: -- -A one:first or -- -A two:second",
        ),
        ("flat", ["main:app", "--", "-A", "nowhere"], "-A nowhere names no Celery app: No module named 'nowhere'"),
        ("flat", ["main:app", "--", "-A", "tasks:two"], "-A tasks:two names no Celery app: "),
        ("flat", ["main:app", "--", "-A", "tasks:hello"], "-A tasks:hello names no Celery app: it is something else"),
    ],
    indirect=["project"],
    ids=["none", "none with tasks", "two", "-A no module", "-A no attribute", "-A no Celery app"],
)
def test_no_celery_app_or_several_are_told_in_one_line(start, project, args, told):
    server = start("run.py", *args)
    assert server.wait() == 1
    assert [line for line in server.log.splitlines() if line.startswith("ERROR: ") and told in line]
    assert "Traceback" not in server.log


@pytest.mark.parametrize("project", ["flat"], indirect=True)
@pytest.mark.parametrize("app", ["nowhere:app", "main:nothing", "main"])
def test_wrong_app_is_told_as_uvicorn_does(start, project, app):
    ours, uvicorn = start("run.py", app), start("-m", "uvicorn", app)
    assert ours.wait() == uvicorn.wait()
    [message] = uvicorn.log.splitlines()
    assert message in ours.log
    assert "Traceback" not in ours.log
