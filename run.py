"""Run a FastAPI app and its Celery worker in one process, for development.

    python run.py main:app --reload
    python run.py main:app --port 8080 -- --concurrency 8 --loglevel debug

uvicorn serves APP with one thing more: a lifespan that starts a Celery worker before APP's own startup and stops it
after APP's own shutdown. When, in which process and how often, is uvicorn's business. Tasks run as threads of that
process, so that one debugger stops in both and one reload renews both. Read on in the order it happens.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures.thread
import contextlib
import contextvars
import functools
import importlib.machinery
import importlib.util
import logging
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

try:
    import celery  # which imports the rest of itself as it is used
    import click
    import uvicorn
    import uvicorn._subprocess
except KeyboardInterrupt:  # Ctrl-C, or Stop in the debugger
    sys.exit(1)  # as click does
except ModuleNotFoundError as exc:
    what = "-r requirements.txt" if os.path.exists("requirements.txt") else "'celery[redis]' 'uvicorn[standard]'"
    python, venv = sys.executable, os.path.join(".venv", "Scripts" if os.name == "nt" else "bin", "python")
    if sys.prefix == sys.base_prefix:  # Debian's Python and others refuse to install into themselves
        python, what = f"{python} -m venv .venv && {venv}", f"{what}, and choose {venv} as the interpreter"
    sys.exit(f"run.py needs {exc.name}. Type: {python} -m pip install {what}")

# --- The command line -------------------------------------------------------------------------------------------------
defaults: dict[str, Any] = {"timeout_graceful_shutdown": 5}  # where uvicorn waits for ever, though a stream may be open
if importlib.util.find_spec("watchfiles"):  # which waits by itself
    defaults["reload_delay"] = 0  # or an edit in the first 250 ms is missed
with contextlib.suppress(ImportError, OSError, KeyError, ValueError):  # Python 3.10 can't read it
    pyproject = importlib.import_module("tomllib").loads(Path("pyproject.toml").read_text("utf-8"))
    defaults["app"] = pyproject["tool"]["fastapi"]["entrypoint"]  # as for `fastapi dev`

dashes = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
uvicorn_args, worker_args = sys.argv[1:dashes], sys.argv[dashes + 1 :]
settings: dict[str, Any] = {"app": ""}  # as typed, in the process that serves
exit_code = 0  # unless the worker dies
guards: list[Any] = []  # what ends Redis, each by the pipe to it


@click.command(params=uvicorn.main.params, context_settings={**uvicorn.main.context_settings, "default_map": defaults})
@click.pass_context
def main(ctx: click.Context, /, **params: Any) -> None:
    """Run APP, such as main:app, and its Celery worker in one process. APP is looked for here, then in app/.

    The options of `celery worker` follow after `--`, where --help shows them.
    """
    package, find = params["app"].partition(":")[0].partition(".")[0], importlib.machinery.PathFinder.find_spec
    if not params["app_dir"] and not find(package, [""]) and find(package, ["app"]):
        params["app_dir"] = "app"
    config = uvicorn.Config("", env_file=params["env_file"], workers=params["workers"], log_config=None)
    workers = 1 if params["reload"] else config.workers  # or WEB_CONCURRENCY, perhaps of the file
    if params["lifespan"] == "off":
        raise click.UsageError("--lifespan off: the worker lives in the lifespan. Leave it out.")
    if params["reload"] or workers > 1:
        fork_children()
    if worker_args:  # a mistake is told before APP is imported
        with celery.Celery(set_as_current=False, fixups=[]) as stand_in:  # which import its worker
            if parse_worker_args(stand_in, worker_args)["beat"] and workers > 1:
                raise click.UsageError("-B with several workers: each would send every scheduled task. Leave one out.")
    if params["uds"] is None and params["fd"] is None and listens(params["host"], port := params["port"]):
        sys.exit(error(f"Port {port} is taken. End what listens there, or take another port: --port {port + 1}"))
    ensure_redis(os.environ.get("CELERY_BROKER_URL") or os.environ.get("REDIS_URL") or "redis://localhost:6379/0")
    ensure_redis(os.environ.get("CELERY_RESULT_BACKEND") or "")
    ours = {"app": "__main__:make_app", "factory": True, "interface": "asgi3", "lifespan": "on"}
    ctx.invoke(uvicorn.main, **{**params, **ours})
    threading._shutdown()  # type: ignore[attr-defined] # as Python does at its end, and then this
    atexit._run_exitfuncs()
    os._exit(exit_code)  # results unsubscribe as Python deletes them, for ever if Redis hangs or is fakeredis' thread


def parse_worker_args(app: Any, args: Sequence[str]) -> dict[str, Any]:
    """Return the options of Celery's own `worker` command, and -A, which is one of `celery` otherwise."""
    from celery.bin import base, worker

    app_option = click.Option(["-A", "--app"], help="The Celery app, if importing APP makes none or several.")
    command = click.Command("worker", params=[app_option, *worker.worker.params, *app.user_options["worker"]])
    options = {"obj": base.CLIContext(app, no_color=False, workdir=None), "help_option_names": ["-h", "--help"]}
    return dict(command.make_context("celery worker", ["-P", "threads", *args], **options).params)


