"""Run a FastAPI app and its Celery worker in one process, for development.

    python run.py APP [uvicorn options] [-- celery worker options]

    python run.py main:app --reload
    python run.py main:app --port 8080 -- --concurrency 8 --loglevel debug

The two commands it stands for, `uvicorn` and `celery worker`, joined by `--`. The worker's tasks run as threads of the
process that serves the requests, so that one debugger stops in both and one reload renews both. In production, run the
two commands themselves; nothing in the app knows of this file.

Read on in the order it happens: the command line, Redis, the Celery app, the worker, the server, the debugger.
"""

import asyncio
import atexit
import contextlib
import copy
import errno
import ipaddress
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

# A project may have a celery.py or a redis.py of its own. So the libraries are imported without the folder that comes
# first on sys.path: this script's, as Python puts it there, or in a child process uvicorn's --app-dir.
if __name__ in ("__main__", "__mp_main__"):
    first_folder = sys.path.pop(0)

import celery.apps.worker
import celery.concurrency.thread
import celery.result
import click
import redis
import uvicorn
import uvicorn.supervisors.multiprocess
from billiard.einfo import ExceptionInfo
from celery import Celery, Task, current_task, signals
from celery._state import _get_active_apps, task_join_will_block
from celery.app.utils import find_app
from celery.bin.base import CLIContext
from celery.bin.worker import worker as celery_worker
from celery.exceptions import ImproperlyConfigured, WorkerLostError
from celery.platforms import SecurityWarning
from celery.utils.log import worker_logger
from celery.worker import state
from kombu.utils.url import maybe_sanitize_url
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry
from uvicorn.config import STARTUP_FAILURE

if __name__ == "__mp_main__":
    sys.path.insert(0, first_folder)

logger = logging.getLogger("uvicorn.error")


def fail(message: str) -> NoReturn:
    """Log `message`, one line that says what is wrong and what to type next, and exit."""
    logger.error(message)
    sys.exit(1)


# --- The command line ------------------------------------------------------------------------------------------------


class Command(click.Command):
    """uvicorn's command, with the options of `celery worker` after `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        uvicorn_args, worker_args = split_args(args)
        rest = super().parse_args(ctx, uvicorn_args)
        parse_worker_args(worker_args)  # so that a mistake ends it here, not in a child process
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- CELERY WORKER OPTIONS]"]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        with formatter.section("Celery worker options, after --"), Celery(set_as_current=False) as stand_in:
            context = worker_context(stand_in)
            context.command.format_options(context, formatter)


def split_args(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments before the first `--`, which are uvicorn's, and those after it, which are the worker's."""
    end = args.index("--") if "--" in args else len(args)
    return list(args[:end]), list(args[end + 1 :])


def parse_worker_args(args: list[str]) -> dict[str, Any]:
    """Return the options of `celery worker` in `args`, with Celery's defaults for those that aren't there."""
    with Celery(set_as_current=False) as stand_in:  # for the app, which is not imported yet
        context = worker_context(stand_in)
        context.command.parse_args(context, list(args))
    return context.params


def worker_context(app: Celery) -> click.Context:
    """Return the click context of Celery's own `worker` command for `app`.

    It also takes -A, an option of `celery` otherwise, and of the pools only those that need no further process.
    """
    app_option = click.Option(["-A", "--app"], help="The Celery app, if importing APP makes none or several.")
    pools = click.Choice(["threads", "solo"])
    pool_option = click.Option(["-P", "--pool"], type=pools, default="threads", help="Pool implementation.")
    others = [param for param in celery_worker.params if param.name != "pool"]
    command = copy.copy(celery_worker)
    command.params = [app_option, pool_option, *others, *app.user_options["worker"]]
    return click.Context(command, info_name="celery worker", obj=CLIContext(app, no_color=False, workdir=None))


@click.pass_context
def main(ctx: click.Context, /, **params: Any) -> None:
    """Run APP, a FastAPI app such as main:app, and its Celery worker in one process.

    APP is looked for in the current directory, then in app/.
    """
    source = ctx.get_parameter_source("app_dir")
    module = params["app"].partition(":")[0]
    if source is click.core.ParameterSource.DEFAULT and not is_module(".", module) and is_module("app", module):
        params["app_dir"] = "app"
    ctx.invoke(uvicorn.main, **params)


def is_module(folder: str, name: str) -> bool:
    """Tell whether the dotted `name` is a module or package below `folder`. Nothing is imported."""
    path = Path(folder, *name.split("."))
    return path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file()


