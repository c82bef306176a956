"""Processes that have imported skbert and computed nothing, for tests that need another process.

A fresh process imports torch and transformers, which takes seconds. These are forks of one process
that has imported them and nothing else, so each starts in milliseconds. Like the processes of
`run_offline`, they have no network and an empty hub cache. What an import prints or changes is
tested in fresh processes: in test_house.py, test_pretrained.py and test_process_defaults.py.

The process that forks runs this file, and takes one request at a time from a socket.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.offline import ROOT, block_network, offline_environment

_MOST_BYTES = 2**20  # of a request

#: A process may run for this number of seconds; the process that forks may take as long to answer.
TIMEOUT = 300.0


class PreparedProcess:
    """A running process, as `subprocess.Popen` describes one.

    Attributes
    ----------
    pid : int
    stdin, stdout : file objects of text
    """

    def __init__(self, server: "PreparedProcesses", pid: int, stdin: int, stdout: int) -> None:
        self._server, self.pid, self._code = server, pid, None
        self._deadline = time.monotonic() + server.timeout
        self.stdin, self.stdout = open(stdin, "w"), open(stdout, encoding="utf-8")

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs.

        A process that runs for too long is killed: a TimeoutError.
        """
        if self._code is None:
            self._code = self._server.ask({"poll": self.pid})
        if self._code is None and time.monotonic() > self._deadline:
            self._kill()
            self.wait()
            raise TimeoutError(self._server.describe_timeout(self.pid))
        return self._code

    def wait(self) -> int:
        """Return the exit status when the process has ended."""
        if self._code is None:
            try:
                self._code = self._server.wait(self.pid)
            except TimeoutError:
                self._code = -signal.SIGKILL
                raise
        return self._code

    def _kill(self) -> None:
        if self._code is None:  # until the server has waited for it, its number is not used again
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def __enter__(self) -> "PreparedProcess":
        return self

    def __exit__(self, kind: type | None, *error: Any) -> None:
        if kind is not None:  # the process may wait for what the test no longer does
            self._kill()
        self.stdin.close()
        self.stdout.close()
        self.wait()


class PreparedProcesses:
    """Starts processes that have imported skbert; a context manager.

    Parameters
    ----------
    folder : Path
        For the hub cache.

    Attributes
    ----------
    timeout : float
        After this number of seconds, a process that runs is killed: a TimeoutError.
    """

    timeout = TIMEOUT

    def __init__(self, folder: Path) -> None:
        self._socket, theirs = socket.socketpair()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.prepared", str(theirs.fileno())],
            cwd=ROOT,
            env=offline_environment(folder / "hub"),
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def ask(self, request: dict[str, Any], files: tuple[int, ...] = ()) -> Any:
        """Send a request, and files to the new process; return the answer."""
        self._socket.settimeout(self.timeout)
        with suppress(BrokenPipeError, ConnectionResetError):  # then there is no answer either
            socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], files)
        return self._receive()

    def _receive(self) -> Any:
        answer = b""
        with suppress(ConnectionResetError):
            answer = self._socket.recv(_MOST_BYTES)
        if not answer:
            code = self._server.wait(self.timeout)
            raise RuntimeError(
                f"The process {self._server.pid}, which starts processes, has ended with the exit "
                f"status {code}."
            )
        return json.loads(answer)

    def wait(self, pid: int) -> int:
        """Return the exit status when a process has ended; kill it if that takes too long."""
        try:
            return self.ask({"wait": pid})
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._receive()  # the answer to the question above
            raise TimeoutError(self.describe_timeout(pid)) from None

    def describe_timeout(self, pid: int) -> str:
        """Say which process was killed, and why."""
        return f"The process {pid} has not ended within {self.timeout:g} s and was killed."

    def start(self, code: str, *arguments: str, folder: Path = ROOT) -> PreparedProcess:
        """Start a process that runs `code`; what it writes to stderr goes to that of the test.

        The code finds the attempts to connect in `attempts`, and what is given in `sys.argv[1:]`.
        """
        (stdin, our_stdin), (our_stdout, stdout) = os.pipe(), os.pipe()
        pid = self._start(code, arguments, folder, (stdin, stdout, 2))
        os.close(stdin)
        os.close(stdout)
        return PreparedProcess(self, pid, our_stdin, our_stdout)

    def run(self, code: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
        """Run `code` as `run_offline` does, but not in a fresh process.

        `folder`, its working directory, is made if it is not there.

        Returns
        -------
        subprocess.CompletedProcess
            Whose `stdout` and `stderr` are text; the process ended well.
        """
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with open(os.devnull) as nothing:
                files = (nothing.fileno(), out.fileno(), err.fileno())
                pid = self._start(code, arguments, folder, files)
            try:
                returncode = self.wait(pid)
            except TimeoutError as error:
                err.seek(0)
                error.add_note(err.read().decode())
                raise
            written = []
            for file in (out, err):
                file.seek(0)
                written.append(file.read().decode())
        assert returncode == 0, written[1]
        return subprocess.CompletedProcess([code, *arguments], returncode, *written)

    def _start(
        self, code: str, arguments: tuple[str, ...], folder: Path, files: tuple[int, int, int]
    ) -> int:
        request = {"code": code, "argv": ["-c", *map(str, arguments)], "cwd": str(folder)}
        try:
            return self.ask(request, files)
        except TimeoutError:
            self._server.kill()  # what it answers later would be taken for another answer
            raise TimeoutError(
                f"The process {self._server.pid}, which starts processes, has started none within "
                f"{self.timeout:g} s and was killed."
            ) from None

    def __enter__(self) -> "PreparedProcesses":
        return self

    def __exit__(self, *error: Any) -> None:
        self._socket.close()
        try:
            self._server.wait(self.timeout)
        finally:
            self._server.kill()  # does nothing if it has ended


def _child(request: dict[str, Any], files: list[int], attempts: list[tuple]) -> None:
    """Become the process that was asked for; do not return."""
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.chdir(request["cwd"])
        sys.argv = request["argv"]
        exec(request["code"], {"__name__": "__main__", "sys": sys, "attempts": attempts})
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(requests: socket.socket) -> None:
    attempts = block_network()
    # What skbert imports only when it loads a model, too.
    import joblib  # noqa: F401
    import torch
    import transformers.models.bert.modeling_bert  # noqa: F401
    from transformers import AutoTokenizer, BertTokenizerFast  # noqa: F401

    import skbert

    for name in skbert.__all__:
        getattr(skbert, name)
    n_threads = torch.get_num_threads()
    while True:
        data, files, *_ = socket.recv_fds(requests, _MOST_BYTES, 3)
        while data and not data.endswith(b"\n"):
            data += requests.recv(_MOST_BYTES)
        if not data:
            return
        request = json.loads(data)
        answer = None
        if "code" in request:
            answer = os.fork()
            if answer == 0:
                requests.close()
                torch.set_num_threads(n_threads)  # as in a process that is no fork
                _child(request, files, attempts)
            for file in files:
                os.close(file)
        else:
            [(kind, pid)] = request.items()
            ended, status = os.waitpid(pid, os.WNOHANG if kind == "poll" else 0)
            answer = os.waitstatus_to_exitcode(status) if ended else None
        requests.sendall(json.dumps(answer).encode())


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
