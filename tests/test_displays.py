"""The displays draw the numbers of a history and of texts; no weights, no warnings, no network."""

import copy
import math
import re
import sys
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from transformers import BertConfig

from skbert import BertEmbeddingTransformer, BertPretrainer, BertSentimentClassifier
from skbert.engine.files.pretrained import free_pretrained, load_pretrained, load_subword_tokenizer
from skbert.inspection import TokenLengthDisplay, TrainingHistoryDisplay

matplotlib = pytest.importorskip("matplotlib", reason="an extra for plots")
matplotlib.use("Agg")
plt = pytest.importorskip("matplotlib.pyplot", reason="an extra for plots")

HISTORY = [
    {"epoch": 1, "train_loss": 0.7, "val_loss": 0.5, "val_score": 0.75, "learning_rate": 5e-5},
    {"epoch": 2, "train_loss": 0.4, "val_loss": 0.25, "val_score": 0.875, "learning_rate": 3e-5},
    {"epoch": 3, "train_loss": 0.2, "val_loss": 0.625, "val_score": 0.75, "learning_rate": 1e-5},
]
PAIR_RECORD = {
    "epoch": 1,
    "train_loss": 3.0,
    "masked_loss": 2.5,
    "perplexity": math.exp(2.5),
    "next_sentence_loss": 0.5,
    "next_sentence_accuracy": 0.75,
    "learning_rate": 5e-5,
}
TEXTS, LABELS = ["good film", "bad film", "fun", "dull"] * 2, ["pos", "neg"] * 4


@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def clf(tiny_bert):
    """A classifier after two epochs, without validation texts."""
    return classifier(tiny_bert, max_epochs=2).fit(TEXTS, LABELS)


def classifier(model, **parameters):
    return BertSentimentClassifier(model, **({"max_length": 8, "random_state": 0} | parameters))


def exactly(message):
    return f"^{re.escape(message)}$"


def points(line):
    return [*map(tuple, line.get_xydata().tolist())]


def labels_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def ylabels(display):
    return [ax.get_ylabel() for ax in display.axes_]


# The training history


def test_history_values_are_those_of_the_records():
    display = TrainingHistoryDisplay(HISTORY, best_epoch=2).plot()
    assert ylabels(display) == ["Loss (nats)", "Accuracy", "Learning rate"]
    assert [ax.get_xlabel() for ax in display.axes_] == ["", "", "Epoch"]
    assert {key: points(line) for key, line in display.lines_.items()} == {
        "train_loss": [(1, 0.7), (2, 0.4), (3, 0.2)],
        "val_loss": [(1, 0.5), (2, 0.25), (3, 0.625)],
        "val_score": [(1, 0.75), (2, 0.875), (3, 0.75)],
        "learning_rate": [(1, 5e-5), (2, 3e-5), (3, 1e-5)],
    }
    places = {"train_loss": 0, "val_loss": 0, "val_score": 1, "learning_rate": 2}
    for key, place in places.items():
        assert display.lines_[key].axes is display.axes_[place]
    assert labels_of(display.axes_[0]) == ["training", "validation", "best epoch: 2"]
    assert [line.axes for line in display.best_epoch_lines_] == [*display.axes_]
    assert [points(line)[0][0] for line in display.best_epoch_lines_] == [2, 2, 2]
    assert display.history is HISTORY and display.bounding_ax_ is None


def test_lines_of_a_plot_differ_in_colour_and_in_marker():
    display = TrainingHistoryDisplay([HISTORY[0] | PAIR_RECORD]).plot()
    for ax in display.axes_:
        lines = ax.get_lines()
        assert len({line.get_color() for line in lines}) == len(lines)
        assert len({line.get_marker() for line in lines}) == len(lines)


def drawn(display):
    display.figure_.canvas.draw()
    return display


@pytest.mark.parametrize("n_epochs", [1, 2, 7, 40])
def test_epochs_are_integers(n_epochs):
    history = [{"epoch": n, "train_loss": 1 / n} for n in range(1, n_epochs + 1)]
    (ax,) = drawn(TrainingHistoryDisplay(history).plot()).axes_
    left, right = ax.get_xlim()
    texts = [
        text.get_text()
        for place, text in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        if left <= place <= right
    ]
    assert texts and all(text.isdecimal() and 1 <= int(text) <= n_epochs for text in texts)


