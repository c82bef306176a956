"""Pictures of a training, of texts and of predictions, in the manner of scikit-learn's displays.

`import skbert.inspection` imports neither torch nor matplotlib. A public name is imported when it
is first used, and `plot` of a display imports matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skbert.contract.explanation import TextAttribution
    from skbert.inspection.attribution import TokenAttributionDisplay
    from skbert.inspection.history import TrainingHistoryDisplay
    from skbert.inspection.lengths import TokenLengthDisplay

_MODULE_OF = {
    "TextAttribution": "skbert.contract.explanation",
    "TokenAttributionDisplay": "skbert.inspection.attribution",
    "TokenLengthDisplay": "skbert.inspection.lengths",
    "TrainingHistoryDisplay": "skbert.inspection.history",
}

__all__ = [
    "TextAttribution",
    "TokenAttributionDisplay",
    "TokenLengthDisplay",
    "TrainingHistoryDisplay",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'skbert.inspection' has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
