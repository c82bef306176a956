"""A process without a network: this one for the length of a test, or a fresh one."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
#: What would decide where the hub's files are, or whether the hub may be asked.
_HUB_VARIABLES = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN")


def block_network(setattr: Callable[[Any, str, Any], None] = setattr) -> list[tuple]:
    """Let every connection fail at once.

    Parameters
    ----------
    setattr : callable
        ``monkeypatch.setattr`` to have the network back after the test.

    Returns
    -------
    list of tuple
        Grows with each attempt to connect.
    """
    attempts: list[tuple] = []

    def refuse(*args: Any, **kwargs: Any) -> None:
        attempts.append(args)
        raise OSError("there is no network in this test")

    for owner, name in (
        (socket.socket, "connect"),
        (socket.socket, "connect_ex"),
        (socket, "getaddrinfo"),
    ):
        setattr(owner, name, refuse)
    return attempts


def in_this_clone() -> dict[str, str]:
    """Environment of a process that imports skbert and the tests from this clone."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"PYTHONPATH": path}


def offline_environment(hub: Path) -> dict[str, str]:
    """Environment of a process of this clone whose hub cache is in the folder `hub`."""
    env = {name: value for name, value in os.environ.items() if name not in _HUB_VARIABLES}
    return env | {"HF_HOME": str(hub), "PYTHONPATH": in_this_clone()["PYTHONPATH"]}


def run_offline(code: str, *arguments: str, folder: Path, **environment: str) -> Any:
    """Run `code` in a fresh process without a network and with an empty hub cache.

    The code finds the attempts to connect in `attempts`, and what is given in `sys.argv[1:]`.
    `folder`, its working directory, is made if it is not there; the hub cache is beside it.

    Returns
    -------
    subprocess.CompletedProcess
        Whose `stdout` and `stderr` are text; the process ended well.
    """
    folder.mkdir(exist_ok=True)
    env = offline_environment(folder.with_name(f"{folder.name}-hub"))
    prologue = "import sys\nfrom tests.offline import block_network\nattempts = block_network()\n"
    done = subprocess.run(
        [sys.executable, "-c", prologue + code, *arguments],
        cwd=folder,
        env=env | environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done