def test_one_epoch_has_a_visible_marker():
    display = drawn(TrainingHistoryDisplay(HISTORY[:1], best_epoch=1).plot())
    for line in display.lines_.values():
        assert line.get_marker() in "os" and line.get_markersize() >= 4
        (place,) = line.get_xydata()
        x, y = line.axes.transData.transform(place)
        assert line.axes.bbox.contains(x, y)


def test_the_history_of_pairs_has_four_plots():
    display = TrainingHistoryDisplay([PAIR_RECORD]).plot()
    assert ylabels(display) == ["Loss (nats)", "Accuracy", "Perplexity", "Learning rate"]
    assert labels_of(display.axes_[0]) == ["sum of both", "masked words", "next sentence"]
    assert points(display.lines_["next_sentence_accuracy"]) == [(1, 0.75)]
    assert points(display.lines_["perplexity"]) == [(1, math.exp(2.5))]
    assert display.best_epoch_lines_ == []


def test_without_pairs_the_same_loss_is_drawn_once():
    history = [{"train_loss": 2.5, "masked_loss": 2.5, "perplexity": 12.2, "learning_rate": 1e-5}]
    display = TrainingHistoryDisplay(history).plot()
    assert ylabels(display) == ["Loss (nats)", "Perplexity", "Learning rate"]
    assert sorted(display.lines_) == ["learning_rate", "masked_loss", "perplexity"]
    assert labels_of(display.axes_[0]) == ["masked words"]


def test_an_epoch_without_validation_leaves_a_gap():
    display = TrainingHistoryDisplay([{"epoch": 1, "train_loss": 0.9}, HISTORY[1]]).plot()
    assert np.isnan(display.lines_["val_loss"].get_ydata()).tolist() == [True, False]


def test_one_axes_is_divided():
    figure, (ax, other) = plt.subplots(1, 2)
    box = ax.get_position()
    display = TrainingHistoryDisplay(HISTORY).plot(ax=ax)
    assert display.figure_ is figure and display.bounding_ax_ is ax and not ax.axison
    tops = [of_plot.get_position().y1 for of_plot in display.axes_]
    assert tops == sorted(tops, reverse=True)
    for of_plot in display.axes_:
        place = of_plot.get_position()
        assert (place.x0, place.x1) == pytest.approx((box.x0, box.x1))
        assert box.y0 - 1e-9 <= place.y0 < place.y1 <= box.y1 + 1e-9
    assert other.axison and other in figure.axes


def test_an_axes_outside_of_a_grid_is_divided():
    ax = plt.figure().add_axes((0.25, 0.25, 0.5, 0.5))
    display = TrainingHistoryDisplay(HISTORY).plot(ax=ax)
    places = [of_plot.get_position() for of_plot in display.axes_]
    assert places[0].y1 == pytest.approx(0.75) and places[-1].y0 == pytest.approx(0.25)
    assert {(round(p.x0, 9), round(p.x1, 9)) for p in places} == {(0.25, 0.75)}


def test_a_second_display_is_drawn_over_the_first():
    first = TrainingHistoryDisplay(HISTORY).plot()
    second = TrainingHistoryDisplay(HISTORY[:2]).plot(ax=first.axes_)
    assert [*second.axes_] == [*first.axes_] and second.figure_ is first.figure_
    assert len(first.axes_[0].get_lines()) == 4
    assert [ax.get_xlabel() for ax in first.axes_] == ["", "", "Epoch"]


def test_several_axes_of_the_user_each_have_epochs():
    _, axes = plt.subplots(1, 3)
    display = TrainingHistoryDisplay(HISTORY).plot(ax=axes)
    assert [ax.get_xlabel() for ax in axes] == ["Epoch"] * 3
    assert [*display.axes_] == [*axes]


