"""One look for all figures of the pages: readable on white and on black, and small."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent

#: Contrast of at least 4 with both white and #121212.
GREY = "#7b7b7b"
BLUE = "#3a86c8"
ORANGE = "#d9690f"

plt.rcParams |= {
    "svg.hashsalt": "skbert",  # the same file in each run
    "savefig.transparent": True,
    "font.size": 10,
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), GREY),
}


def drawing(width: float, height: float) -> tuple[Figure, Axes]:
    """Make an empty sheet, on which one unit is one inch."""
    figure = plt.figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(
    axes: Axes,
    x: float,
    y: float,
    width: float,
    height: float,
    text: str = "",
    colour: str = GREY,
    filled: bool = False,
) -> None:
    """Draw a rounded box around a text; x and y are the middle."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.06",
            edgecolor=colour,
            facecolor=(*matplotlib.colors.to_rgb(colour), 0.22) if filled else "none",
            linewidth=1.2,
        )
    )
    axes.text(x, y, text, color=colour, ha="center", va="center")


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.2}
    )


def save(figure: Figure, name: str) -> None:
    figure.savefig(HERE / name, metadata={"Date": None})
    print(f"written: docs/figures/{name}")
