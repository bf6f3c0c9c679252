"""A reload imports a library anew that was edited, or installed in another version."""

import shutil
from pathlib import Path

import click
from command import add_to


def test_reload_runs_the_edited_code_of_a_library(start, guest, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lib")
    shutil.copytree(Path(click.__file__).parent, folder / "click")
    server = start("run.py", "main:app", "--reload", PYTHONPATH=str(folder))
    assert server.get("/task/add", args=["2", "2"]) == 4
    add_to(folder / "click" / "__init__.py", "\nprint('edited', flush=True)\n")
    (guest / "tasks.py").touch()
    server.wait_for_log("Application startup complete.", count=2)
    assert "edited\n" in server.log
    assert server.get("/task/add", args=["2", "2"]) == 4
