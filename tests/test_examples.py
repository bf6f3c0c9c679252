"""The examples of examples.py run in a worker."""

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
def api(client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """An HTTP client on the examples' handlers, with a database of the test's own and the worker of `client`."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'app.db'}")
    monkeypatch.setattr(examples, "engine", engine)
    examples.Base.metadata.create_all(engine)
    app = FastAPI()
    app.include_router(examples.router)
    yield TestClient(app)
    engine.dispose()


def test_a_task_calls_an_async_function(client: TestClient) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for _ in range(2):
            assert examples.check.delay([f"{url}/", f"{url}/none"]).get(timeout=10) == [200, 404]
        server.shutdown()


def test_a_task_gets_a_pydantic_model(client: TestClient) -> None:
    mail = examples.Mail(to=["Ann", "Bob"], text="Hello")
    assert examples.send_mail.delay(mail.model_dump(mode="json")).get(timeout=10) == "Hello, sent to Ann and Bob"
    refused = examples.send_mail.delay({"to": "Ann"})
    refused.get(timeout=10, propagate=False)
    assert refused.failed()


def test_a_task_changes_the_row_that_a_handler_stored(api: TestClient) -> None:
    note_id = api.post("/notes", params={"text": "one two three"}).json()
    deadline = time.monotonic() + 10
    while words_of(note_id) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert words_of(note_id) == 3


def words_of(note_id: int) -> object:
    with sqlalchemy.orm.Session(examples.engine) as session:
        return session.get_one(examples.Note, note_id).words
