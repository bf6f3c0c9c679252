"""Run a FastAPI app and its Celery worker in one process, for development.

    python run.py APP [uvicorn options] [-- celery worker options]

    python run.py main:app --reload
    python run.py main:app --port 8080 -- --concurrency 8 --loglevel debug

The two commands it stands for, `uvicorn` and `celery worker`, joined by `--`. The worker's tasks run as threads of the
process that serves the requests, so that one debugger stops in both and one reload renews both. In production, run the
two commands themselves; nothing in the app knows of this file.

Read on in the order it happens: the command line, Redis, the Celery app, the worker, the server, the reload, the
debugger.
"""

import sys
from importlib.util import find_spec

if sys.version_info < (3, 10):  # noqa: UP036
    sys.exit(f"run.py needs Python 3.10 or newer, and this is {sys.version.split()[0]}. Make the venv anew with one.")

import gc

if __name__ in ("__main__", "__mp_main__"):
    gc.disable()  # until the app is imported: it takes a fifth of the time that imports take, and finds nothing

import asyncio
import atexit
import contextlib
import copy
import errno
import importlib
import ipaddress
import itertools
import logging
import multiprocessing
import multiprocessing.connection
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

# A project may have a celery.py or a redis.py of its own. So the libraries are imported without the folder that comes
# first on sys.path: this script's, as Python puts it there, or in a child process uvicorn's --app-dir.
if __name__ in ("__main__", "__mp_main__"):
    first_folder = sys.path.pop(0)

for package in ("celery", "redis", "packaging", "uvicorn"):
    if not find_spec(package):
        sys.exit(f"run.py needs {package}. Type: {sys.executable} -m pip install 'celery[redis]' 'uvicorn[standard]'")

import celery.apps.worker
import celery.beat
import celery.concurrency.thread
import celery.worker.consumer
import click
import redis
import uvicorn
import uvicorn.supervisors
import uvicorn.supervisors.multiprocess
from billiard.einfo import ExceptionInfo
from celery import Celery, Task, current_task, signals
from celery._state import _get_active_apps
from celery.app.defaults import DEFAULTS
from celery.app.routes import MapRoute
from celery.app.utils import find_app
from celery.beat import EmbeddedService
from celery.bin.base import CLIContext
from celery.bin.worker import worker as celery_worker
from celery.concurrency import get_available_pool_names
from celery.concurrency.base import BasePool
from celery.exceptions import ImproperlyConfigured, WorkerLostError
from celery.local import Proxy, maybe_evaluate
from celery.platforms import SecurityWarning
from celery.utils.log import worker_logger
from celery.utils.saferepr import saferepr
from celery.worker import state
from kombu.utils.json import dumps
from kombu.utils.url import maybe_sanitize_url
from redis.backoff import ConstantBackoff, NoBackoff
from redis.retry import Retry
from uvicorn.config import STARTUP_FAILURE

if __name__ == "__mp_main__":
    sys.path.insert(0, first_folder)

logger = logging.getLogger("uvicorn.error")


def fail(message: str, exc_info: Any = None) -> NoReturn:
    """Log `message`, one line that says what is wrong and what to type next, and exit with uvicorn's code for that."""
    logger.error(message, exc_info=exc_info)
    sys.exit(STARTUP_FAILURE)


@contextlib.contextmanager
def loading(what: str) -> Iterator[None]:
    """Fail with the user's own traceback, without the frames that led to their code, if that raises in the block."""
    try:
        yield
    except Exception as exc:
        fail(f"Loading {what} failed. Mend what is told here:", exc_info=(type(exc), exc, user_traceback(exc)))


# What the files begin with that aren't the user's.
NOT_USERS = (__file__, "<frozen ", *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))


def user_traceback(exc: BaseException) -> TracebackType | None:
    """Return the traceback from the first frame that is neither this file's nor a library's; None without such."""
    traceback = exc.__traceback__
    while traceback and traceback.tb_frame.f_code.co_filename.startswith(NOT_USERS):
        traceback = traceback.tb_next
    return traceback


def short_path(path: str) -> Path:
    """Return `path` from the current folder, if it is below that."""
    folder = Path.cwd()
    return Path(path).relative_to(folder) if Path(path).is_relative_to(folder) else Path(path)


# --- The command line -------------------------------------------------------------------------------------------------


