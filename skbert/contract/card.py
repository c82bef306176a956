"""A fitted estimator -> the text of its model card, a README.md for the Hugging Face Hub.

The front matter is YAML that the hub reads; the rest is Markdown for people. What the card says
comes from the estimator and from the model below it, and the scores from the caller.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from skbert.contract.persistence import plain_parameters, versions
from skbert.engine.files.base_model import BaseModel, describe_base
from skbert.engine.files.find import is_shipped
from skbert.engine.text.windows import WINDOWS

_HOME = "https://skbert.readthedocs.io"

#: Parameters of one machine or one session, which say nothing of the model.
_LOCAL = ("checkpoint_dir", "device", "n_jobs", "verbose")

#: Types of parameters whose representation is the same in every process.
_PLAIN = (str, int, float, dict, list, type(None))

_MOST_ROWS = 100


def model_card(
    estimator: Any, scores: Mapping[str, float] | None = None, name: str | None = None
) -> str:
    """Write the model card of a fitted classifier or pretrainer.

    Parameters
    ----------
    estimator : estimator
    scores : dict of str to float or None
        From the user, by the name of the metric.
    name : str or None
        The name on the hub; None if the card is for a local folder.

    Raises
    ------
    TypeError, ValueError
        If `scores` contains anything but names and finite numbers.
    """
    values = check_scores(scores)
    base = None if hasattr(estimator.model, "to_dict") else describe_base(estimator.model)
    parts = [
        f"# {_title(estimator)}",
        _summary(estimator, base),
        f"## Use\n\n```python\n{_code_of_use(estimator, name)}\n```",
        _hint_at_transformers(estimator),
        _labels(estimator),
        _scores(estimator, values),
        _parameters(estimator, base),
        f"## Versions\n\n{', '.join(f'{n} {version}' for n, version in versions().items())}",
        f"## Licence\n\n{_licence(estimator, base)}",
    ]
    body = "\n\n".join(part for part in parts if part)
    return f"---\n{_front_matter(estimator, base, values)}\n---\n\n{body}\n"


def check_scores(scores: Mapping[str, float] | None) -> dict[str, float]:
    """Convert `scores` to floats.

    Raises
    ------
    TypeError, ValueError
        If it contains anything but names and finite numbers.
    """
    if scores is None:
        return {}
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"scores is a {type(scores).__name__}, but a dict from the name of a metric to a "
            'number is expected. Pass for example scores={"accuracy": 0.91}.'
        )
    for metric, value in scores.items():
        if not isinstance(metric, str) or not metric.strip():
            raise TypeError(
                f"scores has the key {metric!r}, but the name of a metric is expected. Pass for "
                'example scores={"accuracy": 0.91}.'
            )
        if not isinstance(value, Real) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(
                f"scores[{metric!r}] is {value!r}; every score must be a finite number. Correct "
                "or remove it."
            )
    return {metric: float(value) for metric, value in scores.items()}


def _is_predictor(estimator: Any) -> bool:
    return hasattr(estimator, "head_")


def _public_name(estimator: Any) -> str:
    """Name the class of skbert, also of an estimator whose class extends it."""
    public = (cls for cls in type(estimator).__mro__ if cls.__module__.startswith("skbert."))
    return next(public).__name__


def _front_matter(estimator: Any, base: BaseModel | None, scores: Mapping[str, float]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    task = "text-classification" if _is_predictor(estimator) else "fill-mask"
    names = list(base.names) if base else []
    # The hub asks for a data set, and the user has named none.
    results = [
        EvalResult(
            task_type=task,
            dataset_type="unknown",
            dataset_name="Unknown",
            metric_type=metric,
            metric_value=value,
        )
        for metric, value in scores.items()
    ]
    data = ModelCardData(
        base_model=names[0] if len(names) == 1 else names or None,
        language=base.language if base else None,
        library_name="skbert",
        pipeline_tag=task,
        tags=["skbert", "scikit-learn", estimator.model_.config.model_type],
        metrics=list(scores) or None,
        model_name=_public_name(estimator) if results else None,
        eval_results=results or None,
        **(base.license if base else {}),
    )
    return data.to_yaml(line_break="\n")


def _title(estimator: Any) -> str:
    if not _is_predictor(estimator):
        return "Masked language model"
    labels = getattr(estimator, "classes_", None)
    if labels is None:
        return "Text regression"
    if len(labels) > 5:
        return f"Text classifier with {len(labels)} labels"
    return f"Text classifier: {', '.join(_code_of_name(str(label)) for label in labels.tolist())}"


def _summary(estimator: Any, base: BaseModel | None) -> str:
    cls = f"[skbert]({_HOME})'s `{_public_name(estimator)}`"
    below = _below(estimator, base)
    if not _is_predictor(estimator):
        made = f"It was pre-trained further from {below}," if below else "It was pre-trained"
        return (
            "This model predicts hidden words, and classifiers can be fine-tuned from it. "
            f"{made} on texts without labels with {cls}."
        )
    gives = "a number"
    if hasattr(estimator, "classes_"):
        gives = "any of several labels" if estimator.multilabel_ else "a label"
    texts = "pair of texts" if getattr(estimator, "_n_columns", 1) == 2 else "text"
    made = f"was fine-tuned from {below}, with" if estimator.history_ else f"is {below}, loaded by"
    return f"This model gives {gives} to each {texts}. It {made} {cls}."


def _below(estimator: Any, base: BaseModel | None) -> str:
    """Name the model below, without the path of a local folder."""
    if base is None:
        return ""
    links = " and ".join(f"[{name}](https://huggingface.co/{name})" for name in base.names)
    if is_shipped(estimator.model):
        return f"`{estimator.model}`, which is {links} with a small change of its weights"
    return links or f"the local folder {_code(_own_name(estimator.model))}"


def _own_name(path: str | os.PathLike[str]) -> str:
    return re.split(r"[/\\]", os.fsdecode(path).rstrip("/\\"))[-1]


def _code_of_use(estimator: Any, name: str | None) -> str:
    cls = _public_name(estimator)
    call = 'predict(["a text", "another text"])'
    if not _is_predictor(estimator):
        call = f'fill_mask("so {estimator.tokenizer_.mask_token}")'
    elif getattr(estimator, "_n_columns", 1) == 2:
        call = 'predict([("first text", "second text")])'
    return (
        f"from skbert import {cls}\n\n"
        f'model = {cls}.from_pretrained("{name or "path/of/this/folder"}")\n'
        f"model.{call}"
    )


def _hint_at_transformers(estimator: Any) -> str:
    """Say which class of transformers reads the folder; `warn_of_own_form` warns if none does."""
    from skbert.engine.model.families import PADDED_FAMILIES

    if not _is_predictor(estimator):
        return "`transformers.AutoModelForMaskedLM` reads the same files."
    if estimator.pooling_ != "cls" or estimator.model_.config.model_type in PADDED_FAMILIES:
        return "Only skbert reads its head, not transformers."
    windows = ", but no windows of longer texts" if estimator.truncation == WINDOWS else ""
    return f"`transformers.AutoModelForSequenceClassification` reads the same files{windows}."


def _labels(estimator: Any) -> str:
    if not _is_predictor(estimator):
        return ""
    n_training = getattr(estimator, "n_training_texts_", None)
    n_validation = getattr(estimator, "n_validation_texts_", None)
    sizes = f"Training texts: {n_training}. Validation texts: {n_validation}."
    if n_training is None or n_validation is None:
        sizes = "The number of training texts is unknown."
    elif not estimator.history_:
        sizes = "`fit` has not trained it on any text."
    if not hasattr(estimator, "classes_"):
        return f"## Texts\n\n{sizes}"
    labels = estimator.classes_.tolist()
    counts = getattr(estimator, "class_count_", None)
    if counts is None or not estimator.history_:
        table = _table(["Label"], ([_code(label)] for label in labels))
    else:
        rows = ([_code(label), n] for label, n in zip(labels, counts.tolist(), strict=True))
        table = _table(["Label", "Training texts"], rows)
    return f"## Labels and texts\n\n{table}\n\n{sizes}"


def _scores(estimator: Any, scores: Mapping[str, float]) -> str:
    rows = [
        [_code_of_name(metric), f"{value:.4g}", "test texts"] for metric, value in scores.items()
    ]
    epoch = getattr(estimator, "best_epoch_", len(estimator.history_))
    kept = estimator.history_[epoch - 1] if 0 < epoch <= len(estimator.history_) else {}
    value = kept.get("val_score")
    if isinstance(value, Real):
        metric = "`accuracy`" if hasattr(estimator, "classes_") else "`r2`"
        rows.append([metric, f"{value:.4g}", f"validation texts, after epoch {epoch}"])
    return f"## Scores\n\n{_table(['Score', 'Value', 'Texts'], rows)}" if rows else ""


def _parameters(estimator: Any, base: BaseModel | None) -> str:
    signature = inspect.signature(type(estimator).__init__)
    # Saved as a list of pairs, because keys in JSON are strings.
    values = plain_parameters(estimator)
    values |= {n: v for n, v in estimator.get_params(deep=False).items() if isinstance(v, dict)}
    shown = {
        name: value if isinstance(value, _PLAIN) else type(value).__name__
        for name, value in values.items()
        if name not in _LOCAL and repr(value) != repr(signature.parameters[name].default)
    }
    if base is None:
        shown["model"] = type(estimator.model).__name__
    elif "model" in shown and not (base.names or is_shipped(estimator.model)):
        shown["model"] = _own_name(estimator.model)  # the path would tell about its machine
    if not shown:
        return "## Parameters\n\nAll parameters have their defaults."
    rows = ([f"`{name}`", _code(value)] for name, value in shown.items())
    return (
        f"## Parameters\n\n{_table(['Parameter', 'Value'], rows)}\n\n"
        "All other parameters have their defaults."
    )


def _licence(estimator: Any, base: BaseModel | None) -> str:
    if base is None:
        return "No published model is below this one."
    if "license" not in base.license:
        return "The licence of the model below this one is unknown here; see its own page."
    licence = base.license.get("license_name", base.license["license"])
    link = base.license.get("license_link", "")
    where = f" ({link})" if link.startswith("https://") else ""
    of_change = " The change of its weights has that of skbert, `bsd-3-clause`."
    return f"The model below this one has the licence `{licence}`{where}." + (
        of_change if is_shipped(estimator.model) else ""
    )


def _table(head: list[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    more = len(lines) - _MOST_ROWS
    if more > 0:
        lines[_MOST_ROWS:] = [f"| and {more} more |{' |' * (len(head) - 1)}"]
    return "\n".join([f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |", *lines])


def _code_of_name(text: str) -> str:
    """Show a text as code, without quotation marks."""
    return _as_code(text if text.isprintable() else repr(text))


def _code(value: Any) -> str:
    """Show a value as code, as Python writes it, whatever characters it contains."""
    return _as_code(repr(value))


def _as_code(text: str) -> str:
    if not re.search(r"[`|\\<>&]", text):
        return f"`{text}`"
    escaped = re.sub(r"[^\w\s.,]|_", lambda match: f"&#{ord(match[0])};", text)
    return f"<code>{escaped}</code>"
