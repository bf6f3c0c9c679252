"""Reopen in Container gives the app a Redis that answers, and the editor what launch.json needs."""

import subprocess
import sys
from urllib.parse import urlsplit

import json5
import pytest
import yaml
from conftest import ROOT

FOLDER = ROOT / ".devcontainer"

# Copied from https://github.com/devcontainers/spec/tree/c95ffeed1d059abfe9ffbe79762dc2fa4e7c2421/schemas (MIT license)
DEVCONTAINER_SCHEMA = ROOT / "tests" / "devcontainer.schema.json"


@pytest.fixture
def devcontainer():
    return json5.loads((FOLDER / "devcontainer.json").read_text())


@pytest.fixture
def services():
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("devcontainer.json", ["--schemafile", str(DEVCONTAINER_SCHEMA), "--force-filetype", "json5"]),
        ("compose.yaml", ["--builtin-schema", "vendor.compose-spec"]),
    ],
)
def test_the_file_holds_to_its_public_schema(file, options):
    check = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *options, str(FOLDER / file)], capture_output=True, text=True
    )
    assert check.returncode == 0, check.stdout


def test_the_editor_opens_the_project_in_a_service_of_the_compose_file(devcontainer, services):
    assert (FOLDER / devcontainer["dockerComposeFile"]).is_file()
    assert f"..:{devcontainer['workspaceFolder']}" in services[devcontainer["service"]]["volumes"]


def test_the_app_starts_once_redis_is_healthy(devcontainer, services):
    assert services[devcontainer["service"]]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert services["redis"]["healthcheck"]["test"] == ["CMD", "redis-cli", "ping"]


def test_redis_url_names_the_redis_service(devcontainer, services):
    url = urlsplit(services[devcontainer["service"]]["environment"]["REDIS_URL"])
    assert (url.scheme, url.hostname, url.port) == ("redis", "redis", 6379)


def test_no_port_is_published_on_the_host_and_the_apis_alone_is_forwarded(devcontainer, services):
    assert [name for name, service in services.items() if "ports" in service] == []
    assert devcontainer["forwardPorts"] == [8000]
    assert devcontainer["portsAttributes"]["8000"]["label"]


def test_the_requirements_are_installed_before_the_editor_opens_and_not_by_root(devcontainer):
    assert devcontainer["updateContentCommand"].endswith("pip install --user -r requirements.txt")
    assert devcontainer["remoteUser"] == "vscode"


def test_the_extensions_are_those_that_the_project_recommends(devcontainer):
    recommended = json5.loads((ROOT / ".vscode" / "extensions.json").read_text())["recommendations"]
    assert devcontainer["customizations"]["vscode"]["extensions"] == recommended
    assert "ms-python.debugpy" in recommended
