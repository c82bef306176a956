"""Saving to every kind of folder: whole, or refused in words, with the usual permissions."""

import errno
import os
import re
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from skbert import BertPretrainer, BertSentimentClassifier
from skbert.engine.files import folders
from skbert.engine.training import resume

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has other permissions")

FILES = ["README.md", "config.json", "model.safetensors", "skbert.json", "tokenizer.json"]
FILES += ["tokenizer_config.json"]
AS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
RENAME, REPLACE, MKDIR = Path.rename, Path.replace, Path.mkdir


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    clf = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=0)
    with pytest.warns(UserWarning, match="max_epochs=1"):
        return clf.fit(*toy_reviews)


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path):
    return oct(stat.S_IMODE(path.stat().st_mode))


def empty(folder, clf, monkeypatch):
    return folder


def saved_before(folder, clf, monkeypatch):
    clf.save_pretrained(folder)
    return folder


def mount_point(folder, clf, monkeypatch):
    """A volume, on which mkfs has made a folder, and whose place nothing can take."""

    def rename(path, target):
        if folder in (path, Path(target)):
            raise OSError(errno.EBUSY, "Device or resource busy")
        return RENAME(path, target)

    (folder / "lost+found").mkdir(parents=True)
    ismount = os.path.ismount
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == folder or ismount(path))
    monkeypatch.setattr(Path, "is_mount", lambda path: os.path.ismount(path))
    monkeypatch.setattr(Path, "rename", rename)
    return folder


def hidden_mount_point(folder, clf, monkeypatch):
    """A folder that is mounted from the same disk, so that the system does not call it a mount."""
    mount_point(folder, clf, monkeypatch)
    (folder / "lost+found").rmdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: False)
    monkeypatch.setattr(folders.sys, "platform", "another")  # no exchange in one step
    return folder


def saved_mount_point(folder, clf, monkeypatch):
    clf.save_pretrained(folder)
    return mount_point(folder, clf, monkeypatch)


def below_a_folder_without_permission(folder, clf, monkeypatch):
    def mkdir(path, *args, **kwargs):
        if path.parent == folder.parent and path != folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return MKDIR(path, *args, **kwargs)

    folder.mkdir()
    monkeypatch.setattr(Path, "mkdir", mkdir)
    return folder


def current_folder(folder, clf, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Path()


def saved_current_folder(folder, clf, monkeypatch):
    clf.save_pretrained(folder)
    monkeypatch.chdir(folder)
    return Path()


def link(folder, clf, monkeypatch):
    folder.mkdir()
    folder.with_name("link").symlink_to(folder)
    return folder.with_name("link")


TARGETS = [
    empty, saved_before, mount_point, hidden_mount_point, saved_mount_point,
    below_a_folder_without_permission, current_folder, saved_current_folder, link,
]  # fmt: skip
IN_PLACE = [mount_point, hidden_mount_point, saved_mount_point, below_a_folder_without_permission]
IN_PLACE += [current_folder, saved_current_folder]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gets_the_whole_model(clf, toy_reviews, tmp_path, monkeypatch, umask, target):
    X, _ = toy_reviews
    folder = target(tmp_path / "model", clf, monkeypatch)
    inode = folder.stat().st_ino if folder.exists() else None
    for n_before in range(2):
        clf.save_pretrained(folder)
        if n_before == 0:  # later, the number may be used again
            assert (folder.stat().st_ino == inode) == (target in IN_PLACE)
        assert sorted(path.name for path in folder.iterdir() if path.is_file()) == FILES
        assert {mode(path) for path in folder.iterdir() if path.is_file()} == {"0o644"}
        loaded = BertSentimentClassifier.from_pretrained(folder)
        np.testing.assert_array_equal(loaded.decision_function(X), clf.decision_function(X))
    left = {path.name for path in [*tmp_path.iterdir(), *folder.iterdir()]}
    assert left <= {"model", "link", "lost+found", *FILES}


@pytest.mark.parametrize("target", IN_PLACE)
@pytest.mark.parametrize("failing", ["model.safetensors", "skbert.json", "tokenizer_config.json"])
def test_a_failure_in_place_leaves_the_old_files(clf, tmp_path, monkeypatch, target, failing):
    folder = target(tmp_path / "model", clf, monkeypatch)
    clf.save_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    def broken(path, new):
        if path.name == failing and Path(new).resolve().parent == folder.resolve():
            monkeypatch.setattr(Path, "replace", REPLACE)  # fails once
            raise OSError(errno.EIO, "Input/output error")
        return REPLACE(path, new)

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match=r"^\[Errno 5\] Input/output error$"):
        clf.save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_writer_that_is_killed_in_place_leaves_no_mixture(
    clf, tiny_bert, toy_reviews, tmp_path, monkeypatch
):
    """Stop after each rename: the folder is whole, or refused, and saving again repairs it."""
    X, y = toy_reviews
    with pytest.warns(UserWarning, match="max_epochs=1"):
        other = BertSentimentClassifier(tiny_bert, max_length=16, max_epochs=1, random_state=1).fit(
            X, y
        )
    whole = {
        tuple(model.decision_function(X)): name for name, model in [("old", clf), ("new", other)]
    }
    found = []
    for n_moves in range(2 * len(FILES)):
        folder = tmp_path / f"model{n_moves}"
        clf.save_pretrained(folder)
        monkeypatch.chdir(folder)
        child = os.fork()
        if child == 0:
            moves = iter(range(n_moves))

            def replace(path, target, moves=moves):
                if next(moves, None) is None:
                    os._exit(7)
                return REPLACE(path, target)

            Path.replace = replace
            other.save_pretrained(folder)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert ended == (0 if n_moves == 2 * len(FILES) - 1 else 7)
        try:
            loaded = BertSentimentClassifier.from_pretrained(folder)
            found.append(whole[tuple(loaded.decision_function(X))])
        except (ValueError, FileNotFoundError) as error:
            assert re.search("is not the file that was saved|lacks", str(error))
            found.append("refused")
        clf.save_pretrained(folder)
        loaded = BertSentimentClassifier.from_pretrained(folder)
        assert whole[tuple(loaded.decision_function(X))] == "old"
    assert (found[0], found[-1]) == ("old", "new")
    assert "refused" in found


