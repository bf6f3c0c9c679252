from fastapi import FastAPI

from shop.worker import hello

app = FastAPI()


@app.get("/")
def root() -> str:
    return hello.delay().get(timeout=10)
