"""Celery's settings: https://docs.celeryq.dev/en/stable/userguide/configuration.html"""

import os

# The queues are in Redis. The environment variable CELERY_BROKER_URL overrides this setting.
broker_url = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

# The results are in Redis, too. CELERY_RESULT_BACKEND overrides this setting.
result_backend = os.environ.get("REDIS_URL", "redis://localhost:6379/0")

# A worker imports the modules with tasks. It doesn't import the web app.
include = ["tasks", "jobs"]

# The tasks of a killed worker run again. With Redis, they do so after an hour.
task_acks_late = True

# A task that has succeeded doesn't run again.
worker_deduplicate_successful_tasks = True

# A worker takes only as many tasks from the queue as it can run at once.
worker_prefetch_multiplier = 1

# A command to the broker fails if Redis doesn't answer within 3 seconds.
broker_transport_options = {"socket_timeout": 3}

# The same holds for a command to the result backend.
redis_socket_timeout = 3

# Celery reconnects to the result backend at most twice, so that a request fails early.
result_backend_transport_options = {"retry_policy": {"max_retries": 2}}

# Celery retries reading and storing results, so that they survive a restart of Redis.
result_backend_always_retry = True

# It retries 9 times, which takes half a minute if Redis doesn't answer.
result_backend_max_retries = 9