def error(message: str) -> int:
    """Write a line as of uvicorn's log, which APP's may have disabled, and return its exit code for a bad start."""
    click.echo(click.style("ERROR", fg="red") + f":    {message}", err=True)
    return 3


# --- Redis ------------------------------------------------------------------------------------------------------------
def ensure_redis(url: str) -> None:
    """Serve a Redis in memory at `url` until this process ends, if that is on this machine and nothing listens."""
    try:
        parts = urlsplit(url)
        host, port, password = parts.hostname or "localhost", parts.port or 6379, unquote(parts.password or "")
        address = min(str(info[4][0]) for info in socket.getaddrinfo(host, port))  # IPv4 first
    except (OSError, ValueError):
        return  # the worker will tell
    if parts.scheme != "redis" or not address.startswith(("127.", "::1")) or listens(host, port):
        return
    if program := os.name == "posix" and (shutil.which("redis-server") or shutil.which("valkey-server")):
        user = ["--user", parts.username or "default", "on", f">{password}", "~*", "&*", "+@all"] if password else []
        command = [program, "--bind", address, "--port", str(port), "--save", "", *user]
        # Until its standard input ends, as with this process; and in a session that has no part in Ctrl-C.
        shell = ["sh", "-c", 'exec >/dev/null 2>&1; "$@" & read -r _; kill -9 $!', "run.py", *command]
        guards.append(subprocess.Popen(shell, stdin=subprocess.PIPE, start_new_session=True))
    elif importlib.util.find_spec("fakeredis"):
        program, serving = "fakeredis", serve_fakeredis(address, port)
        threading.Thread(target=asyncio.run, args=(serving,), name="fakeredis", daemon=True).start()
    else:
        return
    what = f"Starting {Path(program).stem} at {address}:{port}, as nothing listens there"
    click.echo(click.style("INFO", fg="green") + f":     {what}", err=True)
    deadline = time.monotonic() + 10  # then the worker tells
    while not listens(host, port) and time.monotonic() < deadline:
        time.sleep(0.01)