class Config(uvicorn.Config):
    """uvicorn's configuration, and a broker that answers before anything else starts.

    It is made once, in the outermost process. From then on the environment holds what --env-file says, and logging is
    set up. Child processes receive it as it is.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.should_reload or self.workers > 1:
            start_resource_tracker()
        ensure_broker(os.environ.get("CELERY_BROKER_URL") or os.environ.get("REDIS_URL") or "redis://localhost:6379/0")


# --- Redis -----------------------------------------------------------------------------------------------------------


def ensure_broker(url: str) -> None:
    """Return once the Redis at `url` answers. If `url` names this machine and nothing listens there, start one.

    Another kind of broker is left to Celery.

    Raises:
        SystemExit: it doesn't answer within 2 s, or isn't Redis. A line of the log says so.
    """
    if not url.startswith("redis://"):
        return
    # without kombu's own options, and tried once
    client = redis.Redis.from_url(url.partition("?")[0], socket_timeout=1.5, retry=Retry(NoBackoff(), 0))
    server = {"host": "localhost", "port": 6379, **client.get_connection_kwargs()}
    try:
        return within(1.8, lambda: check_redis(client, server))
    except Exception as exc:
        # The latter is for a container's localhost, where it is also an IPv6 address that the container has not.
        nothing_listens = getattr(exc, "errno", None) in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL)
        address = loopback_address(server) if nothing_listens else None
        if address and not multiprocessing.parent_process():  # of which a reload would end the Redis
            return start_redis({**server, "host": address})
        fail_for_broker(url, exc)


def fail_for_broker(url: str, reason: Exception) -> NoReturn:
    fail(
        f"The broker {maybe_sanitize_url(url)} can't be used: {str(reason) or 'no answer'}. Start it, or set "
        "CELERY_BROKER_URL or REDIS_URL to one that answers; on localhost, run.py starts a Redis where none listens."
    )


def within(seconds: float, function: Callable[[], object]) -> None:
    """Call `function`, and raise what it raises, or TimeoutError after `seconds`: a look-up in DNS takes any time."""
    future: Future[object] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except Exception as exc:
            future.set_exception(exc)

    threading.Thread(target=call, daemon=True).start()
    future.result(seconds)


def check_redis(client: redis.Redis, server: dict[str, Any]) -> None:
    """Raise an OSError or a RuntimeError that says why there is no Redis to use."""
    socket.create_connection((server["host"], server["port"]), timeout=1.5).close()
    try:
        client.ping()
    except redis.AuthenticationError as exc:
        raise RuntimeError(f"it refuses the user name or password ({exc})") from None
    except (redis.BusyLoadingError, redis.ResponseError):
        pass  # it is Redis, and Celery will tell what it says
    except redis.RedisError:
        raise RuntimeError(f"what listens on port {server['port']} is not Redis") from None


def loopback_address(server: dict[str, Any]) -> str | None:
    """Return the loopback address of the server's host, IPv4 if it has one; None if it is another machine."""
    addresses = sorted(str(info[4][0]) for info in socket.getaddrinfo(server["host"], server["port"]))
    return addresses[0] if all(ipaddress.ip_address(address).is_loopback for address in addresses) else None


