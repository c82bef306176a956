"""Draw attribution.svg: a review whose words are coloured by what they contribute.

The words stand on white, so that they can be read on pages of any colour.
"""

import matplotlib.pyplot as plt
from _style import save

from skbert import BertSentimentClassifier
from skbert.inspection import TokenAttributionDisplay

REVIEWS = [
    "The plot is thin and most of the jokes are tired, but the two leads are a joy to watch.",
    "Three hours of beautiful pictures, and I have never been so bored in a cinema.",
]


def main() -> None:
    clf = BertSentimentClassifier.from_pretrained("skbert/minilm-sentiment", device="cpu")
    dark_on_white = {"text.color": "#1f2328", "figure.facecolor": "white", "font.size": 12}
    with plt.rc_context({**dark_on_white, "savefig.transparent": False}):
        figure = plt.figure(figsize=(8, 6))
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
        display = TokenAttributionDisplay(clf.explain(REVIEWS)).plot(axes)
        drawn = [word.get_window_extent().y0 for text in display.words_ for word in text]
        height = (figure.bbox.height - min(drawn)) / figure.dpi + 0.15
        figure.set_figheight(height)
        margin = 0.12 / height
        axes.set_position((0.02, margin, 0.96, 1 - 2 * margin))
        axes.set_ylim(1 - (height - 0.24) / (6 * 0.96), 1)
        save(figure, "attribution.svg")


if __name__ == "__main__":
    main()
