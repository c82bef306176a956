"""The parts of benchmarks/bench_stars.py that need no fit: ratings in texts, and the measures."""

import importlib
import sys
from pathlib import Path

import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def ratings():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("_ratings")
    sys.modules.pop("_ratings", None)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("Nice.<br /><br />I rate it 7.5/10, or 4 stars out of 5.", "Nice. I rate it , or ."),
        ("***1/2 out of **** but watch it", "out of but watch it"),
        ("Rating: 3.5/10 (Grade: F)", "( )"),
        ("Dull. Seven out of ten stars.", "Dull. ."),
        ("7 or 8/10 for the cast", "for the cast"),
        ("My grade: B+ for 4 out of a possible 10.", "for ."),
        (
            "The score a master wrote, 12 songs in 2005.",
            "The score a master wrote, 12 songs in 2005.",
        ),
    ],
)
def test_ratings_are_removed(ratings, text, rest):
    assert ratings.without_ratings(text) == rest


def test_ratings_become_stars(ratings):
    assert [ratings.stars(rating) for rating in (0, 0.5, 2, 2.5, 4, 4.5, 6.5, 9, 10)] == (
        [1, 1, 1, 2, 2, 3, 4, 5, 5]
    )


def test_documents_with_one_clear_rating_are_kept(ratings, monkeypatch):
    documents = pd.DataFrame(
        [
            ("A joy. 9/10", "positive"),
            ("A bore. 2 out of ten. Yes, 2/10.", "negative"),
            ("No rating at all.", "positive"),
            ("Not the 8/10 that others gave, but 2/10.", "negative"),  # two ratings
            ("Who gave it 10/10? A waste of time.", "negative"),  # that of others
            ("Others say 8/10, I give it a 7.", "positive"),  # the 7 would remain
            ("On 7/10/2005 I saw it.", "positive"),  # a date
        ],
        columns=["text", "sentiment"],
    )
    monkeypatch.setattr(ratings, "load_movie_reviews", lambda source: documents)
    rated = ratings.rated_documents()
    assert rated.to_numpy().tolist() == [["A joy.", 5], ["A bore. . Yes, .", 1]]
