"""A test whose process hangs fails, and the process of `tests/prepared.py` that forks goes on."""

import os
import re
import signal

import pytest

from tests.prepared import PreparedProcesses

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

HANGS = "import signal\nprint('waiting', file=sys.stderr, flush=True)\nsignal.pause()\n"


@pytest.fixture
def hasty(prepared, tmp_path, monkeypatch):
    """The processes, of which each may run for a moment only."""
    prepared.run("", folder=tmp_path)  # first, skbert is imported
    monkeypatch.setattr(prepared, "timeout", 0.5)
    yield prepared
    monkeypatch.undo()
    assert prepared.run("print('well')", folder=tmp_path).stdout == "well\n"


def check_killed(error):
    form = r"The process (\d+) has not ended within 0\.5 s and was killed\."
    pid = int(re.fullmatch(form, str(error.value))[1])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_run_that_hangs_fails(hasty, tmp_path):
    with pytest.raises(TimeoutError) as error:
        hasty.run(HANGS, folder=tmp_path)
    check_killed(error)
    assert error.value.__notes__ == ["waiting\n"]


@pytest.mark.parametrize("way", ["wait", "poll", "leave"])
def test_a_started_process_that_hangs_fails(hasty, way):
    with pytest.raises(TimeoutError) as error, hasty.start(HANGS) as process:
        if way == "wait":
            process.wait()
        while way == "poll":
            assert process.poll() is None
    check_killed(error)
    assert process.poll() == -signal.SIGKILL


def test_a_test_that_fails_kills_its_process(prepared):
    with pytest.raises(ZeroDivisionError), prepared.start(HANGS) as process:
        _ = 1 / 0
    assert process.wait() == -signal.SIGKILL


def test_the_end_of_the_process_that_forks_is_an_error(tmp_path):
    with PreparedProcesses(tmp_path) as processes:
        server = processes._server
        server.kill()
        with pytest.raises(RuntimeError) as error:
            processes.run("", folder=tmp_path)
    assert str(error.value) == (
        f"The process {server.pid}, which starts processes, has ended with the exit status -9."
    )


def test_a_process_that_forks_nothing_is_an_error(tmp_path, monkeypatch):
    with PreparedProcesses(tmp_path) as processes:
        monkeypatch.setattr(processes, "timeout", 0.01)  # it needs seconds to import skbert
        with pytest.raises(TimeoutError) as error:
            processes.run("", folder=tmp_path)
        monkeypatch.undo()
    assert str(error.value) == (
        f"The process {processes._server.pid}, which starts processes, has started none within "
        "0.01 s and was killed."
    )
