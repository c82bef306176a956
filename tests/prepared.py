"""Processes that have imported skbert and computed nothing, for tests that need another process.

A fresh process imports torch and transformers, which takes seconds. These are forks of one process
that has imported them and nothing else, so each starts in milliseconds. Like the processes of
`run_offline`, they have no network and an empty hub cache. What an import prints or changes is
tested in fresh processes: in test_house.py, test_pretrained.py and test_process_defaults.py.

The process that forks runs this file, and takes one request at a time from a socket.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from tests.offline import ROOT, block_network, offline_environment

_MOST_BYTES = 2**20  # of a request


class PreparedProcess:
    """A running process, as `subprocess.Popen` describes one.

    Attributes
    ----------
    pid : int
    stdin, stdout : file objects of text
    """

    def __init__(self, server: "PreparedProcesses", pid: int, stdin: int, stdout: int) -> None:
        self._server, self.pid, self._code = server, pid, None
        self.stdin, self.stdout = open(stdin, "w"), open(stdout, encoding="utf-8")

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        if self._code is None:
            self._code = self._server.ask({"poll": self.pid})
        return self._code

    def wait(self) -> int:
        """Return the exit status when the process has ended."""
        if self._code is None:
            self._code = self._server.ask({"wait": self.pid})
        return self._code

    def __enter__(self) -> "PreparedProcess":
        return self

    def __exit__(self, *error: Any) -> None:
        self.stdin.close()
        self.stdout.close()
        self.wait()


class PreparedProcesses:
    """Starts processes that have imported skbert; a context manager.

    Parameters
    ----------
    folder : Path
        For the hub cache.
    """

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
        socket.send_fds(self._socket, [json.dumps(request).encode() + b"\n"], files)
        return json.loads(self._socket.recv(_MOST_BYTES))

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
            returncode = self.ask({"wait": pid})
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
        return self.ask(request, files)

    def __enter__(self) -> "PreparedProcesses":
        return self

    def __exit__(self, *error: Any) -> None:
        self._socket.close()
        self._server.wait()


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
