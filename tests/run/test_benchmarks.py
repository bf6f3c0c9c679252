"""The benchmark runs; what it measures is not for tests."""

import subprocess
import sys
from xml.etree import ElementTree

import pytest
from command import ROOT

pytestmark = pytest.mark.slow


# Without a Redis it is skipped.
@pytest.mark.usefixtures("redis_server")
@pytest.mark.skipif(sys.platform == "win32", reason="the peers' prefork pool doesn't run there")
def test_benchmark_prints_a_table_and_writes_a_picture(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tests.run.benchmarks",
        "--rounds",
        "1",
        "--only",
        "start",
        "round_trip",
    ]
    command += ["--picture", str(tmp_path / "loops.svg")]
    table = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    ).stdout
    header, _, start, round_trip = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert header[:4] == ["run.py", "uvicorn alone", "worker in parent", "two terminals"]
    assert [cell.endswith(" s") for cell in start[1:5]] == [True] * 4
    assert [cell.endswith(" ms") for cell in round_trip[1:5]] == [True, False, True, True]
    picture = ElementTree.parse(tmp_path / "loops.svg")
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {start[1], round_trip[1]} <= set(texts)
