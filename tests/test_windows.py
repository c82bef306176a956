"""truncation="windows": where the windows are, their mean, exact gradients, and the estimator."""

import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skbert import BertEmbeddingTransformer, BertSentimentClassifier, TruncationWarning
from skbert.contract.lost_tokens import LostTokens
from skbert.engine.files.pretrained import load_pretrained
from skbert.engine.files.scratch import random_head
from skbert.engine.model.batch import host_batch
from skbert.engine.model.device import computing_in
from skbert.engine.model.networks import TextClassifier
from skbert.engine.prediction.predict import predict_logits, predict_vectors
from skbert.engine.text.packing import Filling, distinct_texts, fill, pack
from skbert.engine.text.tokens import Tokens, Windows
from skbert.engine.text.windows import plan_windows, tokenize_in_windows
from skbert.engine.training.classification import Classification
from skbert.engine.training.loop import Trainer, TrainingOptions
from tests.objectives import equally_weighted, loss_of, on_cpu
from tests.padded_folders import save_padded

MAX_LENGTH = 10  # of which 8 are tokens of the text
ROOM = 8

# 1, 2, 3, 1, 4, 1 and 2 windows
TEXTS = [
    "a good film",
    "a good film and a great joy and fun and love",
    "dull and bad and awful and boring and this is a waste of my",
    "",
    "i love this film and i love my app and it is great fun and great joy and i love it",
    "so dull",
    "not very good not very great not very much",
]
LABELS = np.array([1, 1, 0, 0, 1, 0, 0])


def options(**changed):
    settings = {
        "max_epochs": 2,
        "batch_size": 7,
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "warmup_fraction": 0.1,
        "dropout": 0.0,
    }
    return TrainingOptions(**(settings | changed))


def network_and_tokens(folder, pooling, texts=TEXTS, max_windows=None):
    pretrained = load_pretrained(folder)
    head = random_head(pretrained.config.hidden_size, 2, 0.5, np.random.default_rng(0))
    tokens = tokenize_in_windows(
        pretrained.subword_tokenizer, texts, max_length=MAX_LENGTH, max_windows=max_windows
    )
    return TextClassifier(pretrained.new_encoder(), head, pooling), tokens


# Where the windows are ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_tokens", "starts", "length", "n_repeated", "n_lost"),
    [
        (0, [0], 0, [0], 0),
        (10, [0], 10, [0], 0),
        (11, [0, 4], 7, [0, 3], 0),
        (12, [0, 5], 7, [0, 2], 0),
        (20, [0, 6, 12], 8, [0, 2, 2], 0),
        (33, [0, 7, 15, 23], 10, [0, 3, 2, 2], 0),
        (100, [0, 30, 60, 90], 10, [0, 0, 0, 0], 60),
    ],
)
def test_windows_by_hand(n_tokens, starts, length, n_repeated, n_lost):
    plan = plan_windows(np.array([n_tokens]), room=10, max_windows=4)
    assert plan.starts.tolist() == starts
    assert plan.lengths.tolist() == [length] * len(starts)
    assert plan.n_repeated.tolist() == n_repeated
    assert plan.n_lost.tolist() == [n_lost]
    assert plan.n_of_each.tolist() == [len(starts)]


