"""`TokenAttributionDisplay`: words in colours, as a figure and as HTML; SHAP and LIME."""

import html
import re
from html.parser import HTMLParser

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from skbert import BertSentimentClassifier
from skbert.contract.explanation import TextAttribution
from skbert.inspection import TokenAttributionDisplay
from skbert.inspection.attribution import _AGAINST, _FOR, _STRONGEST


@pytest.fixture(autouse=True)
def no_figures_left():
    matplotlib.use("Agg")
    yield
    plt.close("all")


def attribution(text, words, scores, target="good", word_texts=None):
    """Attribute scores to words, which stand in the text in this order."""
    spans, stops = [], [0, 0]
    numbers = word_texts or [0] * len(words)
    for word, number in zip(words, numbers, strict=True):
        start = (text if isinstance(text, str) else text[number]).index(word, stops[number])
        stops[number] = start + len(word)
        spans.append((start, stops[number]))
    scores, spans = np.array(scores, dtype=float), np.array(spans).reshape(-1, 2)
    texts = np.array(numbers, dtype=np.int64)
    pieces = np.arange(len(words))
    return TextAttribution(
        *(text, target, "occlusion", words, scores, spans, texts),
        *(words, scores, spans, pieces, 1.25, -0.5),
    )


class Spans(HTMLParser):
    """Collects the attributes and the text of all span elements, and all text."""

    def __init__(self, source):
        super().__init__()
        self.spans, self.tags, self.text, self._open = [], set(), "", None
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag == "span":
            self._open = dict(attributes)

    def handle_endtag(self, tag):
        self._open = None if tag == "span" else self._open

    def handle_data(self, data):
        self.text += data
        if self._open is not None:
            self.spans.append((data, self._open))


def test_html_has_each_word_in_its_colour():
    found = attribution("So dull, a joy", ["So", "dull", ",", "a", "joy"], [0, -1, 0.1, 0, 2])
    shown = Spans(TokenAttributionDisplay([found])._repr_html_())
    assert shown.text == "good: logit 1.25, all words hidden -0.50" + "So dull, a joy"
    assert [text for text, _ in shown.spans] == ["So", "dull", ",", "a", "joy"]
    grounds = [re.search(r"rgba\((.+?)\)", span["style"])[1] for _, span in shown.spans]
    assert grounds[1] == "222, 116, 9, 0.28" and grounds[4] == "42, 111, 219, 0.55"
    assert grounds[0].endswith(", 0.00")
    assert shown.spans[1][1]["title"] == "-1.000" and shown.spans[4][1]["title"] == "+2.000"


@pytest.mark.parametrize(
    "word", ["<script>alert(1)</script>", '"onmouseover="x', "&lt;b&gt;", "'", "</div></span>"]
)
def test_a_text_cannot_inject_markup(word):
    found = attribution(f"{word} film", [word, "film"], [1, 0], target=word)
    source = TokenAttributionDisplay([found])._repr_html_()
    shown = Spans(source)
    assert shown.tags == {"div", "small", "b", "span"}
    assert shown.text == f"{word}: logit 1.25, all words hidden -0.50{word} film"
    assert {*shown.spans[0][1]} == {"style", "title"} and html.escape(word) in source


def test_what_is_cut_is_grey_and_pairs_have_a_line_each():
    found = attribution(
        ("good not read bad", "joy"), ["good", "bad", "joy"], [1, 2, 3], word_texts=[0, 0, 1]
    )
    shown = Spans(TokenAttributionDisplay([found])._repr_html_())
    assert shown.text.endswith("good not read badjoy")
    cut = [(text, span) for text, span in shown.spans if span.get("title") == "not read"]
    assert [text for text, _ in cut] == [" not read "] and "opacity" in cut[0][1]["style"]


def luminance(rgb):
    """Compute the relative luminance of WCAG 2.2 from red, green and blue, 0 to 255."""
    values = np.array(rgb) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("colour", [_FOR, _AGAINST])