def listens(host: str, port: int) -> bool:
    """Tell whether something accepts connections there."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


async def serve_fakeredis(host: str, port: int) -> None:
    """Serve fakeredis by one event loop. Its own server hangs up at long replies, and on Windows pushes no message."""
    from fakeredis import FakeRedis, FakeServer
    from fakeredis._clients._tcp_server import encode_reply
    from fakeredis.aioredis import AsyncFakeSocket

    database = FakeServer()

    async def serve_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client: Any = AsyncFakeSocket(database, 0, client_class=FakeRedis)
        client.put_response = lambda reply: writer.write(encode_reply(reply, client._client_info.protocol_version))
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**22):  # fakeredis copies what it has of a message at each piece
                client.sendall(data)
        client.close()
        writer.close()

    await (await asyncio.start_server(serve_client, host, port, limit=2**22)).serve_forever()


# --- The process that serves ------------------------------------------------------------------------------------------
def fork_children() -> None:
    """Have uvicorn's child processes be forks of one that has imported libraries, on Linux; no debugger sees forks."""
    if sys.platform == "linux" and "pydevd" not in sys.modules:
        # None of Celery's worker is shared, as packages that watch it patch it first.
        libraries = "fastapi celery.bin.worker celery.backends.redis uvicorn.lifespan.on "
        libraries += "uvicorn.loops.auto uvicorn.protocols.http.auto uvicorn.protocols.websockets.auto"
        multiprocessing.set_forkserver_preload(libraries.split())
        # A SIGTERM to each process, as Procfile runners send it, is not for this one, which tells of its forks' end.
        multiprocessing.resource_tracker.ensure_running()  # which would unblock it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        with contextlib.suppress(OSError):  # else it has no place for its socket: TMPDIR may be too long a path
            multiprocessing.forkserver.ensure_running()  # it imports while this process goes on
            # No public name does it: https://github.com/Kludex/uvicorn/blob/main/uvicorn/_subprocess.py
            uvicorn._subprocess.spawn = multiprocessing.get_context("forkserver")  # type: ignore[assignment]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def end_with_parent() -> None:
    """End this process, in 1.5 s at most, when its parent is killed."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.5)
        os._exit(1)


def make_app() -> Any:
    """Return APP with its worker, in the process that serves it, which this makes ready."""
    settings.update(main.make_context("run.py", uvicorn_args).params)
    if reconfigure := getattr(sys.stdout, "reconfigure", None):
        reconfigure(line_buffering=True)  # what a task prints is seen at once, as by `celery worker`
    atexit.register(print, end="", flush=True)  # which Python does neither in a fork nor after os._exit()
    atexit.register(logging.shutdown)  # which is not registered in a fork any more in Python 3.13
    threading.Thread(target=end_with_parent, name="ends with its parent", daemon=True).start()
    if sys.platform == "linux":  # see `fork_children`
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        multiprocessing.set_start_method(None, force=True)  # APP may choose one, and else has Python's default
    if hasattr(os, "register_at_fork"):  # else uvicorn's handler would keep terminate() from ending what a task forks
        os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    try:
        options = {name: settings[name] for name in ("app", "factory", "interface")}
        config = uvicorn.Config(**options, log_config=None, proxy_headers=False)
        config.load()
        return with_worker(config.loaded_app)
    except Exception as exc:  # the user's own: without the frames that led to their code
        code = error(f"Loading {settings['app']} and its Celery app failed. Mend what is told here:")
        users = users_traceback(exc)
        traceback.print_exception(type(exc), exc, users, chain=bool(users))
        sys.exit(code)


def users_frames() -> Iterator[Any]:
    """Yield the frames of the call stack that run the user's code, the innermost first."""
    return (frame for frame, _ in traceback.walk_stack(sys._getframe(1)) if is_users(frame.f_globals))


def users_line() -> str:
    """Return where the user's code stands, as file:line, or "" if none of it is in the call stack."""
    frame = next(users_frames(), None)
    return f"{frame.f_code.co_filename}:{frame.f_lineno}".removeprefix(os.getcwd() + os.sep) if frame else ""


def users_traceback(exc: BaseException) -> Any:
    """Return the traceback from the user's first frame on; None if there is none."""
    trace = exc.__traceback__
    while trace and not is_users(trace.tb_frame.f_globals):
        trace = trace.tb_next
    return trace


def is_users(module: dict[str, Any]) -> bool:
    """Tell whether a module's globals are of the user's code: APP's package, or no package, Python's, or this file."""
    file, package = module.get("__file__") or "", str(module.get("__name__")).partition(".")[0]
    is_library = file.startswith(os.path.dirname(os.__file__)) or "site-packages" in file or "dist-packages" in file
    is_apps = package == settings["app"].partition(":")[0].partition(".")[0]
    return bool(file) and module is not globals() and (is_apps or not is_library)


