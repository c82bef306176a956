"""Draw blocks.svg: tokens, the stack of blocks, [CLS], and what is inside a block."""

from _style import BLUE, GREY, ORANGE, arrow, box, drawing, save

TOKENS = ["[CLS]", "the", "film", "is", "not", "bad", "[SEP]"]
PITCH = 0.78


def main() -> None:
    figure, axes = drawing(9.4, 5.1)
    columns = [0.6 + PITCH * i for i in range(len(TOKENS))]
    middle = (columns[0] + columns[-1]) / 2
    width = columns[-1] - columns[0] + 0.7
    for x, token in zip(columns, TOKENS, strict=True):
        colour = ORANGE if token == "[CLS]" else GREY
        box(axes, x, 0.35, 0.68, 0.36, token, colour, filled=True)
        arrow(axes, (x, 0.55), (x, 0.84), colour)
        arrow(axes, (x, 1.24), (x, 1.5), colour)
        arrow(axes, (x, 1.9), (x, 2.16), colour)
        arrow(axes, (x, 2.86), (x, 3.1), colour)
        arrow(axes, (x, 3.5), (x, 3.74), colour)
        box(axes, x, 3.9, 0.5, 0.26, "", colour, filled=True)
    box(axes, middle, 1.04, width, 0.4, "embeddings: token + position + segment")
    box(axes, middle, 1.7, width, 0.4, "block 1", BLUE, filled=True)
    axes.text(middle, 2.5, ". . .", color=BLUE, ha="center", va="center", fontsize=16)
    box(axes, middle, 3.3, width, 0.4, "block 12 of BERT-base, 24 of BERT-large", BLUE, filled=True)
    arrow(axes, (columns[0], 4.05), (columns[0], 4.42), ORANGE)
    box(axes, columns[0] + 0.45, 4.64, 1.55, 0.4, "linear layer", ORANGE)
    arrow(axes, (columns[0] + 1.24, 4.64), (columns[0] + 1.6, 4.64), ORANGE)
    axes.text(columns[0] + 1.68, 4.64, "negative: 0.3   positive: 0.7", color=ORANGE, va="center")

    x = 7.9
    axes.text(x, 4.64, "inside each block", color=BLUE, ha="center", va="center")
    box(axes, x, 2.5, 2.5, 3.75, "", BLUE)
    inside = (
        (1.15, "self-attention:\neach token reads all tokens"),
        (2.05, "add, normalise"),
        (2.95, "feed-forward network:\neach token by itself"),
        (3.85, "add, normalise"),
    )
    for y, text in inside:
        box(axes, x, y, 2.2, 0.6, text, GREY)
        if y > 2:
            arrow(axes, (x, y - 0.6), (x, y - 0.31), GREY)
    save(figure, "blocks.svg")


if __name__ == "__main__":
    main()
