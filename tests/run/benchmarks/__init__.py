"""What run.py costs, compared in one run with plain uvicorn, a worker in its parent process and two terminals."""
