"""What a project needs next, each shown once: `asyncio`, Pydantic and a database in tasks.

Copy what you need into a module of app/, and import its router in main.py: so the worker knows its tasks too.
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
    """Request all `urls` at the same time, and return the status codes."""
    async with httpx2.AsyncClient() as client:
        return [response.status_code for response in await asyncio.gather(*map(client.get, urls))]


@app.task
def check(urls: list[str]) -> list[int]:
    """Call an `async` function, in an event loop of its own. Nothing else may share its client, connections, locks."""
    return asyncio.run(fetch(urls))


class Mail(BaseModel):
    to: list[str]
    text: str


@app.task(pydantic=True)  # from Celery 5.5 on
def send_mail(mail: Mail) -> str:
    """Get a model, checked, where the message has JSON: `send_mail.delay(mail.model_dump(mode="json"))`."""
    return f"{mail.text}, sent to {' and '.join(mail.to)}"


# Shared by all threads. It connects when it is first used: not at import, or a prefork worker's processes would share a
# connection. `Base.metadata.create_all(engine)` makes the tables.
engine = create_engine(os.environ.get("DATABASE_URL", "sqlite:///app.db"))


class Base(DeclarativeBase): ...


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    words: Mapped[int | None]


def get_session() -> Iterator[Session]:
    """Give each request a session of its own, as no two threads may share one."""
    with Session(engine) as session:
        yield session


@router.post("/notes")
def add_note(text: str, session: Annotated[Session, Depends(get_session)]) -> int:
    """Store a text, have its words counted, and return its id."""
    session.add(note := Note(text=text))
    session.commit()  # first, or the task might not find it
    count_words.delay(note.id)
    return note.id


@app.task
def count_words(note_id: int) -> None:
    """Get an id, as the row itself belongs to the handler's session, and open a session of its own."""
    with Session(engine) as session, session.begin():  # which commits at its end
        note = session.get_one(Note, note_id)
        note.words = len(note.text.split())
