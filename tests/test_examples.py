"""The examples in examples.py work."""

import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import examples
import pytest
import sqlalchemy
from fastapi import FastAPI
from fastapi.testclient import TestClient


@pytest.fixture
def api(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """Return an HTTP client for the handlers in examples.py, with a new database.

    The tasks run in the worker of `client`.
    """
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    monkeypatch.setattr(examples, "engine", engine)
    examples.Base.metadata.create_all(engine)
    app = FastAPI()
    app.include_router(examples.router)
    yield TestClient(app)
    engine.dispose()


def test_task_calls_an_async_function(client: TestClient) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for _ in range(2):
            assert examples.check.delay([f"{url}/", f"{url}/none"]).get(timeout=10) == [200, 404]
        server.shutdown()


def test_delay_accepts_a_pydantic_model(client: TestClient) -> None:
    mail = examples.Mail(to=["Ann", "Bob"], text="Hello")
    result = examples.send_mail.delay(mail)
    assert result.get(timeout=10) == "Hello, sent to Ann and Bob"


def test_handler_passes_its_model_to_a_task(api: TestClient) -> None:
    response = api.post("/mails", json={"to": ["Ann", "Bob"], "text": "Hello"})
    assert response.status_code == 202


def test_task_fails_if_its_argument_is_invalid(client: TestClient) -> None:
    result = examples.send_mail.delay({"to": "Ann"})
    result.get(timeout=10, propagate=False)
    assert result.failed()


def test_task_updates_the_row_that_a_handler_stored(api: TestClient) -> None:
    note_id = api.post("/notes", params={"text": "one two three"}).json()
    deadline = time.monotonic() + 10
    while count_of(note_id) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert count_of(note_id) == 3


def count_of(note_id: int) -> int | None:
    """Return the stored number of words."""
    with sqlalchemy.orm.Session(examples.engine) as session:
        return session.get_one(examples.Note, note_id).words
