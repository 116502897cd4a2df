"""Explorers: the theory to touch. A picture of a run, of features or of a bound, with controls that are traits.

Displayed alone in a cell: live in JupyterLab and voila, a PNG everywhere else. No formulas here: numbers come from
`fewshot`, `collapse` and `theory`; widgets are imported when one is shown.
"""

from .bound import BoundExplorer
from .collapse import CollapseExplorer
from .episode import EpisodeExplorer

__all__ = ["BoundExplorer", "CollapseExplorer", "EpisodeExplorer"]
__dir__ = __all__.copy
