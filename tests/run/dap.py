"""A small client of the debug adapter protocol that does what VS Code and its Python debugger extension do.

https://microsoft.github.io/debug-adapter-protocol/specification
"""

import contextlib
import json
import os
import queue
import re
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import json5
import psutil
from command import is_alive

TIMEOUT = 30


class Editor:
    """VS Code with a folder open, as a context manager: what still runs after the block is killed.

    Args:
        folder: the one that is open.
        file: the one at hand.
        env: the environment of its terminal.

    Attributes:
        breakpoints: the line numbers by file.
        exceptions: the exception filters that are ticked.
        sessions: those that were ever started, the root first.
        terminal: the file that keeps what the terminal showed.
    """

    def __init__(self, folder: Path, file: Path | None = None, **env: str) -> None:
        self.folder, self.file = folder, file
        self.env = {**os.environ, **env}
        self.breakpoints: dict[Path, list[int]] = {}
        self.exceptions: list[str] = []
        self.sessions: list[Session] = []
        self.stops: queue.Queue[Stop] = queue.Queue()
        self.terminal = folder / "terminal.log"
        self.children: list[psutil.Popen] = []
        self.processes: set[psutil.Process] = set()

    def __enter__(self) -> "Editor":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.running():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for session in self.sessions:
            session.thread.join()
        for child in self.children:
            child.wait()

    def set_breakpoint(self, file: Path, code: str) -> None:
        """Set a breakpoint where `code` stands in `file`."""
        line = next(
            number for number, text in enumerate(file.read_text().splitlines(), 1) if code in text
        )
        self.breakpoints[file] = [line]

    def press_f5(self, name: str, **changes: Any) -> None:
        """Start the entry `name` of launch.json, with `changes` to it, and return once the breakpoints are set."""
        self.terminal.touch()
        configuration = {**self.configuration(name), **changes}
        if configuration["request"] == "attach":
            root = self.connect(configuration)
        else:
            args = [sys.executable, "-m", "debugpy.adapter"]
            adapter = self.run(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            root = Session(self, adapter.stdout, adapter.stdin, configuration)
        root.started.result(TIMEOUT)

    def configuration(self, name: str) -> dict[str, Any]:
        """Return an entry of launch.json with its variables resolved and the extension's defaults."""
        launch = json5.loads((self.folder / ".vscode" / "launch.json").read_text())
        entry = next(entry for entry in launch["configurations"] if entry["name"] == name)
        defaults = {"justMyCode": True, "debugOptions": ["ShowReturnValue"]}
        if entry["request"] == "launch":
            defaults |= {
                "cwd": str(self.folder),
                "console": "integratedTerminal",
                "python": sys.executable,
            }
        resolved: dict[str, Any] = self.resolve(entry)
        return defaults | resolved

    def resolve(self, value: Any) -> Any:
        """Replace the variables in the texts of `value`."""
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if isinstance(value, str):
            value = value.replace("${workspaceFolder}", str(self.folder)).replace(
                "${file}", str(self.file)
            )
            value = re.sub(r"\$\{env:(\w+)\}", lambda match: self.env.get(match[1], ""), value)
            assert "${" not in value, f"{value} has a variable that this client doesn't know"
        return value

    def connect(self, configuration: dict[str, Any]) -> "Session":
        """Start a session with an adapter that listens."""
        address = configuration["connect"]["host"], configuration["connect"]["port"]
        stream = socket.create_connection(address, TIMEOUT)
        stream.settimeout(None)
        with stream:  # the two files keep it open
            return Session(self, stream.makefile("rb"), stream.makefile("wb"), configuration)

    def run(self, args: list[str], **options: Any) -> psutil.Popen:
        self.children.append(psutil.Popen(args, start_new_session=True, **options))
        self.processes.add(self.children[-1])
        return self.children[-1]

    def run_in_terminal(self, arguments: dict[str, Any]) -> psutil.Popen:
        with self.terminal.open("ab") as output:
            return self.run(
                arguments["args"],
                cwd=arguments["cwd"],
                env={**self.env, **arguments["env"]},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_for_stop(self) -> "Stop":
        """Return where a thread stopped, which is shown from then on, and is the one that buttons act on."""
        return self.stops.get(timeout=TIMEOUT)

    def press_stop(self) -> None:
        """Press Shift+F5 once: it goes to the session in focus, that of the last stop. A child's only disconnects."""
        sessions = [session for session in self.sessions if not session.ended.is_set()]
        session = next((session for session in sessions if session.in_focus), sessions[0])
        if session.configuration["request"] == "launch":
            session.send("terminate")
        else:
            session.disconnect()

    def is_debugging(self) -> bool:
        return not all(session.ended.is_set() for session in self.sessions)

    def running(self) -> list[psutil.Process]:
        """Return what still runs of the processes that were ever started, with those below them."""
        for process in self.processes.copy():
            with contextlib.suppress(psutil.NoSuchProcess):
                self.processes.update(process.children(recursive=True))
        return [process for process in self.processes if is_alive(process)]


class Session:
    """A debug session, of which the editor has one for each process that is debugged.

    Attributes:
        started: the response to come once the breakpoints are set.
        ended: set once the adapter has closed it.
        in_focus: whether it's the last that stopped.
        in_shutdown: whether its end was asked for.
    """

    def __init__(
        self, editor: Editor, reader: BinaryIO, writer: BinaryIO, configuration: dict[str, Any]
    ) -> None:
        self.editor, self.reader, self.writer, self.configuration = (
            editor,
            reader,
            writer,
            configuration,
        )
        self.ended = threading.Event()
        self.in_focus = self.in_shutdown = False
        self.responses: list[Future[dict[str, Any]]] = []
        self.lock = threading.Lock()
        editor.sessions.append(self)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        self.send(
            "initialize", adapterID="debugpy", supportsRunInTerminalRequest=True, **CAPABILITIES
        )
        self.started = self.send(configuration["request"], **configuration)

    def send(self, command: str, **arguments: Any) -> Future[dict[str, Any]]:
        """Send a request, and return its response to come."""
        return self.write(type="request", command=command, arguments=arguments)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request, and return the body of its response."""
        response = self.send(command, **arguments).result(TIMEOUT)
        assert response["success"], response
        body: dict[str, Any] = response.get("body", {})
        return body

    def write(self, **message: Any) -> Future[dict[str, Any]]:
        with self.lock, contextlib.suppress(OSError, ValueError):  # the session may have ended
            self.responses.append(Future())
            body = json.dumps({"seq": len(self.responses), **message}).encode()
            self.writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            self.writer.flush()
        return self.responses[-1]

    def read(self) -> None:
        with (
            contextlib.suppress(OSError),
            self.reader,
            self.writer,
        ):  # the adapter ends as they're closed
            while header := self.reader.readline():
                self.reader.readline()
                message = json.loads(self.reader.read(int(header.split(b":")[1])))
                if message["type"] == "response":
                    self.responses[message["request_seq"] - 1].set_result(message)
                    if message["command"] == "disconnect":
                        break
                elif handle := getattr(
                    self, f"on_{message.get('event') or message['command']}", None
                ):
                    handle(message)
        self.ended.set()

    def on_initialized(self, _: dict[str, Any]) -> None:
        for file, lines in self.editor.breakpoints.items():
            self.send(
                "setBreakpoints",
                source={"path": str(file)},
                breakpoints=[{"line": line} for line in lines],
            )
        self.send("setExceptionBreakpoints", filters=self.editor.exceptions)
        self.send("configurationDone")

    def on_stopped(self, event: dict[str, Any]) -> None:
        for session in self.editor.sessions:
            session.in_focus = session is self
        self.editor.stops.put(Stop(self, event["body"]["threadId"], event["body"]["reason"]))

    def on_terminated(self, _: dict[str, Any]) -> None:
        self.disconnect()

    def disconnect(self) -> None:
        """Ask to end the session, once, as VS Code does: at a second time the adapter may crash, and kill all."""
        if not self.in_shutdown:
            self.in_shutdown = True
            self.send("disconnect")

    def on_runInTerminal(self, request: dict[str, Any]) -> None:
        self.respond(request, processId=self.editor.run_in_terminal(request["arguments"]).pid)

    def on_startDebugging(self, request: dict[str, Any]) -> None:
        """Debug a child process in a session of its own."""
        arguments = request["arguments"]
        self.editor.connect({**arguments["configuration"], "request": arguments["request"]})
        self.respond(request)

    def respond(self, request: dict[str, Any], **body: Any) -> None:
        answer = partial(self.write, type="response", success=True)
        answer(request_seq=request["seq"], command=request["command"], body=body)


CAPABILITIES = {"supportsStartDebuggingRequest": True, "pathFormat": "path", "linesStartAt1": True}


@dataclass
class Stop:
    """A thread that has stopped."""

    session: Session
    thread: int
    reason: str

    @property
    def frame(self) -> dict[str, Any]:
        return self.frames[0]

    @property
    def frames(self) -> list[dict[str, Any]]:
        frames: list[dict[str, Any]] = self.session.ask("stackTrace", threadId=self.thread)[
            "stackFrames"
        ]
        return frames

    @property
    def call_stack(self) -> list[tuple[str, str, int]]:
        """The function, file name and line of each frame, the innermost first."""
        names = [
            str(frame["name"]).removesuffix(" (Current frame)") for frame in self.frames
        ]  # see `function`
        return [
            (name, Path(frame["source"]["path"]).name, frame["line"])
            for name, frame in zip(names, self.frames, strict=True)
        ]

    @property
    def file(self) -> Path:
        return Path(self.frame["source"]["path"])

    @property
    def function(self) -> str:
        return str(self.frame["name"]).removesuffix(
            " (Current frame)"
        )  # which debugpy adds at an exception

    @property
    def locals(self) -> dict[str, str]:
        scopes = self.session.ask("scopes", frameId=self.frame["id"])["scopes"]
        variables = self.session.ask(
            "variables", variablesReference=scopes[0]["variablesReference"]
        )["variables"]
        return {variable["name"]: variable["value"] for variable in variables}

    @property
    def pid(self) -> int:
        return int(self.evaluate("__import__('os').getpid()"))

    def evaluate(self, expression: str, frame: int = 0) -> str:
        """Return the value of an expression in a frame, by default in the innermost."""
        return str(
            self.session.ask("evaluate", expression=expression, frameId=self.frames[frame]["id"])[
                "result"
            ]
        )

    def press_continue(self) -> None:
        self.session.ask("continue", threadId=self.thread)

    def step_into(self) -> None:
        self.session.ask("stepIn", threadId=self.thread)

    def step_over(self) -> None:
        self.session.ask("next", threadId=self.thread)

    def step_out(self) -> None:
        self.session.ask("stepOut", threadId=self.thread)
