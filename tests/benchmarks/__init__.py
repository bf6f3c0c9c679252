"""What run.py costs, compared in one run with plain uvicorn, the article's way and two terminals."""
