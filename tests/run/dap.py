"""A small client of the debug adapter protocol, which does what VS Code does.

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
        folder: The folder that is open.
        libs: A folder with a debugpy that isn't the project's. An extension brings its own.
        env: The environment of its terminal.

    Attributes:
        file: The file in the foreground.
        process: The id of the process that is picked from the list of all.
        breakpoints: The line numbers by file.
        exceptions: The exception filters that are ticked.
        sessions: All sessions that were ever started, the root first.
        focus: The session that the buttons act on.
        terminal: The file that keeps what the terminal showed.
    """

    def __init__(self, folder: Path, libs: Path, **env: str) -> None:
        self.folder = folder
        self.libs = libs
        self.env = {**os.environ, **env}
        self.file: Path | None = None
        self.process = 0
        self.focus: Session | None = None
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

    def clear_breakpoints(self) -> None:
        """Remove all breakpoints, also from the sessions that run."""
        files = list(self.breakpoints)
        self.breakpoints.clear()
        for session in self.running_sessions():
            for file in files:
                session.ask("setBreakpoints", source={"path": str(file)}, breakpoints=[])

    def tick(self, filters: list[str]) -> None:
        """Tick these exception filters, and no others, while sessions run."""
        self.exceptions = filters
        for session in self.running_sessions():
            session.ask("setExceptionBreakpoints", filters=filters)

    def press_f5(self, name: str, **changes: Any) -> None:
        """Start the entry `name` of launch.json, and return once the breakpoints are set.

        Args:
            name: The entry's name.
            changes: What differs from the entry.
        """
        self.terminal.touch()
        configuration = {**self.configuration(name), **changes}
        if "connect" in configuration:
            root = self.connect(configuration)
        else:
            args = [sys.executable, str(self.libs / "debugpy" / "adapter")]
            adapter = self.run(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            root = Session(self, adapter.stdout, adapter.stdin, configuration)
        response = root.started.result(TIMEOUT)
        assert response["success"], response

    def configuration(self, name: str) -> dict[str, Any]:
        """Return an entry of launch.json with its variables resolved, and defaults."""
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
            value = value.replace("${command:pickProcess}", str(self.process))
            value = re.sub(r"\$\{env:(\w+)\}", lambda match: self.env.get(match[1], ""), value)
            assert "${" not in value, f"{value} has a variable that this client doesn't know"
        return value

    def connect(self, configuration: dict[str, Any], parent: "Session | None" = None) -> "Session":
        """Start a session with an adapter that listens."""
        address = configuration["connect"]["host"], configuration["connect"]["port"]
        stream = socket.create_connection(address, TIMEOUT)
        stream.settimeout(None)
        # The two files keep it open.
        with stream:
            files = stream.makefile("rb"), stream.makefile("wb")
            return Session(self, *files, configuration, parent)

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
        """Return where a thread stopped. The editor shows it, and its buttons act on it."""
        return self.stops.get(timeout=TIMEOUT)

    def press_stop(self) -> None:
        """Press Shift+F5 once. In a session that has attached, as to a child, it disconnects."""
        assert self.focus
        if self.focus.configuration["request"] == "launch":
            self.focus.send("terminate")
        else:
            self.focus.disconnect(terminateDebuggee=False)

    def move_focus(self, ended: "Session") -> None:
        """Move the focus from a session that has ended: the parent of that comes last."""
        if self.focus is ended:
            sessions = self.running_sessions()
            others = [session for session in sessions if session is not ended.parent]
            stopped = [session for session in sessions if session.is_stopped]
            self.focus = next(iter([*stopped, *others, *sessions]), None)

    def running_sessions(self) -> list["Session"]:
        return [session for session in self.sessions if not session.ended.is_set()]

    def is_debugging(self) -> bool:
        return bool(self.running_sessions())

    def running(self) -> list[psutil.Process]:
        """Return what still runs of the processes that were ever started, with those below them."""
        for process in self.processes.copy():
            with contextlib.suppress(psutil.NoSuchProcess):
                self.processes.update(process.children(recursive=True))
        return [process for process in self.processes if is_alive(process)]


class Session:
    """A debug session. The editor has one for each process that is debugged.

    Attributes:
        parent: The session of the parent process, if that is debugged, too.
        started: The response to come once the breakpoints are set.
        ended: Set once the adapter has closed the session.
        is_stopped: Whether a thread is paused.
        is_in_shutdown: Whether its end was requested.
        output: What the adapter wrote for the Debug Console.
    """

    def __init__(
        self,
        editor: Editor,
        reader: BinaryIO,
        writer: BinaryIO,
        configuration: dict[str, Any],
        parent: "Session | None" = None,
    ) -> None:
        self.editor = editor
        self.reader = reader
        self.writer = writer
        self.configuration = configuration
        self.parent = parent
        self.ended = threading.Event()
        self.is_stopped = False
        self.is_in_shutdown = False
        self.output = ""
        self.responses: list[Future[dict[str, Any]]] = []
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.send("initialize", adapterID="debugpy", **CAPABILITIES)
        self.started = self.send(configuration["request"], **configuration)
        editor.sessions.append(self)
        editor.focus = editor.focus or self
        self.thread.start()

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
        # The session may have ended.
        with self.lock, contextlib.suppress(OSError, ValueError):
            self.responses.append(Future())
            body = json.dumps({"seq": len(self.responses), **message}).encode()
            self.writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
            self.writer.flush()
        return self.responses[-1]

    def read(self) -> None:
        # The adapter ends when they are closed.
        with contextlib.suppress(OSError), self.reader, self.writer:
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
        self.editor.move_focus(self)

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
        self.is_stopped = True
        self.editor.focus = self
        self.editor.stops.put(Stop(self, event["body"]["threadId"], event["body"]["reason"]))

    def on_terminated(self, _: dict[str, Any]) -> None:
        self.disconnect()

    def on_continued(self, _: dict[str, Any]) -> None:
        self.is_stopped = False

    def on_output(self, event: dict[str, Any]) -> None:
        self.output += event["body"]["output"]

    def disconnect(self, **arguments: Any) -> None:
        """Request the end of the session once, as VS Code does. A second request may crash it."""
        if not self.is_in_shutdown:
            self.is_in_shutdown = True
            self.send("disconnect", **arguments)

    def on_runInTerminal(self, request: dict[str, Any]) -> None:
        self.respond(request, processId=self.editor.run_in_terminal(request["arguments"]).pid)

    def on_startDebugging(self, request: dict[str, Any]) -> None:
        """Debug a child process in a session of its own."""
        arguments = request["arguments"]
        configuration = {**arguments["configuration"], "request": arguments["request"]}
        self.editor.connect(configuration, parent=self)
        self.respond(request)

    def respond(self, request: dict[str, Any], **body: Any) -> None:
        answer = partial(self.write, type="response", success=True)
        answer(request_seq=request["seq"], command=request["command"], body=body)


CAPABILITIES = {
    "supportsRunInTerminalRequest": True,
    "supportsStartDebuggingRequest": True,
    "pathFormat": "path",
    "linesStartAt1": True,
}


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
        # See `function`.
        return [
            (
                str(frame["name"]).removesuffix(" (Current frame)"),
                Path(frame["source"]["path"]).name,
                frame["line"],
            )
            for frame in self.frames
        ]

    @property
    def file(self) -> Path:
        return Path(self.frame["source"]["path"])

    @property
    def function(self) -> str:
        # Debugpy adds the suffix at an exception.
        return str(self.frame["name"]).removesuffix(" (Current frame)")

    @property
    def locals(self) -> dict[str, str]:
        scopes = self.session.ask("scopes", frameId=self.frame["id"])["scopes"]
        variables = self.session.ask(
            "variables", variablesReference=scopes[0]["variablesReference"]
        )["variables"]
        return {variable["name"]: variable["value"] for variable in variables}

    @property
    def exception(self) -> str:
        """The text of the exception that it stopped at, which the editor shows in the code."""
        return str(self.session.ask("exceptionInfo", threadId=self.thread)["description"])

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
        self.session.is_stopped = False
        self.session.ask("continue", threadId=self.thread)

    def step_into(self) -> None:
        self.session.ask("stepIn", threadId=self.thread)

    def step_over(self) -> None:
        self.session.ask("next", threadId=self.thread)

    def step_out(self) -> None:
        self.session.ask("stepOut", threadId=self.thread)