@pytest.mark.parametrize(
    ("ground", "text"), [((255, 255, 255), (50, 50, 50)), ((20, 24, 30), (206, 214, 221))]
)
def test_words_can_be_read_on_light_and_on_dark_ground(colour, ground, text):
    mixed = _STRONGEST * np.array(colour) + (1 - _STRONGEST) * np.array(ground)
    bright, dark = sorted([luminance(mixed), luminance(text)], reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_the_figure_has_each_word_in_its_colour_within_its_lines():
    words = ["So", "dull", ",", *["a"] * 80, "$joy$"]
    found = attribution(" ".join(words), words, [0, -1, *[0.1] * 81, 2])
    display = TokenAttributionDisplay([found, attribution("a joy", ["a", "joy"], [0, 1])]).plot()
    assert [[word.get_text() for word in text] for text in display.words_] == [words, ["a", "joy"]]
    assert display.figure_ is display.ax_.figure and not display.ax_.axison
    drawn = display.words_[0]
    assert drawn[1].get_bbox_patch().get_facecolor() == pytest.approx(
        (222 / 255, 116 / 255, 9 / 255, _STRONGEST / 2)
    )
    display.figure_.canvas.draw()
    box = display.ax_.get_window_extent()
    for word in [*drawn, *display.words_[1]]:
        extent = word.get_window_extent()
        assert box.x0 - 1 <= extent.x0 and extent.x1 <= box.x1 + 1
        assert box.y0 - 1 <= extent.y0 and extent.y1 <= box.y1 + 1
    lines = {round(word.get_position()[1], 6) for word in drawn}
    assert len(lines) >= 2
    assert drawn[0].get_position()[0] == 0.0 < drawn[1].get_position()[0]


def test_it_draws_into_a_given_axes():
    figure, (left, right) = plt.subplots(1, 2)
    display = TokenAttributionDisplay([attribution("a joy", ["a", "joy"], [0, 1])])
    assert display.plot(left) is display and display.ax_ is left and display.figure_ is figure
    assert right.axison and figure.get_figheight() == plt.rcParams["figure.figsize"][1]


def test_surrogates_and_missing_glyphs_are_drawn():
    found = attribution("x\ud83d 👍 joy", ["x\ud83d", "👍", "joy"], [1, 2, 3], target="\udc00")
    display = TokenAttributionDisplay([found]).plot()
    assert [word.get_text() for word in display.words_[0]] == ["x\ufffd", "👍", "joy"]
    shown = Spans(display._repr_html_().encode().decode())
    assert shown.text == "\ufffd: logit 1.25, all words hidden -0.50" + "x\ufffd 👍 joy"


def test_a_figure_shortens_what_is_cut():
    cut = " ".join(f"w{i}" for i in range(3000))
    display = TokenAttributionDisplay([attribution(f"good {cut} bad", ["good", "bad"], [1, 2])])
    drawn = [text.get_text() for text in display.plot().ax_.texts]
    assert "[2,980 more words not read]" in drawn and len(drawn) == 1 + 2 + 20 + 1
    assert "w9" in drawn and "w10" not in drawn and "w2989" not in drawn and "w2990" in drawn
    assert cut in Spans(display._repr_html_()).text


@pytest.mark.parametrize(
    ("given", "shown"),
    [("a joy", "'a joy' (str)"), (["a joy"], "['a joy'] (list)"), (None, "None (NoneType)")],
)
def test_what_is_no_list_of_attributions_is_refused(given, shown):
    message = (
        f"attributions is {shown}; a list of TextAttribution is required. Pass clf.explain(X), or "
        "[attribution] for a single one."
    )
    for show in (TokenAttributionDisplay(given).plot, TokenAttributionDisplay(given)._repr_html_):
        with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
            show()


def test_a_text_without_words():
    display = TokenAttributionDisplay([attribution("", [], [])])
    assert display.plot().words_ == [[]]
    assert Spans(display._repr_html_()).text == "good: logit 1.25, all words hidden -0.50"


@pytest.fixture(scope="module")
def clf(tiny_bert, toy_reviews):
    settings = {"max_length": 32, "max_epochs": 4, "batch_size": 16, "learning_rate": 3e-3}
    clf = BertSentimentClassifier(tiny_bert, device="cpu", random_state=0, **settings)
    return clf.fit(*toy_reviews)


def test_from_estimator_explains(clf):
    display = TokenAttributionDisplay.from_estimator(
        clf, ["so dull"], target="good", method="occlusion"
    )
    (expected,) = clf.explain(["so dull"], "good", "occlusion")
    (found,) = display.attributions
    np.testing.assert_array_equal(found.word_scores, expected.word_scores)
    assert (found.target, found.method) == ("good", "occlusion")
    assert [word.get_text() for word in display.words_[0]] == ["so", "dull"]


def test_other_estimators_are_refused(clf):
    message = (
        "TokenAttributionDisplay.from_estimator got a Pipeline; a fitted BertSentimentClassifier "
        "is expected. Of a pipeline, pass the step, for example pipeline[-1]; of a search, pass "
        "best_estimator_."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        TokenAttributionDisplay.from_estimator(make_pipeline(FunctionTransformer(), clf), ["a"])
    with pytest.raises(NotFittedError):
        TokenAttributionDisplay.from_estimator(BertSentimentClassifier(), ["a"])


# SHAP and LIME take `predict_proba` as it is.

TEXT = "a film that is a great joy"


@pytest.mark.filterwarnings("ignore")  # of numba, and of the versions of SHAP
def test_shap_explains_the_classifier(clf, monkeypatch):
    numba = pytest.importorskip("numba", reason="SHAP has no wheel for these versions of Python")
    with monkeypatch.context() as patch:
        patch.setattr(numba.config, "DISABLE_JIT", True)  # compiling takes longer than explaining
        shap = pytest.importorskip("shap", reason="SHAP has no wheel for these versions of Python")
    explainer = shap.Explainer(clf.predict_proba, shap.maskers.Text(r"\W+"), seed=0)
    found = explainer([TEXT], silent=True)
    total = found.base_values[0] + found.values[0].sum(axis=0)
    np.testing.assert_allclose(total, clf.predict_proba([TEXT])[0], rtol=0, atol=1e-5)
    words = [word.strip() for word in found.data[0]]
    assert words[found.values[0][:, 1].argmax()] in ("great", "joy")


@pytest.mark.filterwarnings("ignore")
def test_lime_explains_the_classifier(clf):
    lime_text = pytest.importorskip("lime.lime_text", reason="LIME cannot be built here")
    explainer = lime_text.LimeTextExplainer(class_names=[*clf.classes_], random_state=0)
    found = explainer.explain_instance(TEXT, clf.predict_proba, num_samples=200)
    scores = dict(found.as_list())
    assert max(scores, key=scores.get) in ("great", "joy")
    assert found.predict_proba[1] == pytest.approx(clf.predict_proba([TEXT])[0, 1], abs=1e-5)
