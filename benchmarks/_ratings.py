"""IMDB documents whose authors write a rating such as "7/10" -> texts without it, and stars.

No set of reviews with stars is in a package. But about 2,000 documents of IMDB contain exactly one
rating out of 10. The rating gives the stars, and everything that looks like one is removed. Where a
number may still be a rating, as in "I give it a 7", the text is left out.

IMDB's documents are those with clear ratings, at most 4 or at least 7. So 3 of 5 stars are rare.
A rating on the other side of the document's sentiment is that of another film, or of other people.
A handful of texts still hint at their rating, in words that no pattern finds.
"""

from __future__ import annotations

import math
import re

import pandas as pd

from skbert.datasets import load_movie_reviews

_RATING = re.compile(
    r"(?<![\d/.,-])(10|[0-9](?:\.\d)?)\s?(?:/|out of)\s?(?:10|ten)\b(?!/)", re.IGNORECASE
)

_WORDS = "zero|one|two|three|four|five|six|seven|eight|nine|ten"
_NUMBER = rf"(?:\d+(?:[.,]\d+)?|(?:{_WORDS})\b|half)"
_SCALE = rf"(?:an?\s+(?:possible\s+)?)?(?:{_NUMBER})"
#: What is removed: ratings in numbers, words, stars and grades.
_REMOVED = re.compile(
    rf"(?:{_NUMBER}\s*(?:-|or|to)\s*)?(?:{_NUMBER}|\*+)?[\s-]*(?:stars?\s*)?(?:/|\bout\s+of)\s*{_SCALE}(?:'?s)?(?:\s*stars?)?"
    rf"|{_NUMBER}[\s-]*(?:and\s+a\s+half[\s-]*|1/2\s*)?(?:\*|stars?\b|points?\b)"
    r"|\*{2,}(?:\s*1/2|½)?"
    r"|\b(?:my\s+)?(?:ratings?|grades?|scores?|votes?|verdict)\b"
    rf"(?:[^.!?\w]{{0,4}}{_NUMBER}|\s*(?::\s*|of\s+)[a-f]\b[+-]?|\s+[a-f][+-](?!\w))",
    re.IGNORECASE,
)

#: Digits from 0 to 10, and their words, except "one", which is mostly a pronoun.
_LEVEL = (
    r"(?:(?<![\d.,])(?:10|\d)(?:\.\d)?(?![\d])|zero|two|three|four|five|six|seven|eight|nine|ten)"
)
#: What may still be a rating: a number after a word for ratings, or "a 7" at the end of a phrase.
_DOUBTFUL = re.compile(
    r"\b(?:rat(?:e|es|ed|ing)|giv(?:e|es|ing|en)|gave|scor\w+|grad(?:e|es|ed|ing)|vot\w+|stars?"
    rf"|gets|earns|deserves?|merits?|scale)\b[^.!?]{{0,40}}(?<!\w){_LEVEL}\b"
    r"|\b(?:rat(?:e|ed|ing)|give|gave|deserves?)\b[^.!?]{0,20}(?:\b(?:an?|the)\s+one|\b[b-f])\b"
    rf"|\bpoints?\b[^.!?]{{0,12}}(?<!\w){_LEVEL}\b"
    rf"|\b(?:an?|my)\s+(?:\w+\s+)?(?:{_LEVEL}|one)\s*(?:$|[.,!?;:)<]|\b(?:for|because|but|only|and|at)\b)"
    r"|\bout\s+of\b\s*(?:\d|ten)|/\s*10\b|\b[a-f][+-](?!\w)",
    re.IGNORECASE,
)


def rated_documents() -> pd.DataFrame:
    """Columns "text", without ratings, and "stars", from 1 to 5."""
    rows = []
    for document in load_movie_reviews("imdb").itertuples():
        ratings = {float(found) for found in _RATING.findall(document.text)}
        if len(ratings) != 1:
            continue
        (rating,) = ratings
        is_other = rating < 5 if document.sentiment == "positive" else rating > 6
        text = without_ratings(document.text)
        if not is_other and not _DOUBTFUL.search(text):
            rows.append((text, stars(rating)))
    return pd.DataFrame(rows, columns=["text", "stars"])


def without_ratings(text: str) -> str:
    """Remove what looks like a rating, and the marks of line breaks.

    Examples
    --------
    >>> without_ratings("Nice.<br /><br />I rate it 7.5/10, or 4 stars out of 5.")
    'Nice. I rate it , or .'
    """
    return " ".join(_REMOVED.sub(" ", text.replace("<br />", " ")).split())


def stars(rating: float) -> int:
    """Convert a rating from 0 to 10 to 1 to 5 stars.

    Examples
    --------
    >>> [stars(rating) for rating in (0, 2, 2.5, 10)]
    [1, 1, 2, 5]
    """
    return max(1, math.ceil(rating / 2))
