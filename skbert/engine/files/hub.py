"""A model's name on the Hugging Face Hub -> a folder in the local cache, or the cause in words."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from skbert.engine.files.card_file import CARD
from skbert.engine.files.config import CONFIG_FILE, check_family
from skbert.engine.files.contents import (
    HUB_PATTERNS,
    WEIGHTS_FILE,
    advice_for,
    files_of,
    in_words,
    missing_files,
)
from skbert.engine.files.tokenizer_files import names_code

_TIMEOUT = 5  # seconds to wait for an unreachable hub

#: Names to suggest if a name lacks its owner or has a typing error.
_KNOWN = (
    "skbert/minilm-sentiment",
    *(
        f"sentence-transformers/{name}"
        for name in (
            "all-MiniLM-L6-v2",
            "all-MiniLM-L12-v2",
            "multi-qa-MiniLM-L6-cos-v1",
            "paraphrase-MiniLM-L3-v2",
            "paraphrase-MiniLM-L6-v2",
            "paraphrase-multilingual-MiniLM-L12-v2",
        )
    ),
    *(
        f"google-bert/bert-{name}"
        for name in (
            "base-uncased",
            "base-cased",
            "large-uncased",
            "large-cased",
            "base-multilingual-cased",
            "base-multilingual-uncased",
            "base-chinese",
            "base-german-cased",
        )
    ),
)


@dataclass(frozen=True)
class _Cause:
    """Why a place did not give the model.

    Attributes
    ----------
    words : str
    advice : str
        A sentence; empty if only `remedy` helps.
    remedy : str
        What helps besides other places.
    """

    words: str
    advice: str = ""
    remedy: str = "connect to the internet"


def is_hub_name(name: str) -> bool:
    """Whether a model on the hub may have this name, with or without "@revision"."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    repository, _, _ = name.partition("@")
    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return True


def no_such_folder(model: str | os.PathLike[str]) -> OSError:
    """Create the error for a `model` that is a path, or can only be one."""
    name = os.fsdecode(model)
    why = "it is not a name on the Hugging Face Hub, such as 'owner/name'"
    advice = "Check the path."
    if not isinstance(model, str):
        why = "a path is never looked up on the Hugging Face Hub"
        if is_hub_name(name):
            advice = f"Check the path, or pass a name as a str, model={name!r}."
    similar = _similar_folder(Path(name))
    if similar:
        advice = f"Did you mean {similar!r}? {advice}"
    return OSError(
        f"Could not find the model {name!r}. There is no such folder, and {why}. {advice}"
    )


def _similar_folder(folder: Path) -> str:
    """Name a folder beside the given one whose name is similar; empty without any."""
    try:
        names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    except (OSError, ValueError):
        return ""
    close = difflib.get_close_matches(folder.name, names, n=1, cutoff=0.75)
    return str(folder.with_name(close[0])) if close else ""


def find_on_hub(model: str, failures: Sequence[str], install: str = "") -> Path:
    """Find the folder of a model in the cache, or download it.

    The configuration comes first, so that a model of another family is refused before its weights
    are downloaded.

    Parameters
    ----------
    model : str
        A name, also with "@revision".
    failures : sequence of str
        The places tried before, for the error.
    install : str
        How to install the weights otherwise; empty if there is no other way.

    Raises
    ------
    OSError
        If neither place has all files.
    ValueError
        If the model is no BERT encoder, or `model` ends with "@".
    """
    name, at, revision = model.partition("@")
    if at and not revision:
        raise ValueError(
            f"model={model!r} names no revision after its '@'. Pass a branch, a tag or a commit, "
            f"as in model='{name}@main', or model={name!r}."
        )
    causes = []
    for repository in (_Cache(name, revision or None), _Hub(name, revision or None)):
        found = repository.look()
        if isinstance(found, Path):
            return found
        causes.append(found)
    words = "; ".join([*failures, *(cause.words for cause in causes)])
    advice = next((cause.advice for cause in reversed(causes) if cause.advice), "")
    if not advice:
        options = [option for option in (install, "pass a local folder") if option]
        advice = f"{', '.join(options)}, or {causes[-1].remedy}."
        advice = advice[0].upper() + advice[1:]
    raise OSError(f"Could not find the model {model!r}. {words}. {suggestion(name)}{advice}")


def card_in_cache(name: str, revision: str | None) -> Path | None:
    """Find the model card of a repository in the cache; None if it is not there."""
    import huggingface_hub

    found = huggingface_hub.try_to_load_from_cache(name, CARD, revision=revision)
    return Path(found) if isinstance(found, str) else None


