"""Draw docs/few_labels.svg from the results of bench_few_labels.py.

One panel for each set of texts: accuracy by the number of labels, mean and standard deviation over
the seeds. The line without labels is the classifier that skbert contains; it is missing where there
are texts that are neither negative nor positive.

    python benchmarks/plot_few_labels.py
"""

from __future__ import annotations

import json

import _common as common
import matplotlib
import numpy as np
from bench_few_labels import DEFAULT, FROZEN, PLAIN, SETFIT, TFIDF

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURE = common.HERE.parent / "docs" / "few_labels.svg"
#: Colours that people with colour blindness distinguish (Okabe and Ito 2008).
COLOURS = {
    TFIDF: "#999999",
    FROZEN: "#56B4E9",
    SETFIT: "#E69F00",
    PLAIN: "#009E73",
    DEFAULT: "#D55E00",
}


def main() -> None:
    results = json.loads((common.RESULTS / "few_labels.json").read_text())["results"]
    plt.rcParams["svg.hashsalt"] = "skbert"  # the same file for the same results
    figure, panels = plt.subplots(
        1, len(results), figsize=(3.2 * len(results), 3.4), sharey=True, squeeze=False
    )
    for panel, (name, of_set) in zip(panels[0], results.items(), strict=True):
        for contender, colour in COLOURS.items():
            draw(panel, of_set.get(contender, {}), contender, colour)
        n_tested = {cell["n_test"] for cell in of_set.get(DEFAULT, {}).values() if "n_test" in cell}
        if "0" in of_set.get(DEFAULT, {}) and len(n_tested) == 1:
            accuracy = of_set[DEFAULT]["0"]["accuracy"]
            panel.axhline(accuracy, color=COLOURS[DEFAULT], linestyle=":", label="skbert, no label")
        panel.set(title=name, xlabel="labels", xscale="log")
        numbers = [8, 64, 512, 2048]
        panel.set_xticks(numbers, [f"{n:,}" for n in numbers])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panels[0][0].set_ylabel("accuracy")
    handles = {
        label: handle
        for panel in panels[0]
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=3, frameon=False)
    figure.tight_layout(rect=(0, 0.17, 1, 1))
    figure.savefig(FIGURE, metadata={"Date": None})
    print(f"written: {FIGURE.relative_to(common.HERE.parent)}")


def draw(panel: plt.Axes, found: dict[str, dict], label: str, colour: str) -> None:
    numbers = sorted(int(n) for n, cell in found.items() if "accuracies" in cell)
    if not numbers:
        return
    accuracies = [found[str(n)]["accuracies"] for n in numbers]
    panel.errorbar(
        numbers,
        [np.mean(of_n) for of_n in accuracies],
        [np.std(of_n, ddof=1) for of_n in accuracies],
        color=colour,
        label=label,
        marker="o",
        markersize=3,
        capsize=2,
        linewidth=1.5,
    )


if __name__ == "__main__":
    main()
