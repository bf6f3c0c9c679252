"""The project of a guest, to which a test adds what its promise needs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command import put_in


@pytest.fixture
def guest(project: Path) -> Path:
    """Return the folder with the app of tests/run/projects/guest and a copy of run.py."""
    return put_in(project, "guest")


@pytest.fixture
def add(guest: Path) -> Callable[..., None]:
    """Add code to modules of the guest: `add(tasks="…", main="…")`."""

    def add(**code: str) -> None:
        for module, text in code.items():
            file = guest / f"{module}.py"
            file.write_text(f"{file.read_text()}\n{text}")

    return add