# --- The Celery app ---------------------------------------------------------------------------------------------------
def find_celery_app(name: str | None) -> Any:
    """Return the Celery app that -A names, else the one with tasks of those that importing APP made."""
    apps = [celery.app.utils.find_app(name)] if name else celery._state._get_active_apps()
    apps = [app for app in apps if user_tasks(app)]
    # Every app has a copy of each `shared` task: those with originals come first, and Celery's fallback app last.
    apps = [app for app in apps if any(map(is_original, user_tasks(app)))] or apps
    apps = [app for app in apps if app.main != "default"] or apps
    apps.sort(key=lambda app: (app != celery.current_app, app_name(app)))
    if not apps:
        what = f"-A {name} names" if name else "Importing APP made"
        sys.exit(error(f"{what} no Celery app with tasks. Name the one to run: -- -A module:attribute"))
    if len({app.connection_for_read().as_uri(include_password=True) for app in apps}) > 1:
        names = " or ".join(f"-- -A {app_name(app)}" for app in apps)
        sys.exit(error(f"Importing APP made {len(apps)} Celery apps with a broker each. Name the one to run: {names}"))
    for other in apps[1:]:  # the first, which is the current one if that has tasks, does the work of all
        for task in user_tasks(other):
            apps[0].tasks.setdefault(task.name, task)
        for queue in routed_queues(other):
            apps[0].amqp.queues.add(other.amqp.queues[queue])
    return apps[0]


