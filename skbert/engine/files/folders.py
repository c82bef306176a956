"""Writing a folder completely or not at all. The caller decides what it contains."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Temporary files of killed processes are deleted after this time. Every write is faster.
_SECONDS_UNTIL_LEFT = 3600

# Renaming a folder fails with these if it is a mount point, even one that looks like none.
_MOUNTED = {errno.EBUSY, errno.EXDEV}

#: A folder in memory, which Linux has, also where no disk is writable.
MEMORY = "/dev/shm"

#: mkfs creates this folder in the root of a volume. It is no content.
LOST_AND_FOUND = "lost+found"


def replace_folder(folder: Path, write: Callable[[Path], None], index: str) -> None:
    """Let `write` fill a new folder, then replace `folder` with it in one step.

    Some folders cannot be replaced: a mounted volume, the current folder, and a folder in a folder
    without write permission. skbert replaces their files instead, one by one, the index first. A
    failure is undone. If the process is killed between the first file and the last, the hashes in
    the index do not match the files, so that loading raises an error, and saving again works.

    Parameters
    ----------
    folder : Path
        Need not exist; its old content is deleted last. A link to a folder stays a link. An
        existing folder keeps its group and its permissions.
    write : callable
        Called with an empty folder.
    index : str
        Name of the file that lists the others with their hashes.

    Raises
    ------
    OSError
        If the files cannot be written; the old folder then stays unchanged.
    """
    folder = folder.resolve()
    new = None if _is_fixed(folder) else _new_beside(folder)
    if new is None or not _replace_whole(folder, new, write):
        _replace_files(folder, write, index)


def _is_fixed(folder: Path) -> bool:
    """Whether a folder must keep its place: a mount point, the current folder, or one above it."""
    return os.path.ismount(folder) or Path(os.path.abspath(".")).is_relative_to(folder)


def _new_beside(folder: Path) -> Path | None:
    """Create a folder beside `folder` with its group and permissions; None if that is denied."""
    new = temporary_name(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_left(folder)
        new.mkdir()
        if folder.is_dir():
            _copy_group_and_mode(folder, new)
    except OSError as error:
        if new.is_dir():
            new.rmdir()
        if not folder.is_dir():
            raise unwritable(folder, error) from error
        return None
    return new


def _copy_group_and_mode(folder: Path, new: Path) -> None:
    before = folder.stat()
    if before.st_gid != new.stat().st_gid:
        os.chown(new, -1, before.st_gid)
    new.chmod(stat.S_IMODE(before.st_mode) | stat.S_IRWXU)  # also the bit that passes on the group


def _replace_whole(folder: Path, new: Path, write: Callable[[Path], None]) -> bool:
    """Fill `new`, and put it in the place of `folder`; False if `folder` is a mount point."""
    try:
        _fill(new, write)
        try:
            _put_in_place(new, folder)
        except OSError as error:
            if error.errno not in _MOUNTED:
                raise
            return False
    finally:
        shutil.rmtree(new, ignore_errors=True)
    sync(folder.parent)
    return True


def _replace_files(folder: Path, write: Callable[[Path], None], index: str) -> None:
    new = temporary_name(folder / index)
    try:
        remove_left(folder / index)
        new.mkdir()
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        _fill(new, write)
        _move_files(new, folder, index)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    sync(folder)


def _fill(new: Path, write: Callable[[Path], None]) -> None:
    write(new)
    for path in new.iterdir():
        sync(path)
    sync(new)


def _move_files(new: Path, folder: Path, index: str) -> None:
    """Replace the files of `folder` with those of `new`, the index first; undo it on an error."""
    names = sorted((path.name for path in new.iterdir()), key=lambda name: (name != index, name))
    old = sorted(path.name for path in folder.iterdir() if path.is_file())
    aside = new / "old"
    aside.mkdir()
    moved: list[tuple[Path, Path]] = []
    moves = [(folder / name, aside / name) for name in old if name not in names]
    for name in names:
        if name == index and name in old:  # without it, saving again would be refused
            shutil.copy2(folder / name, aside / name)
            moved.append((folder / name, aside / name))
        elif name in old:
            moves.append((folder / name, aside / name))
        moves.append((new / name, folder / name))
    try:
        for source, target in moves:
            source.replace(target)
            moved.append((source, target))
    except BaseException:
        for source, target in reversed(moved):
            target.replace(source)
        raise


def unwritable(folder: Path, error: OSError) -> OSError:
    """Create the error for a folder that the system does not let us read or write."""
    kind = PermissionError if isinstance(error, PermissionError) else OSError
    return kind(
        f"Could not save to {str(folder)!r} ({error}). skbert creates files in this folder or "
        "beside it. Choose a folder that you may write to, or change its permissions."
    )


def usual_mode(path: Path) -> int:
    """Create an empty file, and return its permissions, which the system and the umask give.

    safetensors gives its files to the user alone. The caller sets these permissions afterwards.
    """
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)


def is_temporary(name: str, of: str) -> bool:
    """Whether a name is one that `temporary_name` creates for the name `of`."""
    return re.fullmatch(rf"\.{re.escape(of)}-[0-9a-f]{{32}}", name) is not None


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Create a folder for a few small files; in memory if no temporary folder is writable.

    Raises
    ------
    OSError
        If there is no such folder.
    """
    with _first_temporary_directory() as name:
        yield Path(name)


def _first_temporary_directory() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory()
    except OSError as error:
        try:
            return tempfile.TemporaryDirectory(dir=MEMORY)
        except OSError:
            raise OSError(
                f"transformers reads and writes tokenizers as files, but no temporary folder is "
                f"writable ({error}), and {MEMORY!r} is not writable either. Set the environment "
                "variable TMPDIR to a writable folder."
            ) from error


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
