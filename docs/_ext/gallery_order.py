"""The order of the examples in the gallery: first steps first."""

ORDER = [
    "plot_quickstart.py",
    "plot_token_lengths.py",
    "plot_training_history.py",
    "plot_explanations.py",
    "plot_error_analysis.py",
    "plot_embeddings_grid.py",
    "plot_text_and_numbers.py",
    "plot_contextual_words.py",
    "plot_pretraining.py",
]


def by_order(name: str) -> tuple[int, str]:
    """Sort key of an example; one that is not named above comes last."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)