def user_tasks(app: Any) -> list[Any]:
    """Return the tasks of `app` that aren't Celery's own."""
    app.loader.import_default_modules()  # those that `include`, `imports` and `autodiscover_tasks` name
    # Its own come before those that other apps share, or a stub of a task, in an app of the API's, takes its place.
    for task in app._pending:
        celery.local.maybe_evaluate(task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a stub is passed over so
        app.finalize()
    return [task for name, task in app.tasks.items() if not name.startswith("celery.")]


def is_original(task: Any) -> bool:
    """Tell whether `task` is what stands in the module that defines it. A `shared_task` is a proxy for any app's."""
    values = [*vars(sys.modules.get(task.__module__, object)).values()]
    return any(type(it) is not celery.local.Proxy and isinstance(it, celery.Task) and it == task for it in values)


def routed_queues(app: Any) -> list[str]:
    """Return the queues that tasks of `app` may be sent to, all for its worker; not those that only a call names."""
    queues = app.amqp.queues
    routes: list[Any] = [entry.get("options") or {} for entry in app.conf.beat_schedule.values()]
    for task in user_tasks(app):
        with contextlib.suppress(Exception):  # a function may need a call's arguments
            routes.append(app.amqp.router.route({"queue": getattr(task, "queue", None)}, task.name, task_type=task))
    names = {getattr(route.get("queue"), "name", route.get("queue")) for route in routes}
    names = {*names, app.conf.task_default_queue, *queues} - {None}
    return sorted(name for name in names if name in queues or queues.create_missing)


def app_name(app: Any) -> str:
    """Return `module:attribute` of `app`, as -A takes it, or its own name if no module has it."""
    scopes = [(name, getattr(module, "__dict__", {})) for name, module in list(sys.modules.items())]
    users = [(f"{name}:{key}", value) for name, scope in scopes if is_users(scope) for key, value in [*scope.items()]]
    return next((name for name, value in users if value is app), str(app.main))


# --- The worker and its log -------------------------------------------------------------------------------------------
in_task = contextvars.ContextVar("in_task", default=False)  # where `.get()` raises; Celery's own is for the process
lines_told = {""}  # once


def waiting_raises() -> bool:
    """Tell Celery whether `.get()` raises in this thread, and the user that it waits in the event loop."""
    with contextlib.suppress(RuntimeError):  # there is no loop in this thread
        asyncio.get_running_loop()
        if sys._getframe(1).f_code.co_name == "assert_will_not_block" and (line := users_line()) not in lines_told:
            lines_told.add(line)
            told = "%s waits for a task in the event loop, and no request is answered meanwhile. "
            told += "Make the handler a plain def, or type: await run_in_threadpool(result.get)"
            logging.getLogger("uvicorn.error").warning(told, line)
    return in_task.get()


class WorkerThread(threading.Thread):
    """Celery's own worker in a thread of this process, with its tasks in further threads."""

    def __init__(self, app: Any, options: dict[str, Any]) -> None:
        super().__init__(name="celery-worker", daemon=True)
        self.app, self.options, self.ready, self.deadline = app, options, threading.Event(), float("inf")
        self.error, self.ending = "no answer", False
        self.note_broker_error(self.error)  # until there is one

    def run(self) -> None:
        try:
            worker = self.create_worker()
            worker.start()
            if worker.beat:
                worker.beat.join(2)  # it saves its schedule
        except BaseException as exc:
            self.error = str(exc) or repr(exc)

    def create_worker(self) -> Any:
        """Return Celery's worker, made ready for a thread."""
        # Not before APP is imported, as packages that watch Celery patch what a worker then has.
        from celery import beat, platforms, result, signals
        from celery.backends import asynchronous

        self.app.set_default()  # threads start without a current app: https://github.com/celery/celery/issues/6744
        result.task_join_will_block = waiting_raises  # see https://github.com/celery/celery/issues/3189
        result._set_task_join_will_block = in_task.set
        asynchronous.time = Clock()
        beat.EmbeddedService = functools.partial(beat.EmbeddedService, thread=True)  # not a fork of threads
        warnings.simplefilter("ignore", platforms.SecurityWarning)  # root is a container's usual user
        signals.before_task_publish.connect(note_sender)
        signals.task_failure.connect(stop_at_failure)
        signals.setup_logging.connect(set_up_log)
        send = functools.partial(signals.setup_logging.send, None, logfile=None, format=None, colorize=None)
        self.app.log.setup = lambda loglevel, *_, **__: send(loglevel=loglevel)  # or it sets variables and filters
        concurrency = self.options["concurrency"] or max(4, os.cpu_count() or 0)
        ours = {"app": self.app, "concurrency": concurrency, "quiet": True, "ready_callback": self.on_ready}
        # Celery has one flag for the process, and this asks by thread, or what handlers send isn't listened for.
        self.options["pool"].task_join_will_block = celery.local.Proxy(in_task.get)
        worker = self.app.Worker(**{**self.options, **ours})
        threads = concurrent.futures.ThreadPoolExecutor(worker.pool.limit, "celery-task", in_task.set, (True,))
        worker.pool.executor, worker.pool.on_stop = threads, functools.partial(self.drain, worker)
        # As processes of pools do: projects connect there.
        worker.pool.on_start = functools.partial(signals.worker_process_init.send, sender=None)
        if find_debugger():
            apply, call = worker.pool.on_apply, call_from_sender
            worker.pool.on_apply = lambda task, *args, **how: apply(functools.partial(call, task), *args, **how)
        if worker.beat:  # whose own stop() also waits for its thread, and for ever if that has failed
            worker.beat.stop = worker.beat.service.stop
        # Or Celery ends, without what its pool holds, by what is no message and what else kombu may raise.
        consumer = worker.consumer
        consumer.connection_errors = (Exception,)
        reconnect = functools.partial(self.reconnect, consumer.on_connection_error_after_connected)
        consumer.ensure_connected, consumer.on_connection_error_after_connected = self.connect, reconnect
        # By default, a task may hold up the event loop for 5 ms: a GET beside 4 that compute took 30 ms so, and now 4.
        sys.setswitchinterval(min(0.00005 * worker.concurrency, 0.0005))
        return worker

    def connect(self, connection: Any) -> Any:
        """Be back 1 s after the broker is, and tell once that it is gone, not at each try."""
        if connection.get_transport_cls().driver_type == "redis":
            connection.transport_options.setdefault("polling_interval", 0.1)  # else an idle worker waits for 1 s
            if find_debugger():  # where a task may take longer: Redis would deliver it again
                connection.transport_options["visibility_timeout"] = 7 * 24 * 3600
        connection.ensure_connection(self.note_broker_error, None, 1, 0, 1, celery.worker.state.maybe_shutdown)
        self.error = ""
        return connection

    def note_broker_error(self, why: object, *_: object) -> None:
        """Keep why the broker can't be used, and tell it if it could until now."""
        broker = self.app.connection_for_read().as_uri()
        if not self.error:
            logging.getLogger("celery.worker").error("Cannot connect to %s: %s. Trying again each second", broker, why)
        self.error = f"the broker {broker} can't be used: {why}. Start it, or set CELERY_BROKER_URL or REDIS_URL."

    def reconnect(self, prepare: Callable[[Exception], None], exc: Exception) -> None:
        """Have Celery connect anew, unless it is a mistake that ends the start."""
        if not self.ready.is_set() and not isinstance(exc, self.app.connection_for_read().connection_errors):
            raise exc
        with contextlib.suppress(AttributeError):  # of kombu, which closes it twice; the worker would end by it
            prepare(exc)

    def on_ready(self, consumer: Any) -> None:
        """Tell that tasks are taken from now on."""
        queues, log = ", ".join(self.app.amqp.queues.consume_from), logging.getLogger("celery.worker")
        log.info("%s has %d threads for queues: %s", app_name(self.app), consumer.controller.concurrency, queues)
        if any(limit.time_limit or limit.soft_time_limit for limit in [consumer.controller, *user_tasks(self.app)]):
            log.warning("Time limits can't be kept in threads. To have them: -- -P prefork")
        consumer.controller.on_consumer_ready(consumer)
        self.ready.set()

    def stop(self, timeout: float) -> None:
        """Tell the worker to end as on SIGTERM, in `timeout` seconds at most."""
        self.ending = True
        self.deadline = min(self.deadline, time.monotonic() + timeout)
        if celery.worker.state.should_stop is None:
            celery.signals.worker_shutting_down.send(self.options["hostname"], sig="SIGTERM", how="Warm", exitcode=0)
            celery.worker.state.should_stop = 0  # as Celery's handlers of signals do

    def drain(self, worker: Any) -> None:
        """Wait for running tasks, until `deadline` at most. What doesn't run yet goes back to the queue."""
        worker.pool.executor.shutdown(wait=False, cancel_futures=True)
        while celery.worker.state.active_requests and time.monotonic() < self.deadline:
            time.sleep(0.01)
        for request in tuple(celery.worker.state.active_requests):
            fate = "its result is a failure" if request.acknowledged else "it goes back to the queue"
            told = "Task %s[%s] was still running and is cut off: %s"
            logging.getLogger("celery.worker").error(told, request.name, request.id, fate)
            if request.acknowledged:  # at its start, which isn't so with acks_late
                lost = celery.exceptions.WorkerLostError("The worker stopped before the task ended.")
                request.task.backend.mark_as_failure(request.id, lost, request=request._context)
        if state_db := getattr(worker, "_persistence", None):  # of --statedb; Python 3.13's is for this thread alone
            atexit.unregister(state_db.save)
            state_db.save()
        celery.signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)


