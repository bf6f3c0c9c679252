"""Reopen in Container gives the app a Redis that answers, and the editor what launch.json needs."""

import shutil
import subprocess
import sys
from urllib.parse import urlsplit

import json5
import jsonschema
import pytest
import redis
import yaml
from command import ROOT, free_port, listens, wait_for

FOLDER = ROOT / ".devcontainer"

# No package ships the public schema of devcontainer.json, so this one is written by its reference, for the keys in use:
# https://containers.dev/implementors/json_reference/
TEXTS = {"type": "array", "items": {"type": "string"}}
AUTO_FORWARD = {"enum": ["notify", "openBrowser", "openBrowserOnce", "openPreview", "silent", "ignore"]}
PORT_ATTRIBUTES = {
    "type": "object",
    "properties": {"label": {"type": "string"}, "onAutoForward": AUTO_FORWARD},
    "additionalProperties": False,
}
DEVCONTAINER_SCHEMA = {
    "type": "object",
    "required": ["dockerComposeFile", "service", "workspaceFolder"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string"},
        "dockerComposeFile": {"anyOf": [{"type": "string"}, TEXTS]},
        "service": {"type": "string"},
        "workspaceFolder": {"type": "string"},
        "remoteUser": {"type": "string"},
        "updateContentCommand": {"type": ["string", "array", "object"]},
        "forwardPorts": {"type": "array", "items": {"type": ["integer", "string"], "minimum": 0, "maximum": 65535}},
        "portsAttributes": {"type": "object", "additionalProperties": PORT_ATTRIBUTES},
        "otherPortsAttributes": PORT_ATTRIBUTES,
        "customizations": {
            "type": "object",
            "properties": {"vscode": {"type": "object", "properties": {"extensions": TEXTS}}},
        },
    },
}


@pytest.fixture
def devcontainer():
    return json5.loads((FOLDER / "devcontainer.json").read_text())


@pytest.fixture
def services():
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


def test_devcontainer_json_holds_to_its_reference(devcontainer):
    jsonschema.validate(devcontainer, DEVCONTAINER_SCHEMA)


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("compose-spec", ".devcontainer/compose.yaml"),
        ("dependabot", ".github/dependabot.yml"),
        ("github-workflows", ".github/workflows/test.yml"),
    ],
)
def test_a_file_holds_to_its_public_schema(schema, file):
    command = ["-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(ROOT / file)]
    check = subprocess.run([sys.executable, *command], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_the_editor_opens_the_project_in_a_service_of_the_compose_file(devcontainer, services):
    assert (FOLDER / devcontainer["dockerComposeFile"]).is_file()
    assert f"..:{devcontainer['workspaceFolder']}" in services[devcontainer["service"]]["volumes"]


def test_redis_url_names_a_service_that_the_app_waits_for(devcontainer, services):
    app = services[devcontainer["service"]]
    assert urlsplit(app["environment"]["REDIS_URL"]).hostname in app["depends_on"].keys() & services.keys()


def test_no_port_of_the_host_is_taken_but_those_that_the_editor_forwards(devcontainer, services):
    assert not any("ports" in service for service in services.values())
    assert devcontainer["portsAttributes"].keys() == {str(port) for port in devcontainer["forwardPorts"]}


def test_no_container_has_further_rights(services):
    further = {"privileged", "cap_add", "security_opt", "network_mode", "pid", "devices", "user"}
    assert [name for name, service in services.items() if further & service.keys()] == []


def test_the_extensions_are_those_that_the_project_recommends(devcontainer):
    recommended = json5.loads((ROOT / ".vscode" / "extensions.json").read_text())["recommendations"]
    assert devcontainer["customizations"]["vscode"]["extensions"] == recommended
    assert "ms-python.debugpy" in recommended


@pytest.mark.skipif(not shutil.which("redis-server"), reason="there is no redis-server on PATH")
def test_redis_that_is_killed_keeps_what_is_queued_and_not_what_was_taken(services, tmp_path):
    port = free_port()
    client = redis.Redis(port=port)
    for queued in ([], [b"second"]):
        server = subprocess.Popen(
            [*services["redis"]["command"].split(), "--port", str(port)], cwd=tmp_path, stdout=subprocess.DEVNULL
        )
        try:
            wait_for(lambda: listens(port))
            assert client.lrange("celery", 0, -1) == queued
            client.lpush("celery", "first", "second")
            client.rpop("celery")
        finally:
            server.kill()
            server.wait()
