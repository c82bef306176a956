"""A folder is written whole or not at all. What is in it is not decided here."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

# What a killed process has left is removed when it is older; no write takes so long.
_SECONDS_UNTIL_LEFT = 3600


def replace_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a new folder, and put it in the place of `folder` in one step.

    Parameters
    ----------
    folder : Path
        Need not be there; what is there is deleted afterwards. A link to a folder stays one.
    write : callable
        Given an empty folder beside it.

    Raises
    ------
    OSError
        If the files cannot be written; the old folder is then as it was.
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
    """Give a hidden name beside `path` that nobody else uses; see `remove_left`."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex}")


def remove_left(path: Path) -> None:
    """Delete what killed processes have left under temporary names of `path`, after an hour."""
    for left in path.parent.glob(f".{_escaped(path.name)}-{'[0-9a-f]' * 32}"):
        try:
            if time.time() - left.stat().st_mtime < _SECONDS_UNTIL_LEFT:
                continue
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink()
        except OSError:
            continue  # another process was faster, or it is not ours to delete


def _escaped(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _put_in_place(new: Path, folder: Path) -> None:
    """Let `folder` be `new`; what was there before is then at `new`."""
    try:
        new.rename(folder)  # also over an empty folder, where the system allows it
    except OSError:
        if not folder.exists():
            raise
        _exchange(new, folder)


def _exchange(new: Path, folder: Path) -> None:
    """Exchange two folders.

    In one step where Linux and its file system can. Elsewhere in two, between which `folder` is
    absent for a moment, and complete under another name.
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
    """Have a file, or the names in a folder, on the disk before going on."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
