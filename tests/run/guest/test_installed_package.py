"""An app that is installed, in site-packages, is the user's code all the same."""

import re

import pytest

FILES = {
    "__init__.py": "",
    "worker.py": """
import os
from celery import Celery

app = Celery("shop", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])

@app.task
def add(x, y):
    return x + y
""",
    "main.py": """
import os
from fastapi import FastAPI
from . import worker

app = FastAPI()
if os.environ.get("FAIL"):
    {}["no such key"]

@app.get("/")
def add():
    return worker.add.delay(2, 2).get(timeout=10)
""",
}


@pytest.fixture
def path(tmp_path_factory):
    """A folder like the site-packages of a venv, with a package."""
    folder = tmp_path_factory.mktemp("venv") / "site-packages"
    for name, text in FILES.items():
        path = folder / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(folder)


def test_line_of_a_task_names_its_sender(start, project, path):
    server = start("run.py", "shop.main:app", PYTHONPATH=path)
    assert server.get() == 4
    server.wait_for_log("succeeded in")
    assert re.search(
        r"Task shop\.worker\.add\[\S+\] from \S+shop/main\.py:12 succeeded in", server.log
    ), server.log


def test_traceback_of_an_error_at_import_begins_at_its_own_line(start, project, path):
    server = start("run.py", "shop.main:app", PYTHONPATH=path, FAIL="1")
    assert server.wait() != 0
    frames = re.findall(r'File ".*/(\S+)", line (\d+)', server.log.partition("Traceback")[2])
    assert frames == [("main.py", "8")], server.log
    assert "KeyError: 'no such key'" in server.log
