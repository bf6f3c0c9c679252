"""Examples of asyncio, Pydantic and a database in tasks.

Copy what you need to a module in app/, add the module to `include` in celeryconfig.py, and include
its router in main.py.
"""

import asyncio
import os
from collections.abc import Iterator
from typing import Annotated

import httpx2
from fastapi import APIRouter, Depends
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from tasks import app

router = APIRouter()


async def fetch(urls: list[str]) -> list[int]:
    """Request all URLs at the same time, and return the status codes."""
    async with httpx2.AsyncClient() as client:
        responses = await asyncio.gather(*map(client.get, urls))
        return [response.status_code for response in responses]


@app.task
def check(urls: list[str]) -> list[int]:
    """Call an `async` function in a new event loop.

    Create its clients, connections and locks in that function, as event loops can't share them.
    """
    return asyncio.run(fetch(urls))


class Mail(BaseModel):
    to: list[str]
    text: str


@app.task(pydantic=True)
def send_mail(mail: Mail) -> str:
    """Accept a model, which you pass to `delay()`.

    Celery sends the model as JSON, and validates it in the worker. This needs Celery 5.7.
    """
    return f"{mail.text}, sent to {' and '.join(mail.to)}"


@router.post("/mails", status_code=202)
def post_mail(mail: Mail) -> None:
    """Send a mail in a task."""
    send_mail.delay(mail)


# All threads share the engine. It connects when you first use it, and not at import, as the
# processes of a prefork worker can't share a connection. To create the tables, call
# `Base.metadata.create_all(engine)`.
engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///app.db"))


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    words: Mapped[int | None]


def get_session() -> Iterator[Session]:
    """Create a session for each request, as threads can't share one."""
    with Session(engine) as session:
        yield session


@router.post("/notes")
def add_note(text: str, session: Annotated[Session, Depends(get_session)]) -> int:
    """Store a text, count its words in a task, and return the id of the note."""
    note = Note(text=text)
    session.add(note)
    # Commit before you send the task, or the task might not find the row.
    session.commit()
    count_words.delay(note.id)
    return note.id


@app.task
def count_words(note_id: int) -> None:
    """Accept an id, and load the row in a new session.

    A row belongs to the session that loaded it, so you can't pass it to a task.
    """
    # `session.begin()` commits at the end of the block.
    with Session(engine) as session, session.begin():
        note = session.get_one(Note, note_id)
        note.words = len(note.text.split())
