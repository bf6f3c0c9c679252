import client
from fastapi import FastAPI

app = FastAPI()