def test_axes_that_do_not_fit():
    _, axes = plt.subplots(2, 1)
    expected = (
        "ax contains 2 Axes, but this display draws 3 plots. Pass one Axes, which is then divided, "
        "or 3 of them."
    )
    with pytest.raises(ValueError, match=exactly(expected)):
        TrainingHistoryDisplay(HISTORY).plot(ax=axes)
    _, ax = plt.subplots()
    TrainingHistoryDisplay(HISTORY).plot(ax=ax)
    expected = (
        "ax is invisible, as after another plot in its place. To draw over that plot, pass "
        "ax=display.axes_ of its display; otherwise pass a new Axes."
    )
    with pytest.raises(ValueError, match=exactly(expected)):
        TrainingHistoryDisplay(HISTORY).plot(ax=ax)


def test_line_styles_of_the_user():
    style = {"line_kw": {"lw": 7, "marker": "x"}, "best_epoch_kw": {"c": "red", "ls": "-"}}
    display = TrainingHistoryDisplay(HISTORY, best_epoch=2).plot(**style)
    for line in display.lines_.values():
        assert (line.get_linewidth(), line.get_marker()) == (7, "x")
    for line in display.best_epoch_lines_:
        assert (line.get_color(), line.get_linestyle()) == ("red", "-")


def contrast(one, other):
    """Contrast of two colours, from 1 to 21, as in WCAG 2."""

    def luminance(color):
        rgb = np.array(matplotlib.colors.to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    darker, lighter = sorted([luminance(one), luminance(other)])
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("style", ["default", "dark_background"])
def test_colours_are_readable_on_their_ground(style):
    with plt.style.context(style):
        history = TrainingHistoryDisplay(HISTORY, best_epoch=2).plot()
        ground = history.axes_[0].get_facecolor()
        for line in history.lines_.values():
            assert contrast(line.get_color(), ground) > 2
        lengths = TokenLengthDisplay(np.array([3, 9]), max_length=5).plot()
        for mark in (*history.best_epoch_lines_, lengths.line_):
            assert contrast(mark.get_color(), ground) > 7
        colors = {bar.get_facecolor() for bar in lengths.bars_ if bar.get_height()}
        assert len(colors) == 2 and all(contrast(color, ground) > 2 for color in colors)


def test_a_history_without_epochs_and_with_strange_keys():
    expected = (
        "history contains 0 epochs; at least 1 is required. Call fit or partial_fit first: an "
        "estimator has an empty history_ if from_pretrained has loaded a published model, or after "
        "a fit with max_epochs=0."
    )
    with pytest.raises(ValueError, match=exactly(expected)):
        TrainingHistoryDisplay([]).plot()
    expected = (
        "The records of history have the keys ['f1', 'loss']; at least one of ['train_loss', "
        "'val_loss', 'masked_loss', 'next_sentence_loss', 'val_score', 'next_sentence_accuracy', "
        "'perplexity', 'learning_rate'] is required. Pass history_ of a fitted estimator."
    )
    with pytest.raises(ValueError, match=exactly(expected)):
        TrainingHistoryDisplay([{"loss": 1, "f1": 0.5}]).plot()


# The training history of estimators


def test_a_fitted_classifier(clf):
    _, ax = plt.subplots()
    display = TrainingHistoryDisplay.from_estimator(clf, ax=ax, line_kw={"linewidth": 5})
    assert display.bounding_ax_ is ax and display.history == clf.history_
    assert ylabels(display) == ["Loss (nats)", "Learning rate"]
    losses = [record["train_loss"] for record in clf.history_]
    assert display.lines_["train_loss"].get_ydata().tolist() == losses
    assert display.lines_["train_loss"].get_linewidth() == 5
    assert display.best_epoch is None and display.best_epoch_lines_ == []


def with_losses(estimator, losses, **attributes):
    """The classifier with another validation loss of each epoch; None is an epoch without."""
    changed = copy.copy(estimator)
    changed.history_ = [
        {"epoch": n, "train_loss": 1.0} | ({} if loss is None else {"val_loss": loss})
        for n, loss in enumerate(losses, start=1)
    ]
    vars(changed).update(attributes)
    return changed


@pytest.mark.parametrize(
    ("losses", "attributes", "best"),
    [
        # Early stopping of a second fit with warm_start knows nothing of the first.
        ([0.1, 0.5, 0.4, 0.6], {"early_stopping": True, "best_epoch_": 3}, 3),
        ([0.5, 0.4, 0.6], {"best_epoch_": 3}, 2),  # validated, but the last epoch is kept
        ([0.5, 0.4, None], {"early_stopping": True, "best_epoch_": 3}, 2),  # then partial_fit
        ([math.nan, 0.4], {"best_epoch_": 2}, 2),
        ([math.nan, math.nan], {"best_epoch_": 2}, None),
        ([None, None], {"early_stopping": True, "best_epoch_": 2}, None),
    ],
)
def test_which_epoch_is_marked(clf, losses, attributes, best):
    changed = with_losses(clf, losses, **attributes)
    display = TrainingHistoryDisplay.from_estimator(changed)
    assert display.best_epoch == best
    marked = [points(line)[0][0] for line in display.best_epoch_lines_]
    assert marked == ([best] if best else [])


def test_early_stopping_and_partial_fit(tiny_bert):
    clf = classifier(tiny_bert, max_epochs=4, early_stopping=True, n_iter_no_change=1)
    clf.fit(TEXTS, LABELS, X_val=TEXTS[:2], y_val=["neg", "pos"])
    display = TrainingHistoryDisplay.from_estimator(clf)
    assert display.best_epoch == clf.best_epoch_
    assert ylabels(display) == ["Loss (nats)", "Accuracy", "Learning rate"]
    clf = classifier(tiny_bert)
    for _ in range(2):
        clf.partial_fit(TEXTS, LABELS, classes=["neg", "pos"])
    display = TrainingHistoryDisplay.from_estimator(clf)
    assert display.lines_["train_loss"].get_xdata().tolist() == [1, 2]
    assert display.best_epoch is None


def test_pretraining(tiny_bert):
    documents = [["good film", "great fun"], ["bad film", "so dull"], ["i hate it", "a waste"]]
    pretrainer = BertPretrainer(tiny_bert, max_length=16, max_epochs=2, random_state=0)
    display = TrainingHistoryDisplay.from_estimator(pretrainer.fit(documents))
    assert ylabels(display) == ["Loss (nats)", "Accuracy", "Perplexity", "Learning rate"]
    assert display.lines_["perplexity"].get_xdata().tolist() == [1, 2]
    clf = classifier(tiny_bert, max_epochs=1, pretraining_epochs=2).fit(TEXTS, LABELS)
    assert len(TrainingHistoryDisplay.from_estimator(clf).history) == 1
    display = TrainingHistoryDisplay(clf.pretraining_history_).plot()
    assert display.lines_["masked_loss"].get_xdata().tolist() == [1, 2]


def test_estimators_without_a_history(tiny_bert, clf):
    untrained = BertPretrainer(tiny_bert, next_sentence=False, max_length=8, max_epochs=0)
    with pytest.raises(ValueError, match=r"^history contains 0 epochs"):
        TrainingHistoryDisplay.from_estimator(untrained.fit(TEXTS))
    with pytest.raises(NotFittedError, match="BertSentimentClassifier instance is not fitted"):
        TrainingHistoryDisplay.from_estimator(classifier(tiny_bert))
    given = {
        "BertEmbeddingTransformer": BertEmbeddingTransformer(tiny_bert),
        "Pipeline": make_pipeline(clf),
        "GridSearchCV": GridSearchCV(clf, {}),
        "list": clf.history_,
    }
    for name, estimator in given.items():
        expected = (
            f"TrainingHistoryDisplay.from_estimator got a {name}; a fitted "
            "BertSentimentClassifier, BertSentimentRegressor or BertPretrainer is expected. Of a "
            "pipeline, pass the step, for example pipeline[-1]; of a search, pass best_estimator_."
        )
        with pytest.raises(TypeError, match=exactly(expected)):
            TrainingHistoryDisplay.from_estimator(estimator)


# Token lengths

# With [CLS] and [SEP], 3, 4, 5 and 12 tokens.
FOUR = ["good", "good film", "not good film", "good film " * 5]


def test_lengths_and_shares_by_hand(tiny_bert):
    estimator = classifier(tiny_bert, max_length=5)
    with warnings.catch_warnings(action="error"):
        display = TokenLengthDisplay.from_estimator(estimator, FOUR)
    assert display.lengths.tolist() == [3, 4, 5, 12] and display.max_length == 5
    assert display.truncated_fraction == 1 / 4  # 12 > 5; 5 tokens fit
    assert display.lost_fraction == 7 / 24  # 12 - 5 of 3 + 4 + 5 + 12
    assert labels_of(display.ax_) == [
        "max_length=5",
        "25.0% of texts truncated,\n29.2% of tokens lost",
    ]
    assert points(display.line_) == [(5.5, 0), (5.5, 1)]  # between 5, which fits, and 6
    assert display.ax_.get_xlabel() == "Tokens per text (special tokens included)"
    assert display.ax_.get_ylabel() == "Number of texts"
    bars = {
        round(bar.get_x() + bar.get_width() / 2, 9): bar.get_height()
        for bar in display.bars_
        if bar.get_height()
    }
    assert bars == {3: 1, 4: 1, 5: 1, 12: 1}


def test_the_shares_are_those_of_the_warning(tiny_bert):
    texts = ["good film " * n for n in range(1, 12)]
    clf = classifier(tiny_bert, max_length=10, max_epochs=1)
    display = TokenLengthDisplay.from_estimator(clf, texts)
    with pytest.warns(UserWarning) as caught:
        clf.fit(texts, ["a", "b"] * 5 + ["a"])
    (message,) = [str(w.message) for w in caught if "max_length" in str(w.message)]
    n_truncated = round(display.truncated_fraction * 11)
    assert message.startswith(f"{n_truncated} of 11 texts are longer") and n_truncated == 7
    assert f"tokens were cut off, {display.lost_fraction:.1%} of all." in message


def test_another_max_length(tiny_bert):
    estimator = classifier(tiny_bert, max_length=5)
    display = TokenLengthDisplay.from_estimator(estimator, FOUR, max_length=12)
    assert (display.truncated_fraction, display.lost_fraction) == (0.0, 0.0)
    assert labels_of(display.ax_)[1] == "0.0% of texts truncated,\n0.0% of tokens lost"
    assert estimator.max_length == 5
    other = TokenLengthDisplay(display.lengths, max_length=3).plot(ax=plt.subplots()[1])
    assert (other.truncated_fraction, other.lost_fraction) == (3 / 4, 12 / 24)


@pytest.mark.parametrize(
    ("max_length", "error", "expected"),
    [
        (65, ValueError, "max_length=65, but the model has 64 positions; allowed are 3 to 64 "),
        (2, ValueError, "The 'max_length' parameter of TokenLengthDisplay.from_estimator must be "),
        (9.5, ValueError, "The 'max_length' parameter of TokenLengthDisplay.from_estimator must "),
    ],
)
def test_a_max_length_that_is_not_allowed(tiny_bert, max_length, error, expected):
    with pytest.raises(error, match=f"^{re.escape(expected)}"):
        TokenLengthDisplay.from_estimator(classifier(tiny_bert), FOUR, max_length=max_length)


def without_weights(model, folder):
    """A copy of a model whose weights cannot be read."""
    for path in Path(model).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert (folder / "model.safetensors").is_file()
    (folder / "model.safetensors").write_bytes(b"no weights")
    return str(folder)


@pytest.mark.parametrize(
    "kind", [BertSentimentClassifier, BertEmbeddingTransformer, BertPretrainer]
)
def test_an_estimator_that_is_not_fitted_needs_no_weights(tiny_bert, tmp_path, kind):
    model = without_weights(tiny_bert, tmp_path)
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_pretrained(model)
    estimator = kind(model, max_length=6)
    before = dict(vars(estimator))
    display = TokenLengthDisplay.from_estimator(estimator, FOUR)
    assert display.lengths.tolist() == [3, 4, 5, 12] and display.truncated_fraction == 1 / 4
    assert vars(estimator) == before


def test_the_tokenizer_is_that_of_the_loaded_model(tiny_bert):
    texts = ["Good, good films!", "", "\U0001f600 unbelievable", "a\x85b\ud800"]
    loaded = load_pretrained(tiny_bert).subword_tokenizer
    counted = load_subword_tokenizer(tiny_bert).count_tokens(texts)
    tokens = loaded(texts, max_length=10_000, truncation="head")
    assert counted.tolist() == tokens.lengths.tolist() and counted[1] == 2


def test_a_fitted_estimator_needs_no_model(tiny_bert, tmp_path):
    for path in Path(tiny_bert).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    clf = classifier(str(tmp_path), max_epochs=1).fit(TEXTS, LABELS)
    embedder = BertEmbeddingTransformer(str(tmp_path), store_weights=True, max_length=8)
    embedder.__setstate__(embedder.fit(TEXTS).__getstate__())
    for path in tmp_path.iterdir():
        path.unlink()
    free_pretrained()
    for estimator in (clf, embedder):
        display = TokenLengthDisplay.from_estimator(estimator, FOUR)
        assert display.lengths.tolist() == [3, 4, 5, 12]


def test_pairs(tiny_bert):
    pairs = [("good", "film"), ("good film", "not good film")]  # and three special tokens
    for X in (pairs, pd.DataFrame(pairs, columns=["first", "second"])):
        display = TokenLengthDisplay.from_estimator(classifier(tiny_bert), X, max_length=7)
        assert display.lengths.tolist() == [5, 8]
        assert (display.truncated_fraction, display.lost_fraction) == (1 / 2, 1 / 13)


def test_documents_of_a_pretrainer(tiny_bert):
    documents = [["good film", "not good"], ["dull"]]
    pretrainer = BertPretrainer(tiny_bert, max_length=5)
    display = TokenLengthDisplay.from_estimator(pretrainer, documents)
    assert display.lengths.tolist() == [6, 3]


def test_a_pretrainer_from_scratch_has_a_vocabulary_after_fit():
    tiny = BertConfig(
        vocab_size=60,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    pretrainer = BertPretrainer(tiny, next_sentence=False, max_length=16, random_state=0)
    expected = (
        "TokenLengthDisplay got a BertPretrainer whose model is a configuration and which is not "
        "fitted, but its vocabulary is learned by fit. Call fit first."
    )
    with pytest.raises(ValueError, match=exactly(expected)):
        TokenLengthDisplay.from_estimator(pretrainer, TEXTS)
    display = TokenLengthDisplay.from_estimator(pretrainer.fit(TEXTS), TEXTS)
    assert len(display.lengths) == 8 and display.lengths.min() > 2


def test_unknown_emoji_are_counted_as_the_estimator_reads_them(tiny_bert):
    texts = ["good \U0001f600"]
    by_name, as_unknown = (
        TokenLengthDisplay.from_estimator(classifier(tiny_bert, emoji_names=named), texts)
        for named in (True, False)
    )
    assert as_unknown.lengths.tolist() == [4] and by_name.lengths[0] > 4


def test_texts_that_an_estimator_refuses(tiny_bert, clf):
    with pytest.raises(ValueError, match=r"^X has 0 texts"):
        TokenLengthDisplay.from_estimator(classifier(tiny_bert), [])
    with pytest.raises(TypeError, match=r"^X is a single str"):
        TokenLengthDisplay.from_estimator(classifier(tiny_bert), "good film")
    with pytest.raises(ValueError, match=r"^X contains pairs of texts, but BertSent"):
        TokenLengthDisplay.from_estimator(clf, [("good", "film")])
    expected = (
        "TokenLengthDisplay.from_estimator got a Pipeline; an estimator of skbert is expected. Of "
        "a pipeline, pass the step, for example pipeline[-1]; of a search, pass best_estimator_."
    )
    with pytest.raises(TypeError, match=exactly(expected)):
        TokenLengthDisplay.from_estimator(make_pipeline(clf), FOUR)
    expected = (
        "lengths contains 0 texts; a minimum of 1 is required. Pass the number of tokens of each "
        "text."
    )
    empty = TokenLengthDisplay(np.array([]), max_length=8)
    with pytest.raises(ValueError, match=exactly(expected)):
        empty.plot()
    with pytest.raises(ValueError, match=exactly(expected)):
        _ = empty.truncated_fraction
    with pytest.raises(ValueError, match=exactly(expected)):
        _ = empty.lost_fraction


@pytest.mark.parametrize("max_length", [5, 128, 512])
@pytest.mark.parametrize("longest", [1, 60, 3_000])
def test_the_bars_have_one_width_and_end_at_max_length(max_length, longest):
    lengths = 2 + np.random.default_rng(0).integers(0, longest, 500)
    display = TokenLengthDisplay(lengths, max_length=max_length).plot()
    widths = {round(bar.get_width(), 6) for bar in display.bars_}
    assert len(widths) == 1 and widths.pop() % 1 == 0 and 0 < len(display.bars_) <= 402
    assert sum(bar.get_height() for bar in display.bars_) == 500
    truncated = sum(bar.get_height() for bar in display.bars_ if bar.get_x() > max_length)
    assert truncated == np.count_nonzero(lengths > max_length)
    kept, cut = (matplotlib.colors.to_rgba(color) for color in ("C0", "C1"))
    for bar in display.bars_:
        assert bar.get_facecolor() == (cut if bar.get_x() > max_length else kept)
    left, right = display.ax_.get_xlim()
    assert left == 0 and right > max_length


def test_a_very_long_text_leaves_the_others_visible():
    lengths = np.array([*range(10, 30)] * 10 + [100_000])
    display = TokenLengthDisplay(lengths, max_length=32).plot()
    assert display.ax_.get_xlabel() == (
        "Tokens per text (special tokens included; last bar: 64 or more)"
    )
    assert display.ax_.get_xlim()[1] < 70 and display.bars_[-1].get_height() == 1
    assert labels_of(display.ax_)[1] == "0.5% of texts truncated,\n96.2% of tokens lost"


def test_nearly_nothing_is_not_nothing():
    lengths = np.array([10] * 5_000 + [12])
    display = TokenLengthDisplay(lengths, max_length=11).plot()
    assert labels_of(display.ax_)[1] == "<0.1% of texts truncated,\n<0.1% of tokens lost"
    display = TokenLengthDisplay(np.array([12] * 5_000 + [10]), max_length=11).plot()
    assert labels_of(display.ax_)[1].startswith(">99.9% of texts truncated")


def test_styles_of_the_histogram():
    _, ax = plt.subplots()
    display = TokenLengthDisplay(np.array([3, 4, 9]), max_length=5).plot(
        ax, hist_kw={"fc": "red", "bins": 3, "density": True}, line_kw={"lw": 4}
    )
    assert display.ax_ is ax and display.figure_ is ax.figure and len(display.bars_) == 3
    assert {bar.get_facecolor() for bar in display.bars_} == {(1.0, 0.0, 0.0, 1.0)}
    assert display.line_.get_linewidth() == 4 and ax.get_ylabel() == "Density"
    TokenLengthDisplay(np.array([3, 4, 9]), max_length=5).plot(hist_kw={"histtype": "step"})


def test_long_texts_need_little_memory(tiny_bert):
    texts = ["good film " * 1_500] * 60
    subword_tokenizer = load_subword_tokenizer(tiny_bert)
    tracemalloc.start()
    try:
        counted = subword_tokenizer.count_tokens(texts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counted.tolist() == [3_002] * 60
    assert peak < 700_000  # the ids of all texts need twice as much, the words of one text 0.2 MB


@pytest.mark.parametrize("display", [TrainingHistoryDisplay, TokenLengthDisplay])
def test_without_matplotlib(monkeypatch, display, tiny_bert):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    estimator = classifier(tiny_bert)
    arguments = (estimator, FOUR) if display is TokenLengthDisplay else (estimator,)
    expected = f"{display.__name__}.from_estimator requires matplotlib."
    with pytest.raises(ImportError, match=f"^{re.escape(expected)}"):
        display.from_estimator(*arguments)
    made = display([4], max_length=3) if display is TokenLengthDisplay else display(HISTORY)
    with pytest.raises(ImportError, match=rf"^{display.__name__}\.plot requires matplotlib\."):
        made.plot()
