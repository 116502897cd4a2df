"""Where in the network features collapse: the metrics layer by layer, the law of separation, effective depth.

Computes from a `Run`, writes nothing. Called by notebook 06.
"""

import math
from typing import NamedTuple

import pandas as pd
import torch

from ncbook import backbones, catalog, collapse, runs
from ncbook._checks import check_choice, check_whole
from ncbook.features import extract_layers, resolve_device

__all__ = ["SeparationLaw", "effective_depth", "measure", "separation_law"]
__dir__ = __all__.copy


def measure(run: runs.Run, split: str = "source_train", epoch: int | None = None, per_class: int = 100) -> pd.DataFrame:
    """Collapse by layer: outputs of each layer, flattened, on the first samples of every class.

    Args:
        run: a run.
        split: "source_train", "source_test", "novel" or "validation".
        epoch: a measured epoch; None: the last.
        per_class: samples of each class that are looked at, at least 2; all, where a class has fewer. CDNV and
            fuzziness depend on it a little, so compare layers and networks at the same number.

    Returns:
        One row per layer, in order of depth: layer, depth (1, 2, …), dim, cdnv, fuzziness
        (`collapse.separation_fuzziness`) and mismatch (`collapse.class_mean_mismatch`).

    Raises:
        ValueError: an unknown split, an epoch that was not kept, or per_class below 2.
    """
    check_choice("split", split, catalog.SPLITS)
    check_whole("per_class", per_class, 2)
    part = getattr(run.splits, split)
    counts = part.labels.bincount()
    place = (counts.cumsum(0) - counts)[part.labels]  # [N] where the sample's class begins
    rows = (place.new_ones(len(place)).cumsum(0) - 1 - place < per_class).nonzero().squeeze(1)
    labels = part.labels[rows]
    backbone = run.model(epoch).to(resolve_device(run.device))
    names = backbones.layers(run.experiment.backbone)
    found, before = [], None
    for name, features in zip(names, extract_layers(backbone, part.images[rows], names), strict=True):
        if before is not None and torch.equal(before, features):  # the features are the last layer, flattened
            continue
        values = (collapse.cdnv, collapse.separation_fuzziness, collapse.class_mean_mismatch)
        found.append((name, len(found) + 1, features.shape[1], *(float(f(features, labels)) for f in values)))
        before = features
    return pd.DataFrame(found, columns=["layer", "depth", "dim", "cdnv", "fuzziness", "mismatch"])


class SeparationLaw(NamedTuple):
    """log D = log D_0 + depth · log ρ, fitted by least squares.

    Attributes:
        ratio: ρ, the factor per layer; below 1 where classes separate.
        low, high: 95 % interval of ρ, by Student's t on the slope.
        half_life: layers in which D halves; infinite or negative where it does not fall.
        correlation: Pearson's, of log D and depth; -1 for an exact law with ρ < 1.
    """

    ratio: float
    low: float
    high: float
    half_life: float
    correlation: float


def separation_law(layers: pd.DataFrame) -> SeparationLaw:
    """Fit the law of He and Su (PNAS 2023): separation fuzziness falls by a constant factor per layer.

    Args:
        layers: depth and fuzziness, at least three rows with fuzziness above 0.

    Raises:
        ValueError: fewer than three layers, or a fuzziness that is not above 0.

    Example:
        >>> law = separation_law(pd.DataFrame({"depth": [1, 2, 3, 4], "fuzziness": [8.0, 4.0, 2.0, 1.0]}))
        >>> round(law.ratio, 6), round(law.half_life, 6), round(law.correlation, 6)
        (0.5, 1.0, -1.0)
    """
    values = layers["fuzziness"].tolist()
    if len(values) < 3 or min(values) <= 0:
        raise ValueError(f"fuzziness={values}; allowed: at least three values above 0")
    from scipy.stats import linregress, t  # a second to import: only where it is needed

    fit = linregress(layers["depth"].to_numpy(float), [math.log(value) for value in values])
    half = t.ppf(0.975, len(values) - 2) * fit.stderr
    return SeparationLaw(
        ratio=math.exp(fit.slope),
        low=math.exp(fit.slope - half),
        high=math.exp(fit.slope + half),
        half_life=float(-math.log(2) / fit.slope) if fit.slope else math.inf,
        correlation=float(fit.rvalue),
    )


def effective_depth(layers: pd.DataFrame, tolerance: float = 0.01) -> int | None:
    """First layer from which the nearest class mean errs on at most a fraction ``tolerance``; None where none does.

    As recalled from Galanti, Galanti and Ben-Shaul (2022): the first layer with a mismatch ≤ ε.

    Example:
        >>> effective_depth(pd.DataFrame({"depth": [1, 2, 3], "mismatch": [0.3, 0.008, 0.0]}))
        2
    """
    reached = layers.loc[layers["mismatch"] <= tolerance, "depth"]
    return int(reached.iloc[0]) if len(reached) else None