class WorkerProcess(multiprocessing.context.SpawnProcess):
    """Celery's own command in a process beside the server, for the other pools. It has what `WorkerThread` has."""

    def __init__(self, app: Any, args: Sequence[str]) -> None:
        super().__init__()
        self.command = ["celery", "-q", "-A", app_name(app), "worker", *args]
        self.ready, self.error, self.ending = multiprocessing.get_context("spawn").Event(), "", False

    def run(self) -> None:
        """Run the command, with uvicorn's log, where Ctrl-C is not for it."""
        from celery import __main__, signals

        settings.update(main.make_context("run.py", uvicorn_args).params)
        threading.Thread(target=end_with_parent, daemon=True).start()
        if hasattr(os, "setsid"):
            os.setsid()
        log_config = settings["log_config"] or uvicorn.config.LOGGING_CONFIG
        uvicorn.Config("", log_config=log_config, log_level=settings["log_level"], use_colors=settings["use_colors"])
        signals.setup_logging.connect(set_up_log)
        signals.worker_ready.connect(lambda **_: self.ready.set(), weak=False)
        sys.argv = self.command
        __main__.main()

    def stop(self, timeout: float) -> None:
        self.ending = True
        if self.pid and self.is_alive():
            os.kill(self.pid, signal.SIGTERM if timeout else getattr(signal, "SIGQUIT", signal.SIGTERM))


senders: dict[str, tuple[str, list[Any]]] = {}  # what sent a task, by its id, until its end is told


def note_sender(headers: dict[str, Any], **_: Any) -> None:
    """Note, in this process alone, the user's line that sends a task, and in the debugger its stack with variables."""
    if len(senders) > 10_000:  # other workers took them
        senders.clear()
    frames = users_frames() if find_debugger() else ()
    stack = [(frame.f_code, frame.f_lineno, frame.f_globals, dict(frame.f_locals)) for frame in frames]
    senders[headers["id"]] = users_line(), stack