class Command(click.Command):
    """uvicorn's command, with the options of `celery worker` after `--`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        uvicorn_args, worker_args = split_args(args)
        rest = super().parse_args(ctx, uvicorn_args)
        options = parse_worker_args(worker_args)  # so that a mistake ends it here, not in a child process
        if options["beat"] and (ctx.params.get("workers") or 1) > 1:
            raise click.UsageError(
                "-B with --workers: each worker would send every scheduled task. Leave one out.", ctx
            )
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

    It also takes -A, an option of `celery` otherwise, and refuses what can't be done in a thread of the server.
    """
    app_option = click.Option(["-A", "--app"], help="The Celery app, if importing APP makes none or several.")
    command = copy.copy(celery_worker)
    command.params = [app_option, *map(copy.copy, celery_worker.params), *app.user_options["worker"]]
    for param in command.params:
        if param.name == "pool":
            param.default, param.type = "threads", click.Choice(get_available_pool_names())  # and imports none
        if param.name in IMPOSSIBLE:
            param.callback = refuse_impossible
    names = ["-h", "--help"]
    obj = CLIContext(app, no_color=False, workdir=None)
    return click.Context(command, info_name="celery worker", help_option_names=names, obj=obj)


TO_HAVE_IT = "To have it, run uvicorn and celery worker."
FOR_PROCESSES = f"is for a pool of processes, and here tasks run in threads. {TO_HAVE_IT}"
OF_THE_PROCESS = "is for a process of the worker's own, and here it is the server's."
IMPOSSIBLE = {
    "pool": f"is threads or solo here, as tasks run in the server's process. {TO_HAVE_IT}",
    "autoscale": "is for a pool of processes. Here up to --concurrency threads start as they are needed.",
    **dict.fromkeys(["max_tasks_per_child", "max_memory_per_child", "pool_start_method"], FOR_PROCESSES),
    **dict.fromkeys(["time_limit", "soft_time_limit"], f"can't be kept: a thread runs to its end. {TO_HAVE_IT}"),
    "logfile": f"{OF_THE_PROCESS} Use uvicorn's --log-config.",
    **dict.fromkeys(["detach", "executable", "pidfile"], f"{OF_THE_PROCESS} Leave it out."),
    **dict.fromkeys(["uid", "gid", "umask"], f"{OF_THE_PROCESS} Start the whole command with it."),
}


