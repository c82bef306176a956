"""Writing a folder completely or not at all. The caller decides what it contains."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

# Temporary files of killed processes are deleted after this time. Every write is faster.
_SECONDS_UNTIL_LEFT = 3600


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, then replace `folder` with it in one step.

    Parameters
    ----------
    folder : Path
        Need not exist; its old content is deleted last. A link to a folder stays a link.
    write : callable
        Called with an empty folder beside `folder`.

    Raises
    ------
    OSError
        If the files cannot be written; the old folder then stays unchanged.
    """
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_left(folder)
    new = temporary_name(folder)
    new.mkdir()
    try:
        write(new)
        for path in new.iterdir():
            sync(path)
        sync(new)
        _put_in_place(new, folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    sync(folder.parent)


def temporary_name(path: Path) -> Path:
    """Create a unique hidden name beside `path`; see `remove_left`."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


def remove_left(path: Path) -> None:
    """Delete temporary files and folders of `path` that killed processes left over an hour ago."""
    for left in path.parent.glob(f".{_escaped(path.name)}-{'[0-9a-f]' * 32}"):
        try:
            if time.time() - left.stat().st_mtime < _SECONDS_UNTIL_LEFT:
                continue
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        except OSError:
            continue  # another process was faster, or we have no permission


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _put_in_place(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`; an old folder with files gets the name `new`."""
    try:
        new.rename(folder)  # also over an empty folder, where the system allows it
    except OSError:
        if not folder.exists():
            raise
        _exchange(new, folder)


def _exchange(new: Path, folder: Path) -> None:
    """Exchange two folders.

    Linux does it in one step if the file system supports that. Elsewhere it takes several renames,
    between which `folder` does not exist for a moment, but is complete under another name.
    """
    at_working_directory, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of renameat2(2)
    if sys.platform == "linux":
        renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        paths = os.fsencode(new), os.fsencode(folder)
        if renameat2 is not None and not renameat2(
            at_working_directory, paths[0], at_working_directory, paths[1], exchange
        ):
            return
    aside = temporary_name(folder)
    folder.rename(aside)
    try:
        new.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    aside.rename(new)


def sync(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