def set_up_log(loglevel: int, sender: Any, signal: Any, **options: Any) -> None:
    """Set up logging as `celery worker` does, but in uvicorn's log, and leaving what the project has set up itself."""
    if len(signal.receivers) > 1:  # as the project sets up all of it
        return
    logging.basicConfig(level=loglevel, handlers=[WorkerLog()])  # which does nothing if there are handlers
    logging.getLogger("celery").setLevel(loglevel)
    # A line for each task as it ends, as uvicorn has for requests; one as it arrives is for debugging.
    logging.getLogger("celery.worker.strategy").setLevel(loglevel if loglevel <= logging.DEBUG else logging.WARNING)
    options["loglevel"] = loglevel
    celery.signals.after_setup_logger.send(sender, logger=logging.getLogger(), **options)
    celery.signals.after_setup_task_logger.send(sender, logger=logging.getLogger("celery.task"), **options)


class WorkerLog(logging.Handler):
    """Gives records to uvicorn's handlers: those of tasks as in a worker's log, and others as uvicorn shows them."""

    def emit(self, record: logging.LogRecord) -> None:
        is_workers = record.name.partition(".")[0] == "celery" or bool(celery.current_task)
        if not is_workers and record.levelno < logging.WARNING:
            return
        shown, data = logging.makeLogRecord(vars(record)), getattr(record, "data", None)
        if record.name == "celery.app.trace" and data:  # it tells the end of a task
            sender, _ = senders.pop(data["id"], ("", []))
            message = str(record.msg) % {**data, "id": data["id"][:8], "runtime": f"{data.get('runtime', 0):.3f}"}
            shown.msg, shown.args = message.replace("]", f"] from {sender}", 1) if sender else message, None
            if record.exc_info and (exc := record.exc_info[1]):
                shown.exc_info, shown.exc_text = (type(exc), exc, users_traceback(exc)), None
        if is_workers:
            shown.msg = f"worker - {shown.msg}"
        for handler in logging.getLogger("uvicorn").handlers:  # not its logger, which packages that watch logging see
            if record.levelno >= handler.level:
                handler.handle(shown)


def with_worker(app: Any) -> Any:
    """Return the ASGI app with a worker, ready before the first request and ended after app's own shutdown."""
    celery_app = find_celery_app(parse_worker_args(celery.current_app, worker_args)["app"])
    celery_app.set_current()  # for `async def` handlers; see WorkerThread for the others
    level = logging.getLevelName(max(logging.DEBUG, logging.getLogger("uvicorn.error").getEffectiveLevel()))
    queues = ",".join(routed_queues(celery_app))
    # Each of several has a name: RabbitMQ lets no second one of that name have a queue for control.
    name = f"celery{os.getpid()}@%h" if multiprocessing.parent_process() and not settings["reload"] else "celery@%h"
    args = ["--without-gossip", "--without-mingle", "-n", name, "--loglevel", level, "--queues", queues, *worker_args]
    options = parse_worker_args(celery_app, args)
    is_threads = options["pool"].__module__ == "celery.concurrency.thread"
    worker = WorkerThread(celery_app, options) if is_threads else WorkerProcess(celery_app, args)
    timeout = settings["timeout_graceful_shutdown"]  # in seconds, as for requests

    def handle_signal(handle: Any, sig: int, frame: Any) -> None:
        if sig == signal.SIGINT and worker.ending:  # a second Ctrl-C lets no task finish
            worker.stop(0)
        worker.ending = True  # or `watch` would take what follows for Stop
        if debugger := find_debugger():  # let what stands at a breakpoint go on, for which uvicorn would wait
            api: Any = sys.modules["_pydevd_bundle.pydevd_api"].PyDevdAPI()
            threading.Thread(target=api.request_disconnect, args=(debugger, True)).start()
        handle(sig, frame)

    async def app_with_worker(scope: Any, receive: Any, send: Any) -> Any:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        worker.start()
        deadline = time.monotonic() + 5  # for its broker: a look-up in DNS takes any time, as does a silent server
        while not worker.ready.wait(0.005):
            why = worker.error
            if not worker.is_alive() or (why and time.monotonic() > deadline and "loading" not in why):
                error(f"The Celery worker can't start: {why or 'its log says why'}")
                return await send({"type": "lifespan.startup.failed"})
        threading.Thread(target=watch, args=(worker,), name="watches the worker", daemon=True).start()
        for sig in signal.SIGINT, signal.SIGTERM:  # until uvicorn sets back its own, and so these
            signal.signal(sig, functools.partial(handle_signal, signal.getsignal(sig)))

        async def send_after_worker(message: dict[str, str]) -> None:
            if message["type"] != "lifespan.startup.complete":
                worker.stop(timeout)
                await asyncio.to_thread(worker.join, timeout + 1)  # not for ever: its broker may hang
            await send(message)

        try:
            await app(scope, receive, send_after_worker)
        finally:  # also on a second Ctrl-C, by which uvicorn shuts down no lifespan
            worker.stop(0)
            worker.join(5)  # by which a worker's process has put back its messages
            for process in multiprocessing.active_children():
                if not process.daemon:  # Python would wait for it; those of a pool it ends itself
                    process.kill()
            if worker.is_alive() or celery.worker.state.active_requests:  # for what is cut off, Python would wait
                concurrent.futures.thread._threads_queues.clear()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()  # as uvicorn may end this process by the signal that it got

    return app_with_worker