def refuse_impossible(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Raise a usage error that says what to do instead if an option of `IMPOSSIBLE` was typed."""
    typed = ctx.get_parameter_source(str(param.name)) is click.core.ParameterSource.COMMANDLINE
    if typed and value not in ("threads", "solo"):
        raise click.UsageError(f"{param.opts[-1]} {IMPOSSIBLE[str(param.name)]}", ctx)
    return value


@click.pass_context
def main(ctx: click.Context, /, **params: Any) -> None:
    """Run APP, a FastAPI app such as main:app, and its Celery worker in one process.

    APP is looked for in the current directory, then in app/.
    """
    source = ctx.get_parameter_source("app_dir")
    module = params["app"].partition(":")[0]
    if source is click.core.ParameterSource.DEFAULT and not is_module(".", module) and is_module("app", module):
        params["app_dir"] = "app"
    if FORKS and (params["reload"] or (params["workers"] or 1) > 1):
        start_fork_server()
    ctx.invoke(uvicorn.main, **params)


def is_module(folder: str, name: str) -> bool:
    """Tell whether the dotted `name` is a module or package below `folder`. Nothing is imported."""
    path = Path(folder, *name.split("."))
    return path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file()


class Config(uvicorn.Config):
    """uvicorn's configuration, made once, in the outermost process. Child processes receive it as it is.

    By then the environment holds what --env-file says, and logging is set up.

    Attributes:
        redis_requests: where a child process sends the URL at which it wants a Redis, which is to outlive the child.
        schedule: the file of -B, unless the app or -s names one: in a folder that outlives reloads and isn't watched.
        environ: the environment of this process, for child processes that are forked off another.
    """

    redis_requests: Connection | None = None
    schedule: str | None = None
    environ: dict[str, str]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.timeout_graceful_shutdown is None:
            self.timeout_graceful_shutdown = 5  # seconds; uvicorn's own is for ever, which an open stream may take
        if self.uds is None and self.fd is None:
            check_port(self.host, self.port)
        if url := os.environ.get("CELERY_BROKER_URL") or os.environ.get("REDIS_URL"):
            ensure_redis(url)
        if self.should_reload or self.workers > 1:
            gc.enable()
            start_resource_tracker()
            requests, self.redis_requests = multiprocessing.Pipe(duplex=False)
            threading.Thread(target=serve_redis_requests, args=(requests,), daemon=True).start()
        if parse_worker_args(split_args(sys.argv[1:])[1])["beat"]:
            folder = tempfile.TemporaryDirectory(prefix="celerybeat-")
            atexit.register(folder.cleanup)
            self.schedule = str(Path(folder.name, DEFAULTS["beat_schedule_filename"]))
        self.environ = dict(os.environ)

    def load_app(self) -> Any:
        with loading(str(self.app)):
            return super().load_app()

    def load(self) -> None:
        with loading(str(self.app)):  # which a factory does
            super().load()
        gc.freeze()  # what is imported stays
        gc.enable()


def check_port(host: str, port: int) -> None:
    """Fail before anything starts if the server could not listen there; psutil, if installed, knows who does."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as sock:
            if sys.platform != "win32":  # where it means something else
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
    except OSError as exc:
        holder = ""
        with contextlib.suppress(Exception):
            import psutil  # type: ignore[import-untyped, unused-ignore]

            [pid] = {c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port}
            holder = f", by process {pid} ({' '.join(psutil.Process(pid).cmdline())[:80]})"
        fail(
            f"Can't listen at {host}:{port}: {exc.strerror}{holder}. End that, or take another port: --port {port + 1}"
        )


# --- Redis ------------------------------------------------------------------------------------------------------------


def ensure_redis(url: str, role: str = "broker", requests: Connection | None = None) -> None:
    """Return once the Redis at `url` answers. If `url` names this machine and nothing listens there, start one.

    A URL of another kind is left to Celery.

    Args:
        url: as Celery takes it.
        role: what it is for, broker or result backend.
        requests: where to ask for its start instead, `Config.redis_requests`.

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
        if not address:
            fail_for(role, url, exc)
    if not requests:
        return start_redis({**server, "host": address})
    requests.send(url)
    deadline = time.monotonic() + 10
    while True:
        try:
            return check_redis(client, server)
        except Exception as exc:
            if time.monotonic() > deadline:
                fail_for(role, url, exc)
        time.sleep(0.02)


def serve_redis_requests(requests: Connection) -> None:
    """Start a Redis wherever a child process asks for one."""
    while True:
        with contextlib.suppress(SystemExit):  # of which the log says why, and the child too
            ensure_redis(requests.recv())


def fail_for(role: str, url: str, reason: Exception) -> NoReturn:
    variable = {"broker": "CELERY_BROKER_URL", "result backend": "CELERY_RESULT_BACKEND"}[role]
    fail(
        f"The {role} {maybe_sanitize_url(url)} can't be used: {str(reason) or 'no answer'}. Start it, or set "
        f"{variable} or REDIS_URL to one that answers; on localhost, run.py starts a Redis where none listens."
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


GUARD = 'exec 3<&0; "$@" & server=$!; { read -r _ <&3; kill $server; } & wait $server; kill $!'
OWNER = "run.py"  # the key in a Redis that run.py started, with the project's folder


def start_redis(server: dict[str, Any]) -> None:
    """Serve Redis at a loopback address for as long as this process lives, in memory alone.

    By redis-server or valkey-server where there is one, else by fakeredis in a thread of this process.
    """
    host, port = server["host"], server["port"]
    retry = Retry(ConstantBackoff(0.02), 500)  # for 10 s
    # The last is for redis-py before 7.2, which meets a refused connection as Python raises it.
    client = redis.Redis(host, port, server.get("db", 0), retry=retry, retry_on_error=[ConnectionError])
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program and (shell := shutil.which("sh")):
        # The shell ends the server when its standard input ends, which it does even if this process is killed. It is a
        # shell as a debugger would follow a second Python, and in a session of its own as Ctrl-C is for this process,
        # which answers it by letting tasks finish.
        options = ["--bind", host, "--port", str(port), "--save", "", "--appendonly", "no"]
        guard = subprocess.Popen(
            [shell, "-c", GUARD, "run.py", program, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(end_guard, guard)
        threading.Thread(target=end_with, args=(guard,), daemon=True).start()
    else:
        program = "fakeredis"
        start_fakeredis(host, port)
    try:
        client.set(OWNER, os.getcwd())
    except redis.RedisError as exc:
        fail(f"{program} did not start at {host}:{port}: {exc}. Start a Redis there by hand.")
    if server.get("password"):
        user = [server.get("username") or "default", "on", f">{server['password']}", "~*", "&*", "+@all"]
        client.execute_command("ACL", "SETUSER", *user)  # type: ignore[no-untyped-call]
    logger.info("Started %s at %s:%d, as nothing listened there; it ends with run.py", Path(program).stem, host, port)


def end_guard(guard: subprocess.Popen[bytes]) -> None:
    try:
        guard.communicate(timeout=2)
    except subprocess.TimeoutExpired:  # a part of it was killed
        os.killpg(guard.pid, signal.SIGKILL)


def end_with(guard: subprocess.Popen[bytes]) -> None:
    """End this process, and so the server of `start_redis`, if that or its guard is killed."""
    guard.wait()
    if guard.stdin and not guard.stdin.closed:
        logger.error("The Redis that run.py started was killed, and with it all that was queued. Stopping.")
        os.kill(os.getpid(), signal.SIGTERM)


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


# --- The Celery app ---------------------------------------------------------------------------------------------------


def find_celery_app(name: str | None) -> Celery:
    """Return the Celery app that -A names, else the one with tasks among those that importing APP made.

    Raises:
        SystemExit: there is none, or several. A line of the log names them.
    """
    if name:
        problem = "it is something else"
        try:
            if isinstance(app := find_app(name), Celery):
                user_tasks(app)
                return app
        except (AttributeError, ImportError) as exc:
            if user_traceback(exc):
                raise
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
    # The tasks of `app` before those that other apps share, as Celery's order is the other way round: so if the API has
    # a stub of a task, by the same name in an app of its own, it doesn't take the task's place.
    while app._pending:
        maybe_evaluate(app._pending.popleft())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is done
        app.finalize()
    return [task for name, task in app.tasks.items() if not name.startswith("celery.")]


def is_original(task: Task) -> bool:
    """Tell whether `task` is what stands in the module that defines it. A `shared_task` is a proxy for any app's."""
    values = list(vars(sys.modules.get(task.__module__, object)).values())
    return any(type(value) is not Proxy and isinstance(value, Task) and value == task for value in values)


def routed_queues(app: Celery) -> list[str]:
    """Return the queues that a task of `app` may be sent to, as its only worker has to consume them all.

    The default queue, those of `task_queues`, `task_routes` and `beat_schedule`, and where each task goes by itself;
    not those that only a call names.
    """
    queues, router = app.amqp.queues, app.amqp.router
    routes: list[Any] = [entry.get("options") or {} for entry in app.conf.beat_schedule.values()]
    for table in router.routes:
        if isinstance(table, MapRoute):
            routes += [*table.map.values(), *table.patterns.values()]
    for task in user_tasks(app):
        options = {"queue": getattr(task, "queue", None)}
        with contextlib.suppress(Exception):  # a router of the user's own may need a call's arguments
            routes.append(router.route(options, task.name, task_type=task))
    found = [route if isinstance(route, str) else dict(route).get("queue") for route in routes]
    names = {app.conf.task_default_queue, *queues, *(getattr(queue, "name", queue) for queue in found if queue)}
    return sorted(name for name in names if name in queues or queues.create_missing)


def app_name(app: Celery) -> str:
    """Return `module:attribute` of `app`, as -A takes it, or its own name if no module has it."""
    for module_name, module in sys.modules.copy().items():
        if (getattr(module, "__file__", None) or "").startswith(NOT_USERS):
            continue  # to look at each of its values would make a copy of the memory that a fork shares
        for attribute, value in vars(module).copy().items():
            if value is app:
                return f"{module_name}:{attribute}"
    return str(app.main)


def check_broker(app: Celery, requests: Connection | None) -> None:
    """Try the broker and the result backend that `app` really uses, with the manners of `ensure_redis`."""
    with app.connection_for_write() as connection:
        url = connection.as_uri(include_password=True)
        ensure_redis(url, "broker", requests)
        ensure_redis(app.conf.result_backend or "", "result backend", requests)
        if url.startswith("redis://"):
            warn_of_owner(url)
        else:
            try:
                within(1.8, lambda: connection.ensure_connection(max_retries=1, interval_start=0))
            except Exception as exc:
                fail_for("broker", url, exc)


def warn_of_owner(url: str) -> None:
    """Say so if the Redis at `url` is one that run.py started for another project."""
    with contextlib.suppress(redis.RedisError):
        client = redis.Redis.from_url(url.partition("?")[0])
        owner, port = os.fsdecode(client.get(OWNER) or ""), client.get_connection_kwargs().get("port", 6379)
        if owner and owner != os.getcwd():
            logger.warning(
                f"The Redis on port {port} is of run.py in {owner}: each may run the other's tasks, and it ends with "
                f"that one. To have another: REDIS_URL=redis://localhost:{port + 1}/0"
            )


# --- The worker -------------------------------------------------------------------------------------------------------


class TaskPool(celery.concurrency.thread.TaskPool):
    """Celery's pool of threads, which at the end waits for running tasks until `deadline` only.

    Attributes:
        deadline: a time.monotonic(), in seconds; none by default.
        running: the tasks that run or wait for a thread.
        unlimited: names of tasks with a time limit, of which it was said that it can't be kept.
    """

    deadline = float("inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.running: set[Future[Any]] = set()
        self.unlimited: set[str] = set()

    def on_start(self) -> None:
        # As the processes of the prefork pool do, and the solo pool: projects connect to databases there.
        signals.worker_process_init.send(sender=self.options["initargs"][1])

    def on_apply(
        self, target: Any, args: Any = None, kwargs: Any = None, callback: Any = None, *_: Any, **options: Any
    ) -> Any:
        limit = options.get("soft_timeout") or options.get("timeout")
        if limit and args[0] not in self.unlimited:
            self.unlimited.add(args[0])
            worker_logger.warning(
                "Task %s has a time limit of %s s, which can't be kept: a thread runs to its end.", args[0], limit
            )

        def tell(outcome: Any) -> None:
            # Not the usual tuple if the task raised SystemExit or KeyboardInterrupt.
            if isinstance(outcome, ExceptionInfo):
                worker_logger.error("Task %s[%s] ended by %s", args[0], args[1], outcome.exception)
                callback.__self__.on_failure(outcome, return_ok=True)
            else:
                callback(outcome)

        result = super().on_apply(target, args, kwargs, tell, *_, **options)
        self.running.add(result.f)
        result.f.add_done_callback(self.running.discard)
        return result

    def on_stop(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)
        while self.running and time.monotonic() < self.deadline:
            wait(self.running.copy(), timeout=0.1)
        for request in tuple(state.active_requests) if self.running else ():
            cut_off(request)
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)


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

    def setup_queues(self, include: Any, exclude: Any = None) -> None:
        super().setup_queues(include or routed_queues(self.app), exclude)

    def setup_logging(self, colorize: bool | None = None) -> bool:
        options = {"loglevel": self.loglevel, "logfile": self.logfile, "format": None, "colorize": colorize}
        if not signals.setup_logging.send(sender=None, **options):
            WorkerLog.install(self.loglevel)
            for signal_, name in (
                (signals.after_setup_logger, "celery"),
                (signals.after_setup_task_logger, "celery.task"),
            ):
                signal_.send(sender=None, logger=logging.getLogger(name), **options)
        return True  # or Celery redirects sys.stdout

    def install_platform_tweaks(self, worker: "Worker") -> None:
        pass

    def set_process_status(self, info: str) -> None:
        pass

    def emit_banner(self) -> None:
        queues = ", ".join(self.app.amqp.queues.consume_from)
        worker_logger.info("%s has %d threads for queues: %s", app_name(self.app), self.concurrency, queues)


class Consumer(celery.worker.consumer.Consumer):
    """Celery's consumer, which is back 2 s after its broker is, and says once that it is gone, not at each try.

    It sends the events of tasks once a second: at once, as Celery does, they made a task's round trip a fifth longer.
    """

    def start(self) -> None:
        self.timer.call_repeatedly(1, self._flush_events)
        super().start()

    def on_send_event_buffered(self) -> None:
        pass

    def shutdown(self) -> None:
        self._flush_events()
        super().shutdown()

    def ensure_connected(self, conn: Any) -> Any:
        connect = conn.ensure_connection

        def keep_connecting(tell: Callable[..., None], _: int, **options: Any) -> Any:
            tries = itertools.count(1)

            def tell_once(*args: Any) -> None:
                if next(tries) == 1:
                    tell(*args)

            return connect(tell_once, None, interval_start=1, interval_step=1, interval_max=2, **options)

        conn.ensure_connection = keep_connecting
        return super().ensure_connected(conn)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        with contextlib.suppress(AttributeError):  # of kombu, which closes it twice; the worker would end by it
            super().on_connection_error_after_connected(exc)


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
        task: dict[str, Any] = getattr(record, "data", None) or {}
        request = state.requests.get(task.get("id")) if record.name == "celery.app.trace" else None
        try:
            record = copy.copy(record)
            message = end_of_task(record, request) if request and request.time_start else record.getMessage()
            record.msg, record.args = f"worker - {message}", None
            logging.getLogger("uvicorn").handle(record)
            if request and record.exc_info and (command := command_to_send(request)):
                worker_logger.info("To send it again: %s", command)
        except Exception:
            self.handleError(record)


def end_of_task(record: Any, request: Any) -> str:
    """Return the message of the record that tells the end of a task, with its short id, its sender and its runtime."""
    runtime = f"{time.time() - request.time_start:.3f}"
    message = str(record.msg) % {**record.data, "id": request.id[:8], "runtime": runtime}
    if sender := request.request_dict.get(SENDER):
        message = message.replace("]", f"] from {sender}", 1)
    return message if "runtime" in record.data else f"{message} (in {runtime}s)"


SENDER = "sent_from"  # a header of a task's message


def note_sender(headers: dict[str, Any], **_: Any) -> None:
    """Note in the headers of a task's message which line of the user's sent it."""
    frame: FrameType | None = sys._getframe(1)
    while frame and frame.f_code.co_filename.startswith(NOT_USERS):
        frame = frame.f_back
    if frame:
        headers[SENDER] = f"{short_path(frame.f_code.co_filename)}:{frame.f_lineno}"


def command_to_send(request: Any) -> str | None:
    """Return the command that sends a task again.

    None if its arguments are long, not JSON, or hidden by `argsrepr`, or if no module has the app.
    """
    if len(request.body) > 1000 or request.content_type != "application/json":
        return None
    args, kwargs = request.args, request.kwargs
    hidden = request.argsrepr not in (saferepr(list(args)), saferepr(tuple(args)))
    if hidden or request.kwargsrepr != saferepr(kwargs) or ":" not in (app := app_name(request.app)):
        return None
    folder = str(short_path(sys.path[0]))
    options = ["--workdir", folder] if folder != "." else []
    options += ["-A", app, "call", request.name]
    for name, value in {"--args": args, "--kwargs": kwargs}.items():
        options += [name, dumps(value)] if value else []  # type: ignore[no-untyped-call]
    if (queue := request.delivery_info["routing_key"]) != request.app.conf.task_default_queue:
        options += ["--queue", queue]
    join = subprocess.list2cmdline if sys.platform == "win32" else shlex.join
    return join([str(short_path(sys.executable)), "-m", "celery", *options])


class WorkerThread(threading.Thread):
    """A Celery worker in a thread of this process, with its tasks in further threads.

    As a context manager, it is ready inside the block and ended after it.

    Args:
        app: the Celery app.
        args: those of the `celery worker` command. The pool is threads, the concurrency at least 4, if neither they
            nor the app's settings say otherwise.
        schedule: the file of -B, if neither they nor the settings name one.

    Attributes:
        ready: done once the worker takes tasks, or with the exception that kept it from that.
    """

    worker: Worker

    def __init__(self, app: Celery, args: Sequence[str] = (), schedule: str | None = None) -> None:
        super().__init__(name="celery-worker", daemon=True)
        self.app = app
        self.args = args
        self.schedule = schedule
        self.ready: Future[None] = Future()

    def __enter__(self) -> "WorkerThread":
        self.start()
        self.ready.result()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(timeout=10)
        self.join()

    def run(self) -> None:
        self.app.set_default()  # threads start without a current app: https://github.com/celery/celery/issues/6744
        self.app.Worker = self.create_worker
        BasePool.task_join_will_block = InTask()
        celery.beat.EmbeddedService = embedded_beat
        signals.before_task_publish.connect(note_sender)
        state.should_stop = None
        warnings.simplefilter("ignore", SecurityWarning)  # root is a container's usual user
        args = ["--task-events", "--without-gossip", "--without-mingle"]
        if self.app.conf.worker_prefetch_multiplier == DEFAULTS["worker_prefetch_multiplier"]:
            args += ["--prefetch-multiplier", "1"]  # so that what is fetched runs at once, and less can get lost
        if not self.app.conf.worker_concurrency:
            args += ["--concurrency", str(max(4, os.cpu_count() or 0))]
        args += ["--loglevel", logging.getLevelName(max(logging.DEBUG, logger.getEffectiveLevel()))]
        if self.schedule and self.app.conf.beat_schedule_filename == DEFAULTS["beat_schedule_filename"]:
            args += ["--schedule", self.schedule]
        try:
            while self.run_worker([*args, *self.args]):
                worker_logger.error("The worker failed, which is told above, and starts again")
            raise click.ClickException("it ended, which is told above")
        except BaseException as exc:
            if not self.ready.done():
                self.ready.set_exception(exc)

    def run_worker(self, args: Sequence[str]) -> bool:
        """Run Celery's command, and return whether it failed after a second or more, as by a message that isn't one."""
        start = time.monotonic()
        context = worker_context(self.app)
        context.command.parse_args(context, list(args))
        try:
            with context:
                context.command.invoke(context)
        except click.exceptions.Exit as exc:
            return bool(exc.exit_code and self.ready.done() and time.monotonic() - start > 1)
        return False

    def create_worker(self, **options: Any) -> Worker:
        """Stand in for `app.Worker`, of which Celery's command makes the worker that it starts."""
        if options["pool"] == "threads":
            options["pool"] = TaskPool
        self.worker = Worker(app=self.app, consumer_cls=Consumer, ready_callback=self.on_ready, **options)
        # With Python's default of 5 ms, each running task may hold up the event loop that long, often in each request.
        # Measured on two cores with GET /ping beside 4 CPU-bound tasks: p50 of 28-38 ms by default, 6-8 ms at 0.2 ms,
        # and the tasks took a fifth to a third longer. With 64: 3.4 times as long, as each thread that waits wakes
        # up once in the interval, and 1.7 times at 0.5 ms.
        # https://docs.python.org/3/library/sys.html#sys.setswitchinterval
        sys.setswitchinterval(min(0.00005 * self.worker.concurrency, 0.0005))
        return self.worker

    def on_ready(self, consumer: Any) -> None:
        self.worker.on_consumer_ready(consumer)
        if not self.ready.done():
            self.ready.set_result(None)

    def stop(self, timeout: float) -> None:
        """Tell a ready worker to end as on SIGTERM, but to wait for running tasks `timeout` seconds at most.

        Tasks that don't run yet go back to the queue. Returns at once; `join` waits. A second call is for less time.
        """
        self.worker.pool.deadline = time.monotonic() + timeout
        if state.should_stop is None:
            signals.worker_shutting_down.send(sender=self.worker.hostname, sig="SIGTERM", how="Warm", exitcode=0)
            state.should_stop = 0
            threading.Thread(target=self.wake, daemon=True).start()  # which the broker may not answer

    def is_busy(self) -> bool:
        return self.is_alive() or bool(getattr(self.worker.pool, "running", None))

    def wake(self) -> None:
        """Wake an idle worker, so that it sees that it is to end. If that fails, it sees it later by itself.

        A message wakes it, which waits for up to 10 s with RabbitMQ. With Redis it waits in a BRPOP of up to 1 s, which
        Redis' own CLIENT UNBLOCK ends: to close the connection could lose a message that is on its way. kombu has no
        public name for it: https://github.com/celery/kombu/blob/main/kombu/transport/redis.py
        """
        with contextlib.suppress(Exception):
            channel = self.worker.consumer.task_consumer.channel
            if not getattr(channel, "_in_poll", None):
                self.app.control.broadcast("ping", destination=[self.worker.hostname])
                return
            address = "{}:{}".format(*channel._in_poll._sock.getsockname()[:2])
            with channel.conn_or_acquire() as client:
                for connection in client.client_list():
                    if connection["addr"] == address:
                        client.client_unblock(connection["id"])


def embedded_beat(app: Celery, **options: Any) -> Any:
    """Return what -B starts, in a thread. Celery's own would be a further process, forked from one with threads."""
    folder = Path(options["schedule_filename"]).absolute().parent
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"beat can't write its schedule in {folder}. Name a file elsewhere: -s FILE")
    return EmbeddedService(app, thread=True, **options)


