"""The README says what is true."""

import re

import pytest
from command import ROOT

README = (ROOT / "README.md").read_text()


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert [command for command in commands if "pytest" in command] == [
        line
        for line in (ROOT / ".ci" / "run").read_text().splitlines()
        if line.startswith("python3 -m venv .venv &&")
    ]


def test_the_workflow_runs_the_commands_of_the_readme():
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text()
    commands = re.findall(r"^python3 -m venv .*$", README, re.M)
    assert len(commands) == 2
    assert [command for command in commands if command not in workflow] == []


def test_requirements_are_pinned():
    files = [ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt"]
    lines = [line for file in files for line in file.read_text().splitlines()]
    assert [line for line in lines if line and not line.startswith("#") and "==" not in line] == []


@pytest.mark.parametrize(
    "path", re.findall(r"\]\(((?!http)[^)#]+)\)|<img[^>]* src=\"((?!http)[^\"]+)\"", README)
)
def test_links_to_files_lead_somewhere(path):
    assert (ROOT / "".join(path)).exists()
