import os

broker_url = result_backend = os.environ["REDIS_URL"]
imports = ["jobs"]
