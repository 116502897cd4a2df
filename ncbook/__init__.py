"""Neural collapse and few-shot transfer: the package behind the numbered notebooks.

``import ncbook`` loads no torch: every name below is imported when it is first used, so that a wrong
parameter is refused at once.
"""

import contextlib
import os

import lazy_loader

from ncbook import installation

__version__ = "1.0.0"

installation.check_pair()
# Torch's threads wait for each other by spinning, 300,000 rounds at every operation unless told otherwise, which holds
# all of them up where another process takes one core: 10 times slower. They sleep sooner here, and the bits are the
# same. It counts where torch is imported after this.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# A relative path is meant from the folder in which this is imported, also after the process has gone elsewhere.
for _name in ("NCBOOK_DATA", "NCBOOK_RUNS", "NCBOOK_CACHE", "NCBOOK_FIGURES"):
    _folder = os.path.expanduser(os.environ.get(_name, ""))
    if _folder and not os.path.isabs(_folder):
        with contextlib.suppress(FileNotFoundError):  # a working folder that was deleted
            os.environ[_name] = os.path.join(os.getcwd(), _folder)
del _name, _folder

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "backbones",
        "catalog",
        "claims",
        "collapse",
        "datasets",
        "experiment",
        "explorers",
        "features",
        "fewshot",
        "installation",
        "episodewise",
        "layerwise",
        "objectives",
        "plots",
        "progress",
        "published",
        "report",
        "runs",
        "sweeps",
        "theory",
        "training",
    ],
    submod_attrs={
        "experiment": ["Experiment", "ParameterError", "check_parameters"],
        "report": ["compare_models"],  # the room itself can be called: see there
        "runs": ["Run"],
        "sweeps": ["sweep"],
        "training": ["train"],
    },
)
