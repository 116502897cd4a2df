"""Where in the network features collapse: the metrics layer by layer, the law of separation, effective depth.

Computes from a `Run`, writes nothing. Called by notebook 06.
"""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ncbook import backbones, catalog, collapse, runs
from ncbook._checks import check_choice, check_whole, named_arguments
from ncbook.datasets._images import place_in_class
from ncbook.features import extract_layers, resolve_device

__all__ = ["SeparationLaw", "effective_depth", "measure", "separation_law"]
__dir__ = __all__.copy


@named_arguments
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
    rows = (place_in_class(part.labels) < per_class).nonzero().squeeze(1)
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
    """log D = log D_0 + depth · log ρ, fitted by least squares to one network, and how far log D bends away from it.

    No interval: neighboring layers deviate together, so a network's layers are no independent sample. Networks are: an
    interval comes from several of them (`claims.judge` of "law_of_separation").

    Attributes:
        ratio: ρ, the factor per layer; below 1 where classes separate.
        half_life: layers in which D halves; infinite or negative where it does not fall.
        bend: fraction of the fall of log D that is in the first half of the layers, minus 1/2, by a quadratic: 0 for
            the law, above 0 where D falls fastest in the first layers, below 0 where in the last; NaN where D stays.
    """

    ratio: float
    half_life: float
    bend: float


def separation_law(layers: pd.DataFrame) -> SeparationLaw:
    """Fit the law of He and Su (PNAS 2023): separation fuzziness falls by a constant factor per layer.

    Args:
        layers: depth and fuzziness of one network, at least three rows with fuzziness above 0 and consecutive depths.

    Raises:
        ValueError: fewer than three layers, or a fuzziness that is not above 0.

    Example:
        >>> law = separation_law(pd.DataFrame({"depth": [1, 2, 3, 4], "fuzziness": [8.0, 4.0, 2.0, 1.0]}))
        >>> round(law.ratio, 6), round(law.half_life, 6), round(abs(law.bend), 6)
        (0.5, 1.0, 0.0)
    """
    values, depth = layers["fuzziness"].to_numpy(float), layers["depth"].to_numpy(float)
    if len(values) < 3 or not values.min() > 0:
        raise ValueError(f"fuzziness={values.tolist()}; allowed: at least three values above 0")
    # On [-1, 1], evenly spaced, 1, x and x² - mean(x²) are orthogonal: the slope is that of the straight line.
    half = float(depth[-1] - depth[0]) / 2
    square, slope, _ = np.polyfit((depth - depth[0]) / half - 1, np.log(values), 2).tolist()
    falls = abs(slope) > 1e-12
    return SeparationLaw(
        ratio=math.exp(slope / half),
        half_life=-math.log(2) * half / slope if falls else math.inf,
        bend=square / (-2 * slope) if falls else math.nan,
    )


@named_arguments
def effective_depth(layers: pd.DataFrame, tolerance: float = 0.01) -> int | None:
    """First layer from which the nearest class mean errs on at most a fraction ``tolerance``; None where none does.

    As recalled from Galanti, Galanti and Ben-Shaul (2022): the first layer with a mismatch ≤ ε.

    Example:
        >>> effective_depth(pd.DataFrame({"depth": [1, 2, 3], "mismatch": [0.3, 0.008, 0.0]}))
        2
    """
    reached = layers.loc[layers["mismatch"] <= tolerance, "depth"]
    return int(reached.iloc[0]) if len(reached) else None