class InTask:
    """True in a thread that runs a task, where `.get()` raises and result backends don't prepare for replies.

    Celery asks a flag of the process, that its pool sets (https://github.com/celery/celery/issues/3189), which here
    would hold for request handlers too. `allow_join_result` clears the flag.
    """

    def __bool__(self) -> bool:
        return bool(current_task and not current_task.request.is_eager)


# --- The server -------------------------------------------------------------------------------------------------------


class Server(uvicorn.Server):
    """uvicorn's server, with the worker: ready before the first request, stopped after the last."""

    config: Config
    worker: WorkerThread | None = None
    exit_code: Any = 0
    debugged = False

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        if parent := multiprocessing.parent_process():
            # Python takes a .pyc for current if its source has the same size and the same second of change, which edits
            # in quick succession can have.
            sys.dont_write_bytecode = True
            if FORKS:  # off one that blocks it
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
            os.environ.clear()
            os.environ.update(self.config.environ)  # with what --env-file says
            threading.Thread(target=end_after, args=(parent,), daemon=True).start()
        try:
            super().run(sockets)
        finally:
            if self.worker and self.worker.is_busy():  # Python would wait for the tasks' threads
                atexit._run_exitfuncs()
                os._exit(self.exit_code)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.start_worker()
        try:
            await super().startup(sockets)
        except SystemExit as exc:
            self.exit_code = exc.code
            await self.stop_worker()
            raise

    async def start_worker(self) -> None:
        _, args = split_args(sys.argv[1:])
        with loading("the Celery app"):
            app = find_celery_app(parse_worker_args(args)["app"])
        app.set_current()  # for `async def` handlers; see WorkerThread for the others
        check_broker(app, self.config.redis_requests)
        worker = WorkerThread(app, args, schedule=self.config.schedule)
        worker.start()
        ready = asyncio.wrap_future(worker.ready)
        while not ready.done():
            if self.should_exit:
                sys.exit()
            await asyncio.wait([ready], timeout=0.1)
        try:
            ready.result()
        except (click.ClickException, ImproperlyConfigured, OSError) as exc:
            fail(f"The Celery worker can't start: {exc}")
        except Exception as exc:
            fail("The Celery worker can't start.", exc_info=(type(exc), exc, user_traceback(exc)))
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
        """Let running tasks finish for as long as uvicorn lets requests; on a second Ctrl-C, not."""
        if worker := self.worker:
            timeout = self.config.timeout_graceful_shutdown or 0
            worker.stop(timeout)
            await wait_while(lambda: worker.is_alive() and not self.force_exit, timeout + 1)
            worker.stop(0)
            await wait_while(worker.is_alive, 1)  # not for ever: its broker may hang


