"""Draw tasks.svg: the two tasks of BERT's pre-training."""

from _style import BLUE, GREY, ORANGE, arrow, box, drawing, save

MASKED = ["[CLS]", "That's", "[MASK]", "she", "[MASK]", "[SEP]"]
ANSWERS = {2: "what", 4: "said"}
PAIR = ["[CLS]", "The", "plot", "is", "thin", "[SEP]", "So", "are", "the", "jokes", "[SEP]"]
N_FIRST = 6
PITCH = 0.8


def main() -> None:
    figure, axes = drawing(9.4, 3.9)
    axes.text(0.2, 3.65, "Masked language model: which words are hidden?", color=GREY, va="center")
    for i, token in enumerate(MASKED):
        x = 0.6 + PITCH * i
        is_hidden = i in ANSWERS
        box(axes, x, 2.45, 0.72, 0.36, token, ORANGE if is_hidden else GREY, filled=is_hidden)
        if is_hidden:
            arrow(axes, (x, 2.65), (x, 2.96), ORANGE)
            box(axes, x, 3.15, 0.72, 0.36, ANSWERS[i], ORANGE)
    axes.text(
        0.2,
        1.75,
        "Next sentence prediction: does the second sentence follow the first?",
        color=GREY,
        va="center",
    )
    for i, token in enumerate(PAIR):
        x = 0.6 + PITCH * i
        colour = BLUE if i >= N_FIRST else GREY
        box(axes, x, 0.55, 0.72, 0.36, token, ORANGE if i == 0 else colour, filled=i == 0)
        axes.text(x, 0.2, f"segment {int(i >= N_FIRST)}", color=colour, fontsize=8, ha="center")
    arrow(axes, (0.6, 0.75), (0.6, 1.06), ORANGE)
    box(axes, 0.98, 1.25, 1.48, 0.36, "yes or no", ORANGE)
    save(figure, "tasks.svg")


if __name__ == "__main__":
    main()