@dataclass(frozen=True)
class _Cache:
    """What this machine has of a repository; a `revision` of None is the default branch."""

    name: str
    revision: str | None

    lacks = "its copy in the Hugging Face cache lacks"
    patterns: ClassVar[tuple[tuple[str, ...], ...]] = ((CONFIG_FILE,), HUB_PATTERNS)

    def look(self) -> Path | _Cause:
        """Find the folder with all files of the model, or the cause why there is none."""
        folder = Path()
        for patterns in self.patterns:
            try:
                folder = self.snapshot(list(patterns))
            # An unreachable hub, a repository that does not exist, or any error of the HTTP library
            # that the client uses.
            except Exception as error:
                return self.cause_of(error)
            check_family(folder)
            if not (folder / CONFIG_FILE).is_file():
                break
        missing = missing_files(folder)
        return self.explain(folder, missing) if missing else folder

    def snapshot(self, patterns: list[str]) -> Path:
        """Find the folder with the files of these names, as far as this machine has them."""
        return self.ask_client(patterns, local_files_only=True)

    def ask_client(self, patterns: list[str], **options: Any) -> Path:
        """Let the hub's client find the files of these names."""
        import huggingface_hub

        if self.revision is not None:
            options["revision"] = self.revision
        return Path(
            huggingface_hub.snapshot_download(self.name, allow_patterns=patterns, **options)
        )

    def cause_of(self, error: Exception) -> _Cause:
        """Translate an error of the hub's client."""
        from huggingface_hub.errors import LocalEntryNotFoundError

        what = "it" if self.revision is None else f"its revision {self.revision!r}"
        if type(error) is LocalEntryNotFoundError:
            return _Cause(f"the Hugging Face cache does not contain {what}")
        if isinstance(error, LocalEntryNotFoundError):  # IncompleteSnapshotError, since hub 2
            return _Cause("its copy in the Hugging Face cache is not complete")
        return _Cause(f"the Hugging Face cache does not contain {what} ({_reason(error)})")

    def explain(self, folder: Path, missing: list[str]) -> _Cause:
        """Say which files are missing, and what is there instead."""
        names = self.names(folder)
        # Without a configuration, skbert has not tried to download the other files.
        absent = [n for n in missing if not names.intersection(n.split(" or "))]
        if not absent:
            return _Cause(f"{self.lacks} {in_words(missing)}")
        missing = absent
        advice = advice_for(names, missing, self.subfolder, names_code(folder))
        if WEIGHTS_FILE in missing and " is a pickle, " in advice:
            advice += (
                f" Or choose a revision with {WEIGHTS_FILE} on the page of the model, as in "
                f"model='{self.name}@refs/pr/1'."
            )
        return _Cause(f"{self.lacks} {in_words(missing)}", advice)

    def names(self, folder: Path) -> set[str]:
        """Name all files of the repository that this machine has."""
        return files_of(folder)

    def subfolder(self, name: str) -> str:
        """Say what to pass for the model in a subfolder."""
        return (
            f"the path of {name!r} in the folder that "
            f"`huggingface_hub.snapshot_download({self.name!r})` returns"
        )


class _Hub(_Cache):
    """What the hub has of a repository."""

    lacks = "the download from the Hugging Face Hub did not provide"
    # The card names the licence. The cache need not have it.
    patterns = ((CONFIG_FILE,), (*HUB_PATTERNS, CARD))

    def snapshot(self, patterns: list[str]) -> Path:
        """Download files, unless the caller has forbidden it."""
        from huggingface_hub import constants
        from huggingface_hub.errors import OfflineModeIsEnabled

        if constants.HF_HUB_OFFLINE:
            raise OfflineModeIsEnabled
        return self.ask_client(patterns, etag_timeout=_TIMEOUT)

    def cause_of(self, error: Exception) -> _Cause:
        """Translate an error of the hub's client."""
        from huggingface_hub import errors

        page = f"https://huggingface.co/{self.name}"
        match error:
            case errors.OfflineModeIsEnabled():
                return _Cause(
                    "HF_HUB_OFFLINE=1 forbids its download",
                    remedy="unset the environment variable HF_HUB_OFFLINE",
                )
            case errors.GatedRepoError():
                return _Cause(
                    "the Hugging Face Hub gives it only to users who accepted its terms",
                    f"Accept them on {page}, and log in with `hf auth login`.",
                )
            case errors.RepositoryNotFoundError():
                return _Cause(
                    "the Hugging Face Hub has no public model of this name",
                    "Check the name. If the model is private, log in with `hf auth login`.",
                )
            case errors.RevisionNotFoundError():
                return _Cause(
                    f"it has no revision {self.revision!r} on the Hugging Face Hub",
                    f"Choose a branch, a tag or a commit from {page}/tree/main.",
                )
        reason = _reason(error.__cause__ or error)
        return _Cause(f"the download from the Hugging Face Hub failed ({reason})")

    def names(self, folder: Path) -> set[str]:
        """Name all files of the repository, or those that were downloaded."""
        import huggingface_hub

        try:
            about = huggingface_hub.model_info(self.name, revision=self.revision, timeout=_TIMEOUT)
        except Exception:  # as in `look`
            return files_of(folder)
        listed = [file.rfilename for file in about.siblings or []]
        return {name for name in listed if name.count("/") <= 1}


def _reason(error: BaseException) -> str:
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def suggestion(name: str) -> str:
    """Suggest a name for one that lacks its owner or has a typing error; empty without any."""
    from huggingface_hub import constants

    found = ""
    if "/" not in name:
        cached = Path(constants.HF_HUB_CACHE).glob(f"models--*--{name}")
        names = [path.name.split("--", 2) for path in sorted(cached)]
        owned = [f"{owner}/{own}" for _, owner, own in names if own == name]
        owned += [n for n in _KNOWN if n.partition("/")[2].lower() == name.lower()]
        found = owned[0] if owned else ""
        if not found:
            return "Most names have an owner, as in 'owner/name'. "
    elif name not in _KNOWN:
        known = {known.lower(): known for known in _KNOWN}
        close = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.85)
        found = known[close[0]] if close else _similar_folder(Path(name))
    return f"Did you mean {found!r}? " if found else ""
