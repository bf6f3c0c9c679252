"""Whatever a request holds, the answer is as the OpenAPI document says, and no server error."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
]
CHECKS += ["response_headers_conformance"]


def test_answers_are_as_documented(start, project):
    jobs = project / "app" / "jobs.py"
    code = jobs.read_text()
    assert code.count("le=10**9") == 1
    # Jobs with less to compute.
    code = code.replace("le=10**9", "le=10**4").replace("default=20_000_000", "default=1")
    jobs.write_text(code)
    server = start("run.py", "main:app")
    server.get()
    url = f"http://127.0.0.1:{server.port}/openapi.json"
    command = [sys.executable, "-m", "schemathesis.cli", "run", url]
    options = ["--checks", ",".join(CHECKS), "--phases", "coverage,fuzzing", "--max-examples", "20"]
    options += ["--generation-deterministic"]
    run = subprocess.run(
        [*command, *options], cwd=project, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stdout
    assert "Tested: 5" in run.stdout