async def wait_while(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while condition() and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


def end_after(parent: multiprocessing.process.BaseProcess) -> None:
    """End this process, in 1.5 s at most, when its parent, uvicorn's reloader or supervisor, was killed."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1.5)
    os._exit(1)


# --- The reload -------------------------------------------------------------------------------------------------------


FORK_SERVER_KILLED = 255  # the exit code of all its children then
STARTED = time.time()


class Reloader(uvicorn.supervisors.ChangeReload):  # type: ignore[misc, valid-type]  # it is one of two
    """uvicorn's reloader, which ends if its child process is killed.

    Else it would hold the port, and no request would be answered until the next edit.
    """

    process: Any
    has_looked = killed = False

    def run(self) -> None:
        self.lock = threading.Lock()  # of `process`, whose exit code can be read once: a second reader gets another
        super().run()
        if self.killed:
            sys.exit(1)

    def startup(self) -> None:
        super().startup()
        threading.Thread(target=self.watch_child, args=(self.process,), daemon=True).start()

    def restart(self) -> None:
        paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        if max(os.stat(path).st_mtime for path in paths) > STARTED:  # a library has changed
            uvicorn_subprocess.spawn = multiprocessing.get_context("spawn")
        with self.lock:
            super().restart()
        threading.Thread(target=self.watch_child, args=(self.process,), daemon=True).start()

    def pause(self) -> None:
        if self.has_looked:  # else an edit meanwhile would be missed, as the child may have imported the app by then
            super().pause()
        self.has_looked = True

    def shutdown(self) -> None:
        with self.lock:
            super().shutdown()

    def watch_child(self, process: Any) -> None:
        """Wait for the end of a child process, and deal with it if it isn't the reloader's doing."""
        multiprocessing.connection.wait([process.sentinel])
        with self.lock:
            if process is not self.process or self.should_exit.is_set():
                return
            code = process.exitcode
        if code == FORK_SERVER_KILLED or (code < 0 and code != -signal.SIGTERM):  # by which others may end it
            logger.error("The server process was killed (%d). Stopping.", code)
            self.killed = True
            self.should_exit.set()
        elif code > 0:
            logger.error("The server process ended with exit code %d. It starts again at the next edit.", code)


# Child processes are forks of one that has imported the libraries, and nothing of the project, so that neither the
# start nor a reload waits for that, and all share that memory. Not under a debugger, which would not see them.
# https://docs.python.org/3/library/multiprocessing.html#contexts-and-start-methods
FORKS = sys.platform == "linux" and "pydevd" not in sys.modules
LIBRARIES = """
fastapi pydantic.v1 anyio.streams.tls encodings.idna
uvicorn.loops.auto uvicorn.protocols.http.auto uvicorn.protocols.websockets.auto uvicorn.lifespan.on
celery.app.control celery.app.events celery.events celery.fixups.django
celery.worker.autoscale celery.worker.consumer.delayed_delivery celery.worker.strategy
celery.backends.redis kombu.transport.redis
"""


def start_fork_server() -> None:
    """Start multiprocessing's fork server as a fork of this process, which has neither threads nor open files yet.

    By itself it would be a new Python, which imports everything once more.
    """
    for library in LIBRARIES.split():
        with contextlib.suppress(ImportError):
            importlib.import_module(library)
    gc.freeze()  # or the first collection would touch, and so copy, all memory that is shared
    start_resource_tracker()  # which as a fork would keep the old copy of each page that another process changes
    start_python, util.spawnv_passfds = util.spawnv_passfds, fork  # type: ignore[assignment]
    forkserver.ensure_running()
    util.spawnv_passfds = start_python
    uvicorn_subprocess.spawn = multiprocessing.get_context("forkserver")


def fork(_: bytes, args: Sequence[str], files: Sequence[int]) -> int:
    """Stand in for the function by which multiprocessing runs `python -c CODE` with those files left open."""
    if pid := os.fork():
        return pid
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # sent to all processes, it is for the children alone
    for file in {*map(int, os.listdir("/proc/self/fd"))} - {0, 1, 2, *files}:
        with contextlib.suppress(OSError):  # of listdir itself
            os.close(file)
    try:
        exec(args[-1])
    finally:
        os._exit(0)


# --- The debugger -----------------------------------------------------------------------------------------------------


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


# --- The start --------------------------------------------------------------------------------------------------------

# uvicorn has no option for the classes of its server and configuration, so its own names for them are bound to ours: at
# module level, as a child process imports this file anew. https://github.com/Kludex/uvicorn/blob/main/uvicorn/main.py
if __name__ in ("__main__", "__mp_main__"):
    uvicorn_main: Any = sys.modules["uvicorn.main"]  # as an attribute, uvicorn.main is the command
    uvicorn_multiprocess: Any = sys.modules["uvicorn.supervisors.multiprocess"]
    uvicorn_main.ChangeReload = Reloader
    uvicorn_subprocess: Any = sys.modules["uvicorn._subprocess"]
    uvicorn_main.Config = Config
    uvicorn_main.Server = uvicorn_multiprocess.Server = Server

if __name__ == "__main__":
    settings = uvicorn.main.context_settings
    Command("run.py", params=uvicorn.main.params, callback=main, help=main.__doc__, context_settings=settings)()