@pytest.mark.parametrize("room", [1, 2, 3, 4, 7, 126])
@pytest.mark.parametrize("max_windows", [None, 2, 5])
def test_windows_cover_what_they_can_and_overlap(room, max_windows):
    n_tokens = np.arange(6 * room + 7)
    plan = plan_windows(n_tokens, room, max_windows)
    ends = np.concatenate([[0], np.cumsum(plan.n_of_each)])
    for n in n_tokens:
        mine = slice(ends[n], ends[n + 1])
        starts, lengths = plan.starts[mine], plan.lengths[mine]
        n_read = np.zeros(n, dtype=int)
        for start, length in zip(starts, lengths, strict=True):
            n_read[start : start + length] += 1
        assert lengths.max() <= room and len(set(lengths.tolist())) == 1
        assert starts[0] == 0 and starts[-1] + lengths[-1] == n  # no window leads out of the text
        assert (n_read == 0).sum() == plan.n_lost[n]
        assert lengths.sum() - plan.n_repeated[mine].sum() == n - plan.n_lost[n]
        if max_windows is None or len(starts) < max_windows:
            assert plan.n_lost[n] == 0 and (np.diff(starts) <= lengths[0] - room // 4).all()
        else:
            assert len(starts) <= max_windows


def test_tokens_by_hand(tiny_bert):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    words = "a good film and a great joy and fun and love".split()
    tokens = tokenize_in_windows(subword_tokenizer, [" ".join(words), "fun"], max_length=MAX_LENGTH)
    vocabulary = load_pretrained(tiny_bert).tokenizer
    # 11 tokens: 2 windows that share at least 2 tokens have 7 each
    assert vocabulary.convert_ids_to_tokens(tokens.ids.tolist()) == [
        *["[CLS]", *words[:7], "[SEP]"],
        *["[CLS]", *words[4:], "[SEP]"],
        *["[CLS]", "fun", "[SEP]"],
    ]
    assert tokens.offsets.tolist() == [0, 18, 21]
    assert tokens.windows.offsets.tolist() == [0, 2, 3]
    assert tokens.windows.lengths.tolist() == [9, 9, 3]
    # [CLS], the 3 words of both windows, and [SEP]
    is_repeated = [False] * 9 + [True] * 4 + [False] * 4 + [True] + [False] * 3
    assert tokens.windows.is_repeated.tolist() == is_repeated
    assert tokens.n_lost.tolist() == [0, 0]


def test_short_texts_have_the_tokens_of_any_truncation(tiny_bert):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    found = tokenize_in_windows(subword_tokenizer, ["good", "", "so dull"], max_length=MAX_LENGTH)
    expected = subword_tokenizer(["good", "", "so dull"], max_length=MAX_LENGTH, truncation="head")
    assert found.windows is None
    for name, array in vars(expected).items():
        if name != "windows":
            np.testing.assert_array_equal(getattr(found, name), array)
            assert getattr(found, name).dtype == array.dtype


def test_batches_by_hand(tiny_bert):
    _, tokens = network_and_tokens(tiny_bert, "cls")
    assert tokens.n_windows.tolist() == [1, 2, 3, 1, 4, 1, 2]
    batch = pack(tokens, np.array([0, 3, 1, 4]))
    length = {row: int(tokens.lengths[row] // tokens.n_windows[row]) for row in (0, 1, 3, 4)}
    assert length == {0: 5, 1: 9, 3: 2, 4: 9}
    assert batch.rows.tolist() == [1, 4, 0, 3]  # by the length of their windows
    assert batch.cu_windows.tolist() == [0, 2, 6, 7, 8]
    assert np.diff(batch.cu_seqlens).tolist() == [*[9] * 6, 5, 2]
    assert batch.positions[:18].tolist() == [*range(9)] * 2
    assert np.array_equal(batch.ids, tokens.ids[tokens.places(batch.rows)])
    assert pack(tokens, np.array([0, 3])).cu_windows is None


def test_selected_texts_keep_their_windows(tiny_bert):
    _, tokens = network_and_tokens(tiny_bert, "cls")
    taken = tokens.take(np.array([4, 0, 2]))
    assert taken.n_windows.tolist() == [4, 1, 3]
    batch, expected = pack(taken, np.arange(3)), pack(tokens, np.array([4, 0, 2]))
    for name in ("ids", "positions", "cu_seqlens", "cu_windows"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(expected, name))
    places = tokens.places(np.array([4, 0, 2]))
    np.testing.assert_array_equal(taken.windows.is_repeated, tokens.windows.is_repeated[places])
    assert tokens.take(np.array([0, 3])).windows is None


def test_equal_tokens_in_other_windows_are_another_text():
    zeros = np.zeros(12, dtype=np.int32)
    windows = Windows(np.array([0, 2, 5]), np.array([3, 3, 2, 2, 2]), zeros.astype(bool))
    offsets = np.array([0, 6, 12])
    tokens = Tokens(zeros, zeros, zeros.astype(bool), offsets, np.zeros(2, dtype=int), windows)
    assert distinct_texts(tokens)[1].tolist() == [0, 1]
    assert distinct_texts(replace(tokens, windows=None))[1].tolist() == [0, 0]


# Vectors, losses and gradients, as transformers computes them -------------------------------------


def windows_of(text, tokens):
    """The ids of the windows of a text."""
    ids = tokens.ids[tokens.offsets[text] : tokens.offsets[text + 1]]
    return np.split(ids, tokens.n_windows[text])


def reference_vectors(network, tokens, rows):
    """Pad all windows, pool each, and average them with their lengths as weights."""
    found = []
    for row in rows:
        windows = windows_of(row, tokens)
        ids = torch.zeros(len(windows), MAX_LENGTH, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, window in enumerate(windows):
            ids[i, : len(window)], mask[i, : len(window)] = torch.tensor(window), 1
        hidden = network.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        lengths = mask.sum(1)[:, None].float()
        if network.pooling == "cls":
            vectors = hidden[:, 0]
        else:
            vectors = (hidden * mask[..., None]).sum(1) / lengths
        found.append((vectors * lengths).sum(0) / lengths.sum())
    return torch.stack(found)


def model_folder(name, tiny_bert, tmp_path):
    return tiny_bert if name == "bert" else save_padded(tmp_path / name, name, tiny_bert)


@pytest.mark.parametrize("name", ["bert", "ernie", "convbert"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_the_weighted_means_of_the_windows(tiny_bert, tmp_path, name, pooling):
    network, tokens = network_and_tokens(model_folder(name, tiny_bert, tmp_path), pooling)
    if name == "convbert":  # its convolutions read padding, so each window is computed alone
        alone = []
        for row in range(len(TEXTS)):
            vectors = [
                network.encoder(torch.tensor(w[None]).long()).last_hidden_state[0]
                for w in windows_of(row, tokens)
            ]
            vectors = [v[0] if pooling == "cls" else v.mean(0) for v in vectors]
            alone.append(torch.stack(vectors).mean(0))
        expected = torch.stack(alone)
    else:
        expected = reference_vectors(network, tokens, range(len(TEXTS)))
    expected = expected.detach().numpy()
    np.testing.assert_allclose(predict_vectors(network, tokens), expected, rtol=0, atol=1e-5)
    with torch.no_grad():
        logits = network.head(torch.from_numpy(expected)).numpy()
    np.testing.assert_allclose(predict_logits(network, tokens), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("budget", [10_000, 20, 1])
def test_gradients_are_those_of_the_padded_windows(tiny_bert, pooling, budget):
    ours, tokens = network_and_tokens(tiny_bert, pooling)
    theirs = copy.deepcopy(ours)
    rows = np.arange(len(TEXTS))
    data = equally_weighted(tokens, LABELS)
    trainer = Trainer(ours, options(), lambda _: 1.0, np.random.SeedSequence(0))
    trainer._micro_batches._planned_budget = budget
    objective = Classification(ours, data, options())
    step = trainer._prepare(objective, rows)
    n_parts = {10_000: 1, 1: len(TEXTS)}  # a text is never divided
    assert len(step.parts) == n_parts.get(budget, len(step.parts))
    assert (len(step.parts) > 1) == (budget < 10_000)
    sums = trainer._accumulate_gradients(objective, step)
    logits = theirs.head(reference_vectors(theirs, tokens, rows))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(LABELS))
    loss.backward()
    assert sums[0].item() / len(TEXTS) == pytest.approx(loss.item(), abs=1e-5)
    n_compared = 0
    for mine, reference in zip(ours.parameters(), theirs.parameters(), strict=True):
        if reference.grad is not None and mine.grad is not None:
            n_compared += 1
            torch.testing.assert_close(mine.grad, reference.grad, rtol=0, atol=1e-5)
    assert n_compared >= 50


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("budget", [40, 12])
def test_a_repeated_step_has_the_masks_of_the_first_try(tiny_bert, pooling, budget):
    gradients = []
    dropping = options(dropout=0.3)
    for most_tokens in (10_000, budget):
        network, tokens = network_and_tokens(tiny_bert, pooling)
        objective = Classification(network, equally_weighted(tokens, LABELS), dropping)
        trainer = Trainer(network, dropping, lambda _: 1.0, np.random.SeedSequence(0))
        step = trainer._prepare(objective, np.arange(len(TEXTS)))
        trainer._micro_batches.token_budget = most_tokens  # as after memory ran out
        trainer._accumulate_gradients(objective, step)
        gradients.append([p.grad for p in network.parameters() if p.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_filler_changes_nothing(tiny_bert, pooling):
    network, tokens = network_and_tokens(tiny_bert, pooling)
    batch = pack(tokens, np.arange(len(TEXTS)))
    filled = fill(batch, len(batch.ids) + 5)
    assert filled.cu_windows.tolist() == [*batch.cu_windows.tolist(), 15]
    with torch.no_grad():
        expected = network.pooled(batch)
        torch.testing.assert_close(network.pooled(filled)[:-1], expected, rtol=0, atol=1e-6)
        host = host_batch(network.encoder, batch, Filling(len(batch.ids) + 5, 64))
        found = network.pooled(on_cpu(host))
    torch.testing.assert_close(found[:-1], expected, rtol=0, atol=1e-6)
    other = host_batch(network.encoder, pack(tokens, np.arange(6)), Filling(len(batch.ids) + 5, 64))
    assert other.shape != host.shape  # so a graph of one does not replay the other


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_lower_precision_averages_in_float32(tiny_bert, pooling):
    network, tokens = network_and_tokens(tiny_bert, pooling)
    low = replace(network, precision=torch.bfloat16)
    with torch.no_grad(), computing_in(torch.bfloat16, network.device):
        vectors = predict_vectors(low, tokens)
    exact = predict_vectors(network, tokens)
    assert 0 < np.abs(vectors - exact).max() < 0.2


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_frozen_layers(tiny_bert, pooling):
    network, tokens = network_and_tokens(tiny_bert, pooling)
    data, rows = equally_weighted(tokens, LABELS), np.arange(len(TEXTS))
    plain = loss_of(Classification(network, data, options()), rows, rows)
    frozen = loss_of(Classification(network, data, options(n_frozen_layers=2)), rows, rows)
    assert frozen.part.item() == pytest.approx(plain.part.item(), abs=1e-6)
    parameters = network.parameters(n_frozen_layers=2)
    ours, theirs = (
        torch.autograd.grad(loss.part, parameters, allow_unused=True) for loss in (frozen, plain)
    )
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)


# The estimator ------------------------------------------------------------------------------------


LONG = [
    "good film and great fun " * 3,
    "dull and bad and boring " * 4,
    "a great joy",
    "a waste",
] * 4
SENTIMENTS = np.array(["good", "bad", "good", "bad"] * 4)


def classifier(model, **parameters):
    settings = {
        "truncation": "windows",
        "max_length": MAX_LENGTH,
        "max_epochs": 8,
        "batch_size": 4,
        "learning_rate": 3e-3,
        "random_state": 0,
    }
    return BertSentimentClassifier(model, **(settings | parameters))


@pytest.fixture(scope="module")
def fitted(tiny_bert):
    return classifier(tiny_bert).fit(LONG, SENTIMENTS)


def test_fit_reads_all_windows(fitted):
    assert fitted.score(LONG, SENTIMENTS) == 1.0
    # 15 and 20 tokens: 3 windows of 7, and 3 of 8 tokens; 3 and 2 tokens; [CLS] and [SEP]
    assert [r["n_tokens"] for r in fitted.history_] == [4 * (3 * 9 + 3 * 10 + 5 + 4)] * 8
    assert fitted.n_truncated_ == 0


def test_a_prediction_does_not_depend_on_other_texts(fitted):
    texts = [*LONG[:4], *LONG[:4]]
    proba = fitted.predict_proba(texts)
    assert np.array_equal(proba[:4], proba[4:])
    alone = np.concatenate([fitted.predict_proba([text]) for text in LONG[:4]])
    np.testing.assert_allclose(proba[:4], alone, rtol=0, atol=1e-6)


def test_short_texts_train_and_predict_as_with_any_truncation(tiny_bert, toy_reviews):
    X, y = toy_reviews
    ours = classifier(tiny_bert, max_length=32, max_epochs=2).fit(X, y)
    theirs = classifier(tiny_bert, max_length=32, max_epochs=2, truncation="head+tail").fit(X, y)
    assert np.array_equal(ours.predict_proba(X), theirs.predict_proba(X))
    for mine, reference in zip(ours.model_.parameters(), theirs.model_.parameters(), strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("way", ["pickle", "folder"])
def test_saved_classifiers_read_windows(fitted, tmp_path, way):
    if way == "pickle":
        loaded = pickle.loads(pickle.dumps(fitted))
    else:
        with warnings.catch_warnings(action="ignore"):
            fitted.save_pretrained(tmp_path / "saved")
        loaded = BertSentimentClassifier.from_pretrained(tmp_path / "saved")
    assert loaded.truncation == "windows" and loaded.max_windows == 8
    assert np.array_equal(loaded.predict_proba(LONG), fitted.predict_proba(LONG))


@pytest.mark.parametrize(
    "parameters",
    [
        {"pooling": "mean"},
        {"n_frozen_layers": 1},
        {"early_stopping": True, "validation_fraction": 0.25},
        {"pretraining_epochs": 1},
        {"label_smoothing": 0.1, "class_weight": "balanced"},
        {"max_windows": None},
    ],
)
def test_other_parameters(tiny_bert, parameters):
    clf = classifier(tiny_bert, **parameters).fit(LONG, SENTIMENTS)
    assert clf.predict_proba(LONG).shape == (16, 2)
    assert clone(clf).get_params() == clf.get_params()


def test_partial_fit_and_validation_texts(tiny_bert):
    clf = classifier(tiny_bert).partial_fit(LONG, SENTIMENTS, classes=["bad", "good"])
    assert clf.history_[0]["n_tokens"] == 4 * (3 * 9 + 3 * 10 + 5 + 4)
    clf = classifier(tiny_bert, max_epochs=1).fit(LONG, SENTIMENTS, X_val=LONG, y_val=SENTIMENTS)
    assert clf.history_[0]["val_score"] == clf.score(LONG, SENTIMENTS)


def test_an_interrupted_fit_resumes(tiny_bert, tmp_path, monkeypatch):
    whole = classifier(tiny_bert, max_epochs=3).fit(LONG, SENTIMENTS)
    clf = classifier(tiny_bert, max_epochs=3, checkpoint_dir=tmp_path)
    step, n_steps = Trainer.step, []

    def interrupted(self, *args):
        n_steps.append(1)
        if len(n_steps) == 6:  # in the second epoch
            raise KeyboardInterrupt
        step(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", interrupted)
        clf.fit(LONG, SENTIMENTS)
    n_left = []
    monkeypatch.setattr(Trainer, "step", lambda *args: (n_left.append(1), step(*args))[1])
    clf.fit(LONG, SENTIMENTS)
    assert len(n_left) == 8  # of two epochs
    assert np.array_equal(clf.predict_proba(LONG), whole.predict_proba(LONG))


# What is lost, and what is refused ----------------------------------------------------------------


def test_lost_tokens_are_counted_once(tiny_bert):
    subword_tokenizer = load_pretrained(tiny_bert).subword_tokenizer
    # 40 tokens, of which 3 windows of 8 read 24; and 11 in two windows of 7, 3 of them twice
    texts = ["good film " * 20, "good film ดี " + "dull " * 8]
    tokens = tokenize_in_windows(subword_tokenizer, texts, max_length=MAX_LENGTH, max_windows=3)
    lost = LostTokens.of(tokens, subword_tokenizer)
    assert lost == LostTokens(
        n_texts=2, n_truncated=1, n_kept=26 + 13, n_cut=16, n_special=4, n_unknown=1
    )


def test_the_warning_says_what_is_not_read(tiny_bert):
    clf = classifier(tiny_bert, max_windows=3, max_epochs=1, learning_rate="auto")
    X, y = ["good film " * 20, "dull " * 10], ["good", "bad"]
    with pytest.warns(TruncationWarning) as caught:
        clf.fit(X, y)
    (message,) = [str(w.message) for w in caught if w.category is TruncationWarning]
    assert message == (
        "1 of 2 texts do not fit into max_windows=3 windows of max_length=10 tokens; 16 tokens "
        "between the windows are not read, 29.6% of all. Increase max_windows, or set it to None "
        "for no limit."
    )
    assert clf.n_truncated_ == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", TruncationWarning)
        clf.set_params(max_windows=None).fit(X, y)
    assert clf.n_truncated_ == 0


def test_pairs_are_refused(tiny_bert):
    message = (
        "truncation='windows' with pairs of texts, but only single texts can be read in windows. "
        "Choose truncation='head+tail', or join the two texts of each pair."
    )
    with pytest.raises(ValueError) as error:
        classifier(tiny_bert).fit([("good", "film"), ("so", "dull")], [0, 1])
    assert str(error.value) == message


def test_explain_reads_one_window(fitted):
    message = (
        "X contains texts of more than max_length=10 tokens, which truncation='windows' reads in "
        "several windows, but explain reads one window of each text. Explain the part of the text "
        "that matters, or use set_params(truncation='head+tail') first."
    )
    with pytest.raises(ValueError) as error:
        fitted.explain(LONG)
    assert str(error.value) == message
    (found,) = fitted.explain(["a great joy"])
    assert found.words == ["a", "great", "joy"]
    other = copy.deepcopy(fitted).set_params(truncation="head+tail")
    with pytest.warns(TruncationWarning):
        assert len(other.explain(LONG[:1])[0].words) == ROOM


@pytest.mark.parametrize("value", [1, 0, 2.5, "all"])
def test_other_numbers_of_windows_are_refused(tiny_bert, value):
    with pytest.raises(ValueError, match="The 'max_windows' parameter of BertSentimentClassifier"):
        classifier(tiny_bert, max_windows=value).fit(LONG, SENTIMENTS)


def test_the_transformer_has_no_windows(tiny_bert):
    with pytest.raises(ValueError, match="The 'truncation' parameter of BertEmbeddingTransformer"):
        BertEmbeddingTransformer(tiny_bert, truncation="windows").fit(LONG)
