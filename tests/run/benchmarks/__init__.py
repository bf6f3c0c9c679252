"""What run.py costs, compared with its peers in one run.

The peers are plain uvicorn, a worker in uvicorn's parent process, and two terminals.
"""
