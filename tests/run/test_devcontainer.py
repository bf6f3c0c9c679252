"""Reopen in Container gives the app a Redis that answers, and the editor what launch.json needs."""

import shutil
import subprocess
import sys
from urllib.parse import urlsplit

import json5
import pytest
import redis
import yaml
from command import ROOT, free_port, listens, wait_for

FOLDER = ROOT / ".devcontainer"

SPECIFICATION = "https://raw.githubusercontent.com/devcontainers/spec/main/"
SCHEMA = SPECIFICATION + "schemas/devContainer.base.schema.json"


@pytest.fixture
def devcontainer():
    return json5.loads((FOLDER / "devcontainer.json").read_text())


@pytest.fixture
def services():
    return yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]


def check_jsonschema(*args):
    command = [sys.executable, "-m", "check_jsonschema", *args]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_devcontainer_json_holds_to_the_schema_of_its_specification():
    file = str(FOLDER / "devcontainer.json")
    # The file has comments, which JSON5 allows.
    check = check_jsonschema("--schemafile", SCHEMA, "--force-filetype", "json5", file)
    # No package ships the schema, so it is downloaded.
    if "FailedDownloadError" in check.stdout:
        pytest.skip("the schema can't be downloaded")
    assert check.returncode == 0, check.stdout


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("compose-spec", ".devcontainer/compose.yaml"),
        ("dependabot", ".github/dependabot.yml"),
        ("github-workflows", ".github/workflows/test.yml"),
    ],
)
def test_a_file_holds_to_its_public_schema(schema, file):
    check = check_jsonschema("--builtin-schema", f"vendor.{schema}", str(ROOT / file))
    assert check.returncode == 0, check.stdout


def test_the_editor_opens_the_project_in_a_service_of_the_compose_file(devcontainer, services):
    assert (FOLDER / devcontainer["dockerComposeFile"]).is_file()
    assert f"..:{devcontainer['workspaceFolder']}" in services[devcontainer["service"]]["volumes"]


def test_redis_url_names_a_service_that_the_app_waits_for(devcontainer, services):
    app = services[devcontainer["service"]]
    named = urlsplit(app["environment"]["REDIS_URL"]).hostname
    assert named in app["depends_on"].keys() & services.keys()


def test_no_port_of_the_host_is_taken_but_those_that_the_editor_forwards(devcontainer, services):
    assert not any("ports" in service for service in services.values())
    forwarded = {str(port) for port in devcontainer["forwardPorts"]}
    assert forwarded < devcontainer["portsAttributes"].keys()


def test_the_editor_announces_an_api_on_another_port_and_no_port_of_a_test(devcontainer):
    attributes = devcontainer["portsAttributes"]
    [ignored] = [ports for ports in attributes if attributes[ports]["onAutoForward"] == "ignore"]
    first, last = map(int, ignored.split("-"))
    assert 8001 < first <= free_port() <= last
    assert "otherPortsAttributes" not in devcontainer


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
    command = [*services["redis"]["command"].split(), "--port", str(port)]
    for queued in ([], [b"second"]):
        server = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        try:
            wait_for(lambda: listens(port))
            assert client.lrange("celery", 0, -1) == queued
            client.lpush("celery", "first", "second")
            client.rpop("celery")
            # While Redis syncs its file to the disk, it holds back what comes next.
            wait_for(lambda: client.info("persistence")["aof_buffer_length"] == 0)
        finally:
            server.kill()
            server.wait()