@pytest.mark.parametrize(
    ("before", "after"), [(0o2775, "0o2775"), (0o750, "0o750"), (0o700, "0o700")]
)
def test_a_folder_keeps_its_group_and_its_permissions(clf, tmp_path, umask, before, after):
    folder = tmp_path / "model"
    clf.save_pretrained(folder)
    folder.chmod(before)
    if AS_ROOT:
        os.chown(folder, -1, 12345)
        folder.chmod(before)
    group = folder.stat().st_gid
    clf.save_pretrained(folder)
    assert (mode(folder), folder.stat().st_gid) == (after, group)
    if before & stat.S_ISGID:
        assert {path.stat().st_gid for path in folder.iterdir()} == {group}


@pytest.mark.parametrize(
    ("mask", "expected"), [(0o022, "0o644"), (0o002, "0o664"), (0o077, "0o600")]
)
def test_files_have_the_permissions_of_the_umask(
    clf, tiny_bert, toy_reviews, tmp_path, monkeypatch, umask, mask, expected
):
    umask(mask)
    runs = []
    monkeypatch.setattr(resume, "sync", lambda path: runs.append(mode(path)))
    clf.save_pretrained(tmp_path / "model")
    pretrainer = BertPretrainer(
        tiny_bert, max_length=16, max_epochs=1, random_state=0, next_sentence=False
    )
    pretrainer.fit(toy_reviews[0]).save_pretrained(tmp_path / "pretrained")
    resumable = BertSentimentClassifier(
        tiny_bert, max_length=16, max_epochs=1, random_state=0, checkpoint_dir=tmp_path / "runs"
    )
    with pytest.warns(UserWarning, match="max_epochs=1"):
        resumable.fit(*toy_reviews)
    assert set(runs) == {expected}
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(found) >= 2 * len(FILES)
    assert {mode(path) for path in found} == {expected}


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_cannot_be_written_is_refused(clf, tmp_path, monkeypatch, number, exists):
    folder = tmp_path / "model"
    if exists:
        folder.mkdir()

    def denied(path, *args, **kwargs):
        raise OSError(number, os.strerror(number), "x")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(OSError) as raised:
        clf.save_pretrained(folder)
    assert str(raised.value) == (
        f"Could not save to {str(folder)!r} ([Errno {number}] {os.strerror(number)}: 'x'). skbert "
        "creates files in this folder or beside it. Choose a folder that you may write to, or "
        "change its permissions."
    )
    assert isinstance(raised.value, PermissionError) == (number == errno.EACCES)