def start_redis(server: dict[str, Any]) -> None:
    """Serve Redis at a loopback address for as long as this process lives, in memory alone.

    By redis-server or valkey-server where there is one, else by fakeredis in a thread of this process.
    """
    host, port = server["host"], server["port"]
    client = redis.Redis(host, port, retry=Retry(ConstantBackoff(0.02), 500))  # for 10 s
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program and (shell := shutil.which("sh")):
        # The shell ends the server when its standard input ends, which it does even if this process is killed. It is a
        # shell as a debugger would follow a second Python, and in a session of its own as Ctrl-C is for this process,
        # which answers it by letting tasks finish.
        options = ["--bind", host, "--port", str(port), "--save", "", "--appendonly", "no"]
        guard = subprocess.Popen(
            [shell, "-c", '"$@" & read -r _; kill $!; wait', "run.py", program, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(guard.communicate)
        threading.Thread(target=end_redis_after, args=(guard, client), daemon=True).start()
    else:
        program = "fakeredis"
        start_fakeredis(host, port)
    try:
        client.ping()
    except redis.RedisError as exc:
        fail(f"{program} did not start at {host}:{port}: {exc}. Start a Redis there by hand.")
    if server.get("password"):
        user = [server.get("username") or "default", "on", f">{server['password']}", "~*", "&*", "+@all"]
        client.execute_command("ACL", "SETUSER", *user)  # type: ignore[no-untyped-call]
    logger.info("Started %s at %s:%d, as nothing listened there; it ends with run.py", Path(program).stem, host, port)


def end_redis_after(guard: subprocess.Popen[bytes], client: redis.Redis) -> None:
    """End the server of `start_redis` if its guard is killed."""
    guard.wait()
    with contextlib.suppress(redis.RedisError):
        client.shutdown(nosave=True)


def start_fakeredis(host: str, port: int) -> None:
    """Serve fakeredis in a thread of this process.

    By an asyncio server, and not by its own: that one has a thread for each client, so that a SUBSCRIBE may come after
    a PUBLISH that was sent later, and it hangs up after a reply that is an error.
    """
    try:
        from fakeredis import FakeServer
        from fakeredis._clients._tcp_server import encode_reply
        from fakeredis.aioredis import AsyncFakeSocket
    except ImportError:
        fail(f"No Redis listens at {host}:{port}. Install redis-server, or type: pip install 'fakeredis[lua]'")
    fake_server = FakeServer()

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"addr": "{}:{}".format(*writer.get_extra_info("peername")), "cmd": "", "resp": 2}
        client = AsyncFakeSocket(fake_server, 0, client_class=redis.Redis, client_info=info)

        async def reply() -> None:
            while True:
                response = await client.responses.get()
                writer.write(encode_reply(response, client._client_info.protocol_version))

        replies = asyncio.create_task(reply())
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                client.sendall(data)
        replies.cancel()
        client.close()
        writer.close()

    async def serve() -> None:
        await (await asyncio.start_server(serve_client, host, port)).serve_forever()

    threading.Thread(target=asyncio.run, args=(serve(),), name="fakeredis", daemon=True).start()


# --- The Celery app --------------------------------------------------------------------------------------------------


def find_celery_app(name: str | None) -> Celery:
    """Return the Celery app that -A names, else the one with tasks among those that importing APP made.

    Raises:
        SystemExit: there is none, or several. A line of the log names them.
    """
    if name:
        problem = "it is something else"
        try:
            if isinstance(app := find_app(name), Celery):
                return app
        except (ImportError, AttributeError) as exc:
            problem = str(exc)
        fail(f"-A {name} names no Celery app: {problem}. Name it as for celery: -- -A module:attribute")
    apps = [app for app in _get_active_apps() if user_tasks(app)]
    # Every app gets a copy of all tasks, `shared` by default, so those with a task's original come first. Celery's
    # fallback app, there if someone used `current_app` early, comes last.
    apps = [app for app in apps if any(map(is_original, user_tasks(app)))] or apps
    apps = [app for app in apps if app.main != "default"] or apps
    if len(apps) == 1:
        return apps[0]
    if not apps:
        fail("Importing the app made no Celery app with tasks. Name the one to run: -- -A module:attribute")
    choices = " or ".join(sorted(f"-- -A {app_name(app)}" for app in apps))
    fail(f"Importing the app made {len(apps)} Celery apps with tasks. Name the one to run: {choices}")


def user_tasks(app: Celery) -> list[Task]:
    """Return the tasks of `app` that aren't Celery's own."""
    app.loader.import_default_modules()  # those that `include`, `imports` and `autodiscover_tasks` name
    return [task for name, task in app.tasks.items() if not name.startswith("celery.")]


def is_original(task: Task) -> bool:
    """Tell whether `task` is what stands in the module that defines it."""
    values = list(vars(sys.modules.get(task.__module__, object)).values())
    return any(isinstance(value, Task) and value == task for value in values)


def app_name(app: Celery) -> str:
    """Return `module:attribute` of `app`, as -A takes it, or its own name if no module has it."""
    for module_name, module in sys.modules.copy().items():
        for attribute, value in vars(module).copy().items():
            if value is app and not module_name.startswith("celery."):
                return f"{module_name}:{attribute}"
    return str(app.main)


def check_broker(app: Celery) -> None:
    """Try the broker that `app` really uses, with the manners of `ensure_broker`."""
    with app.connection_for_write() as connection:
        url = connection.as_uri(include_password=True)
        ensure_broker(url)
        if not url.startswith("redis://"):
            try:
                within(1.8, lambda: connection.ensure_connection(max_retries=1, interval_start=0))
            except Exception as exc:
                fail_for_broker(url, exc)


# --- The worker ------------------------------------------------------------------------------------------------------


class TaskPool(celery.concurrency.thread.TaskPool):
    """Celery's pool of threads, which at the end waits for running tasks until `deadline` only.

    Attributes:
        deadline: a time.monotonic(), in seconds; none by default.
        running: the tasks that run or wait for a thread.
    """

    deadline = float("inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: set[Future[Any]] = set()

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        result = super().on_apply(*args, **kwargs)
        self.running.add(result.f)
        result.f.add_done_callback(self.running.discard)
        return result

    def on_stop(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)
        while self.running and time.monotonic() < self.deadline:
            wait(self.running.copy(), timeout=0.1)
        for request in tuple(state.active_requests) if self.running else ():
            cut_off(request)


def cut_off(request: Any) -> None:
    """Say that a running task is given up, and make its result a failure unless it will be delivered again.

    That is done when it isn't acknowledged yet (acks_late), as the worker then closes its connection.
    """
    fate = "its result is a failure" if request.acknowledged else "it goes back to the queue"
    worker_logger.error("Task %s[%s] was still running and is cut off: %s", request.name, request.id, fate)
    if request.acknowledged:
        try:
            raise WorkerLostError("The worker stopped before the task ended.")
        except WorkerLostError:
            request.on_failure(ExceptionInfo(), return_ok=True)


class Worker(celery.apps.worker.Worker):
    """The worker of the `celery worker` command, less what is the process's: logging, signals, title, banner."""

    def setup_defaults(self, **kwargs: Any) -> None:
        super().setup_defaults(**kwargs)
        if self.pool_cls == "threads":
            self.pool_cls: Any = TaskPool

    def setup_logging(self, colorize: bool | None = None) -> bool:
        options = {"loglevel": self.loglevel, "logfile": self.logfile, "format": None, "colorize": colorize}
        if not signals.setup_logging.send(sender=None, **options):
            WorkerLog.install(self.loglevel)
        return True  # or Celery redirects sys.stdout

    def install_platform_tweaks(self, worker: "Worker") -> None:
        pass

    def set_process_status(self, info: str) -> None:
        pass

    def emit_banner(self) -> None:
        queues = ", ".join(self.app.amqp.queues.consume_from)
        worker_logger.info("%s has %d threads for queues: %s", app_name(self.app), self.concurrency, queues)


class WorkerLog(logging.Handler):
    """Sends Celery's log records to uvicorn's log, each marked as the worker's."""

    @classmethod
    def install(cls, level: int) -> None:
        """Send what Celery logs from `level` up there alone, unless the project gave Celery's logger a handler."""
        celery_logger = logging.getLogger("celery")
        if all(isinstance(handler, logging.NullHandler) for handler in celery_logger.handlers):
            celery_logger.addHandler(cls())
            celery_logger.propagate = False
        celery_logger.setLevel(level)
        # A line for each task as it ends, as uvicorn has for requests; one as it arrives is for debugging.
        logging.getLogger("celery.worker.strategy").setLevel(level if level <= logging.DEBUG else logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            record = copy.copy(record)
            record.msg, record.args = f"worker - {self.message(record)}", None
            logging.getLogger("uvicorn").handle(record)
        except Exception:
            self.handleError(record)

    @staticmethod
    def message(record: logging.LogRecord) -> str:
        """Return the record's message; where it tells the end of a task, with a short id and the runtime."""
        task: dict[str, Any] = getattr(record, "data", None) or {}
        request = state.requests.get(task.get("id"))
        if not request or record.name != "celery.app.trace":
            return record.getMessage()
        runtime = f"{time.time() - request.time_start:.3f}"
        message = str(record.msg) % {**task, "id": task["id"][:8], "runtime": runtime}
        return message if "runtime" in task else f"{message} (in {runtime}s)"


class WorkerThread(threading.Thread):
    """A Celery worker in a thread of this process, with its tasks in further threads.

    As a context manager, it is ready inside the block and ended after it.

    Args:
        app: the Celery app.
        args: those of the `celery worker` command. The pool is threads, the concurrency at least 4, if neither they
            nor the app's settings say otherwise.

    Attributes:
        ready: done once the worker takes tasks, or with the exception that kept it from that.
    """

    worker: Worker

    def __init__(self, app: Celery, args: Sequence[str] = ()) -> None:
        super().__init__(name="celery-worker", daemon=True)
        self.app = app
        self.args = args
        self.ready: Future[None] = Future()

    def __enter__(self) -> "WorkerThread":
        self.start()
        self.ready.result()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(timeout=10)
        self.join()

    def run(self) -> None:
        # With Python's default of 5 ms, each running task may hold up the event loop that long, often in each request.
        # Measured on two cores with GET /ping beside 4 CPU-bound tasks: p50 of 29-35 ms by default, 7-9 ms like this,
        # and the tasks took a tenth longer. https://docs.python.org/3/library/sys.html#sys.setswitchinterval
        sys.setswitchinterval(0.0005)
        self.app.set_default()  # threads start without a current app: https://github.com/celery/celery/issues/6744
        self.app.Worker = self.create_worker
        celery.result.task_join_will_block = join_will_block
        state.should_stop = None
        warnings.simplefilter("ignore", SecurityWarning)  # root is a container's usual user
        args = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        if not self.app.conf.worker_concurrency:
            args += ["--concurrency", str(max(4, os.cpu_count() or 0))]
        args += ["--loglevel", logging.getLevelName(max(logging.DEBUG, logger.getEffectiveLevel()))]
        try:
            context = worker_context(self.app)
            context.command.parse_args(context, [*args, *self.args])
            with context:
                context.command.invoke(context)
            raise RuntimeError("it ended")
        except BaseException as exc:
            if not self.ready.done():
                self.ready.set_exception(exc)

    def create_worker(self, **options: Any) -> Worker:
        """Stand in for `app.Worker`, of which Celery's command makes the worker that it starts."""
        self.worker = Worker(app=self.app, ready_callback=self.on_ready, **options)
        return self.worker

    def on_ready(self, consumer: Any) -> None:
        self.worker.on_consumer_ready(consumer)
        self.ready.set_result(None)

    def stop(self, timeout: float) -> None:
        """Tell a ready worker to end as on SIGTERM, but to wait for running tasks `timeout` seconds at most.

        Tasks that don't run yet go back to the queue. Returns at once; `join` waits. A second call is for less time.
        """
        self.worker.pool.deadline = time.monotonic() + timeout
        if state.should_stop is None:
            signals.worker_shutting_down.send(sender=self.worker.hostname, sig="SIGTERM", how="Warm", exitcode=0)
            state.should_stop = 0
            threading.Thread(target=self.end_blocking_read, daemon=True).start()  # which Redis may not answer

    def is_busy(self) -> bool:
        return self.is_alive() or bool(getattr(self.worker.pool, "running", None))

    def end_blocking_read(self) -> None:
        """Wake an idle worker, which waits for messages in a BRPOP of up to 1 s. It only ends later if that fails.

        By Redis' own CLIENT UNBLOCK: to close the connection could lose a message that is on its way. kombu has no
        public name for it: https://github.com/celery/kombu/blob/main/kombu/transport/redis.py
        """
        with contextlib.suppress(AttributeError, OSError, redis.RedisError):
            channel = self.worker.consumer.task_consumer.channel
            address = "{}:{}".format(*channel._in_poll._sock.getsockname()[:2])
            with channel.conn_or_acquire() as client:
                for connection in client.client_list():
                    if connection["addr"] == address:
                        client.client_unblock(connection["id"])


def join_will_block() -> bool:
    """Tell whether `.get()` is called in a task, where Celery forbids it.

    Celery keeps that in a flag of the process (https://github.com/celery/celery/issues/3189), which here would forbid
    it to request handlers too. `allow_join_result` clears the flag.
    """
    return bool(task_join_will_block() and current_task and not current_task.request.is_eager)


# --- The server ------------------------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """uvicorn's server, with the worker: ready before the first request, stopped after the last."""

    worker: WorkerThread | None = None
    exit_code: Any = 0
    debugged = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        if parent := multiprocessing.parent_process():
            # Python takes a .pyc for current if its source has the same size and the same second of change, which edits
            # in quick succession can have.
            sys.dont_write_bytecode = True
            threading.Thread(target=end_after, args=(parent,), daemon=True).start()
        try:
            super().run(sockets)
        finally:
            if self.worker and self.worker.is_busy():  # Python would wait for the tasks' threads
                logging.shutdown()
                os._exit(self.exit_code)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await self.start_worker()
        except SystemExit:
            # With --workers, uvicorn starts a child again unless it ends with this code.
            sys.exit(STARTUP_FAILURE if self.config.workers > 1 else 1)
        try:
            await super().startup(sockets)
        except SystemExit as exc:
            self.exit_code = exc.code
            await self.stop_worker()
            raise

    async def start_worker(self) -> None:
        _, args = split_args(sys.argv[1:])
        app = find_celery_app(parse_worker_args(args)["app"])
        check_broker(app)
        worker = WorkerThread(app, args)
        worker.start()
        ready = asyncio.wrap_future(worker.ready)
        while not ready.done():
            if self.should_exit:
                sys.exit()
            await asyncio.wait([ready], timeout=0.1)
        try:
            ready.result()
        except (click.ClickException, ImproperlyConfigured) as exc:
            fail(f"The Celery worker can't start: {exc}")
        except Exception as exc:
            logger.error("The Celery worker can't start", exc_info=exc)
            sys.exit(1)
        self.worker = worker

    async def on_tick(self, counter: int) -> bool:
        if self.worker and not self.worker.is_alive():
            logger.error("The Celery worker ended, and without it no task would run. Stopping.")
            self.should_exit, self.exit_code = True, 1
        was_debugged, self.debugged = self.debugged, is_debugged_to_end()
        parent = multiprocessing.parent_process()
        if parent and parent.pid and was_debugged and not self.debugged and not self.should_exit:
            os.kill(parent.pid, signal.SIGTERM)
            self.should_exit = True
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        leave_debugger()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        await self.stop_worker()
        if self.exit_code:
            sys.exit(self.exit_code)

    async def stop_worker(self) -> None:
        """Let running tasks finish for as long as uvicorn lets requests, else for 10 s; on a second Ctrl-C, not."""
        if worker := self.worker:
            timeout = self.config.timeout_graceful_shutdown
            timeout = 10 if timeout is None else timeout
            worker.stop(timeout)
            await wait_while(lambda: worker.is_alive() and not self.force_exit, timeout + 1)
            worker.stop(0)
            await wait_while(worker.is_alive, 1)  # not for ever: its broker may hang


async def wait_while(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


def end_after(parent: multiprocessing.process.BaseProcess) -> None:
    """End this process when its parent, uvicorn's reloader or supervisor, was killed."""
    parent.join()
    os._exit(1)


# --- The debugger ----------------------------------------------------------------------------------------------------


def is_debugged_to_end() -> bool:
    """Tell whether debugpy debugs this process, and to end it if Stop is pressed (`onTerminate` in launch.json).

    In a child process, VS Code's Stop just makes the debugger leave: https://github.com/microsoft/debugpy/issues/1320
    """
    debugger = find_debugger()
    return bool(debugger and debugger.terminate_keyboard_interrupt and debugger.is_attached())


def leave_debugger() -> None:
    """Let what stands at a breakpoint go on, and stop at none any more: the end would wait for it for ever."""
    if debugger := find_debugger():
        api: Any = sys.modules["_pydevd_bundle.pydevd_api"]
        threading.Thread(target=api.PyDevdAPI().request_disconnect, args=(debugger, True)).start()


def find_debugger() -> Any:
    """Return debugpy's debugger of this process, or None.

    It has no public names for what is asked of it here. Other debuggers have a pydevd too, but not all of its names.
    """
    pydevd: Any = sys.modules.get("pydevd")
    debugger = pydevd and pydevd.get_global_debugger()
    return debugger if hasattr(debugger, "terminate_keyboard_interrupt") else None


def start_resource_tracker() -> None:
    """Start the process that multiprocessing adds to the first child, unseen by debugpy, which would debug it too."""
    if sys.platform != "win32":
        pydev_monkey = sys.modules.get("_pydev_bundle.pydev_monkey")
        with getattr(pydev_monkey, "skip_subprocess_arg_patch", contextlib.nullcontext)():
            resource_tracker.ensure_running()


# --- The start -------------------------------------------------------------------------------------------------------

# uvicorn has no option for the classes of its server and configuration, so its own names for them are bound to ours: at
# module level, as a child process imports this file anew. https://github.com/Kludex/uvicorn/blob/main/uvicorn/main.py
if __name__ in ("__main__", "__mp_main__"):
    uvicorn_main: Any = sys.modules["uvicorn.main"]  # as an attribute, uvicorn.main is the command
    uvicorn_multiprocess: Any = sys.modules["uvicorn.supervisors.multiprocess"]
    uvicorn_main.Config = Config
    uvicorn_main.Server = uvicorn_multiprocess.Server = Server

if __name__ == "__main__":
    settings = uvicorn.main.context_settings
    Command("run.py", params=uvicorn.main.params, callback=main, help=main.__doc__, context_settings=settings)()
