"""A saved folder -> a repository on the Hugging Face Hub, through the hub's own client."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skbert.engine.files.card_file import CARD, is_unedited
from skbert.engine.files.contents import HUB_PATTERNS
from skbert.engine.files.folders import temporary_folder
from skbert.engine.files.hub import is_hub_name

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi


@dataclass(frozen=True)
class Pushed:
    """What an upload did.

    Attributes
    ----------
    commit : huggingface_hub.CommitInfo
    kept_card : bool
        Whether the repository keeps a model card that skbert did not write.
    """

    commit: CommitInfo
    kept_card: bool


def check_repo_id(repo_id: Any) -> None:
    """Raise an error if a repository cannot have this name."""
    if not isinstance(repo_id, str) or "@" in repo_id or "/" not in repo_id:
        is_allowed = False
    else:
        is_allowed = is_hub_name(repo_id)
    if not is_allowed:
        raise ValueError(
            f"repo_id={repo_id!r} is not a name on the Hugging Face Hub. Pass your user name or "
            "your organisation, and a name for the model, as in 'owner/name'."
        )


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    commit_message: str,
    replace_card: bool,
) -> Pushed:
    """Upload a folder that `save_classifier` or `save_pretraining_model` wrote.

    Files of a model that the folder lacks are deleted from the repository.

    Parameters
    ----------
    folder : Path
    repo_id : str
    private, token, revision, commit_message, replace_card : object
        As documented in `push_to_hub`.

    Raises
    ------
    OSError
        If the hub refuses the upload, or is not reachable.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        kept = not replace_card and _has_foreign_card(api, repo_id, revision)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            revision=revision,
            commit_message=commit_message,
            delete_patterns=list(HUB_PATTERNS),
            ignore_patterns=[CARD] if kept else None,
        )
    # An answer of the hub, an unreachable hub, or any error of the HTTP library of the client.
    except Exception as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise OSError(
            f"Could not push to {repo_id!r} on the Hugging Face Hub ({lines[0].rstrip('.')}). "
            f"{_advice(error)}"
        ) from error
    return Pushed(commit, kept)


def _has_foreign_card(api: HfApi, repo_id: str, revision: str | None) -> bool:
    """Whether the repository has a model card that skbert did not write, or that was edited."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with temporary_folder() as place:
        try:
            api.hf_hub_download(repo_id, CARD, revision=revision, local_dir=place)
        except LocalEntryNotFoundError:  # a subclass: the hub did not answer
            raise
        except EntryNotFoundError:
            return False
        return not is_unedited(place)


def _advice(error: Exception) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "Unset the environment variable HF_HUB_OFFLINE."
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "Log in with `hf auth login`, or pass a token that may write."
    if status in (403, 404):
        return "Pass a token that may write there, or a repo_id with your own user name."
    return "Check the connection to the hub, and push again."
