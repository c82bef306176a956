"""Pictures of a training, of texts and of predictions, in the manner of scikit-learn's displays.

`import skbert.inspection` imports neither torch nor matplotlib. A public name is imported when it
is first used, and `plot` of a display imports matplotlib.
"""

from typing import TYPE_CHECKING

from skbert.engine.lazy_names import lazy_names

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

__getattr__, __dir__ = lazy_names(__name__, _MODULE_OF, __all__)
