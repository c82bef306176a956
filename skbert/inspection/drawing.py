"""What the displays share: the check of the estimator, styles of lines, and a list of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skbert.contract.parameters import TextInputMixin


def check_estimator(estimator: Any, display: type, allowed: str) -> None:
    """Raise an error if a display got no estimator of skbert, but for example a pipeline.

    Parameters
    ----------
    estimator : object
    display : type
        The class of the display, for the message.
    allowed : str
        The estimators that the display accepts, for the message.
    """
    if not isinstance(estimator, TextInputMixin):
        raise refused(estimator, display, allowed)


def refused(estimator: Any, display: type, allowed: str) -> TypeError:
    """Create the error for an estimator that a display does not accept."""
    return TypeError(
        f"{display.__name__}.from_estimator got a {type(estimator).__name__}; {allowed} is "
        "expected. Of a pipeline, pass the step, for example pipeline[-1]; of a search, pass "
        "best_estimator_."
    )


def merge_style(defaults: Mapping[str, Any], given: Mapping[str, Any] | None, artist: type) -> Any:
    """Replace the defaults by what the user gave; short names count, such as "lw" of a line."""
    from matplotlib.cbook import normalize_kwargs

    return {**defaults, **normalize_kwargs(dict(given or {}), artist)}


def mark_style() -> dict[str, Any]:
    """Return the style of a line that marks a position, visible on light and dark ground."""
    from matplotlib import rcParams

    return {"color": rcParams["text.color"], "linestyle": ":", "linewidth": 1.5}


def split_axes(ax: Any, height_ratios: Sequence[float]) -> np.ndarray:
    """Create axes below each other, or take those of the user.

    Parameters
    ----------
    ax : matplotlib Axes, array-like of Axes or None
        One Axes is a bounding box: it becomes invisible, and new axes take its place. None creates
        a figure.
    height_ratios : sequence of float
        The relative height of each of the axes.

    Returns
    -------
    ndarray of shape (n_axes,), of Axes
    """
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes

    n_axes = len(height_ratios)
    if ax is None:
        width = plt.rcParams["figure.figsize"][0]
        figure = plt.figure(figsize=(width, 0.8 + 0.9 * sum(height_ratios)), layout="constrained")
        grid = figure.add_gridspec(n_axes, 1, height_ratios=height_ratios)
    elif isinstance(ax, Axes):
        figure, grid = ax.figure, _grid_in(ax, height_ratios)
    else:
        axes = np.asarray(ax, dtype=object).ravel()
        if len(axes) != n_axes:
            raise ValueError(
                f"ax contains {len(axes)} Axes, but this display draws {n_axes} plots. Pass one "
                f"Axes, which is then divided, or {n_axes} of them."
            )
        return axes
    axes = np.empty(n_axes, dtype=object)
    for number, place in enumerate(grid):
        axes[number] = figure.add_subplot(place, sharex=axes[0])
        axes[number].tick_params(labelbottom=number == n_axes - 1)
    return axes


def _grid_in(ax: Any, height_ratios: Sequence[float]) -> Any:
    """Make an Axes invisible, and divide its place."""
    if not ax.axison:
        raise ValueError(
            "ax is invisible, as after another plot in its place. To draw over that plot, pass "
            "ax=display.axes_ of its display; otherwise pass a new Axes."
        )
    ax.set_axis_off()
    n_axes, place = len(height_ratios), ax.get_subplotspec()
    if place is not None:
        return place.subgridspec(n_axes, 1, height_ratios=height_ratios)
    box = ax.get_position()  # an Axes that is in no grid
    return ax.figure.add_gridspec(
        n_axes,
        1,
        height_ratios=height_ratios,
        left=box.x0,
        right=box.x1,
        bottom=box.y0,
        top=box.y1,
    )