def watch(worker: WorkerThread | WorkerProcess) -> None:
    """End the process if the worker ends, as no task would run any more; and its parent, if Stop is pressed."""
    global exit_code
    parent, looks = getattr(multiprocessing.parent_process(), "pid", None), 99  # since the debugger has left
    while worker.is_alive() and not worker.ending:
        time.sleep(0.1)
        debugger = find_debugger()
        is_debugged = debugger and debugger.terminate_keyboard_interrupt and debugger.is_attached()
        looks = 0 if is_debugged else looks + 1
        if looks == 10 and parent and not worker.ending:  # Stop, as Restart has it back after 0.6 to 0.7 s
            os.kill(parent, signal.SIGTERM)
    if not worker.ending:
        exit_code = 1
        error(f"The Celery worker ended, and without it no task would run: {worker.error or 'its log says why'}")
        if parent and settings["reload"]:  # it would wait for an edit, and so ends this process, too
            os.kill(parent, signal.SIGTERM)
        else:
            signal.raise_signal(signal.SIGINT)  # after which uvicorn returns


# --- The debugger -----------------------------------------------------------------------------------------------------
def find_debugger() -> Any:
    """Return debugpy's debugger of this process, or None. Others have a pydevd too, but not all of its names."""
    pydevd: Any = sys.modules.get("pydevd")
    debugger = pydevd and pydevd.get_global_debugger()
    return debugger if hasattr(debugger, "terminate_keyboard_interrupt") else None


def call_from_sender(target: Any, name: str, task_id: str, *args: Any) -> Any:
    """Call a task's function with the frames of its sender below it in the call stack, as they were then."""
    import debugpy

    def call() -> Any:
        debugpy.trace_this_thread(True)
        return target(name, task_id, *args)

    _, stack = senders.get(task_id, ("", []))
    for code, line, scope, values in stack:
        # Code of the sender's file, function and line that does nothing but the call.
        text = compile("\n" * (line - 1) + "__call__()", code.co_filename, "eval").replace(co_name=code.co_name)
        call = functools.partial(eval, text, {**scope, "__call__": call}, values)
    stack.clear()  # its variables are needed no more
    debugpy.trace_this_thread(False)  # or a breakpoint at the sender's line is hit again
    return call()


class Clock:
    """The `time` of those who wait for a result, which stands while a task does: `.get(timeout=10)` doesn't give up."""

    sleep, paused, last = staticmethod(time.sleep), 0.0, 0.0

    def monotonic(self) -> float:
        """Return the seconds, less those that a task stood at a breakpoint. Who waits asks each second."""
        now, threads = time.monotonic(), [t for t in threading.enumerate() if t.name.startswith("celery-task")]
        if any(getattr(getattr(thread, "additional_info", None), "pydev_state", 1) == 2 for thread in threads):
            self.paused += now - self.last
        self.last = now
        return now - self.paused


def stop_at_failure(sender: Any, exception: BaseException, **_: Any) -> None:
    """Have the debugger stop where a task raised, which Celery catches."""
    debugger, stop = find_debugger(), getattr(sys.modules.get("debugpy"), "trigger_exception_handler", None)
    stops_itself = debugger and debugger.break_on_user_uncaught_exceptions  # by the other box under Breakpoints
    if debugger and stop and not stops_itself and not isinstance(exception, tuple(sender.throws)):
        stop(exception)  # there from 1.8.22 on: https://github.com/microsoft/debugpy/pull/1996


if __name__ == "__main__":
    main(uvicorn_args)
