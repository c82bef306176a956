"""`push_to_hub`: a fitted estimator -> a repository on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sklearn.utils.validation import check_is_fitted

from skbert.contract.card import model_card
from skbert.engine.files.folders import temporary_folder
from skbert.engine.files.push import check_repo_id, push_folder
from skbert.engine.warn import warn_user

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


class PushToHubMixin:
    """`push_to_hub` of an estimator that has `_save(folder, card)`."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        scores: Mapping[str, float] | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        replace_card: bool = False,
    ) -> CommitInfo:
        """Upload the fitted estimator to the Hugging Face Hub.

        The repository gets the files of `save_pretrained`, and ``from_pretrained(repo_id)`` loads
        them. It is created if it does not exist. Other files that skbert would read as parts of a
        model are deleted from it, so that no earlier model is mixed with this one; all other files
        stay. The hub keeps earlier versions of every file.

        The files contain weights, vocabulary, labels, parameters and history, but no training
        texts. Among the parameters is `model`, also if it is the path of a folder.

        Parameters
        ----------
        repo_id : str
            The name on the hub, as in "owner/name".
        scores : dict of str to float, default=None
            Scores on test texts, for the model card, as in ``{"accuracy": 0.91}``.
        private : bool, default=None
            Whether only you, or your organisation, can see a new repository. None takes the
            setting of the owner, which usually is public. An existing one stays as it is.
        token : str or bool, default=None
            A token of the hub that may write. None takes the one that ``hf auth login`` stored, or
            the environment variable ``HF_TOKEN``. skbert passes it to ``huggingface_hub`` and
            stores it nowhere.
        revision : str, default=None
            The branch, which is created if it does not exist. None is the main branch.
        commit_message : str, default=None
            The title of the commit. None is "Upload ... with skbert".
        replace_card : bool, default=False
            Whether to replace a model card, README.md, that somebody wrote or edited on the hub.

        Returns
        -------
        huggingface_hub.CommitInfo
            The commit, with its ``commit_url`` and ``oid``.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If `repo_id` is not a name on the hub.
        TypeError, ValueError
            If a score is not a finite number.
        OSError
            If the hub refuses the upload, or is not reachable.

        Warns
        -----
        UserWarning
            As in `save_pretrained`. Also if the repository has a model card that somebody wrote or
            edited, which then stays.

        See Also
        --------
        save_pretrained : Write the same files to a folder.
        from_pretrained : Load them.
        """
        check_is_fitted(self)
        self._validate_params()
        check_repo_id(repo_id)
        card = model_card(self, scores, repo_id if revision is None else f"{repo_id}@{revision}")
        with temporary_folder() as place:
            folder = place / "model"
            self._save(folder, card)
            pushed = push_folder(
                folder,
                repo_id,
                private=private,
                token=token,
                revision=revision,
                commit_message=commit_message or f"Upload {type(self).__name__} with skbert",
                replace_card=replace_card,
            )
        if pushed.kept_card:
            warn_user(
                f"{repo_id!r} has a README.md that was written or edited on the Hugging Face Hub, "
                "so push_to_hub kept it. Pass replace_card=True to replace it by the new one."
            )
        return pushed.commit

    def _save(self, folder: Path, card: str) -> Any:
        """Write the files of `save_pretrained`."""
        raise NotImplementedError
