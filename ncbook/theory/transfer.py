"""The steps around the two-class bound: from samples to their distribution, to new classes, from two classes to k."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ncbook._checks import check_real, check_whole, named_arguments, not_a_tensor

from ._checks import check_at_least, check_cdnv, check_pool
from .quadratic import quadratic_bound


@named_arguments
def new_classes_half_width(n_classes: int, *, confidence: float = 0.95) -> float:
    r"""Half width of an interval for the expected pair error of new classes, from l classes ("new classes", fixed f).

    .. math:: \Bigl|\mathop{\mathrm{Avg}}_{i \ne j} \varphi(P_i, P_j) - E\varphi\Bigr|
              \le \sqrt{\frac{\ln(2/\delta)}{2\lfloor l/2 \rfloor}} \quad\text{with probability } 1 - \delta

    for classes drawn i.i.d. and any symmetric phi in [0, 1], such as the error of a pair or a bound capped at 1; not
    the CDNV, which is unbounded and may have no mean. It does not cover features trained on the same classes: those
    need a supremum over networks.

    Proof sketch: the average over pairs is an average over orders of the classes of averages of floor(l / 2)
    independent pairs; convexity of exp carries Hoeffding's inequality over (Hoeffding, 1963, section 5).

    Args:
        n_classes: l >= 2.
        confidence: 1 - delta, between 0 and 1.

    Returns:
        The half width; vacuous above 1.

    Raises:
        ValueError: fewer than two classes, a confidence outside (0, 1).

    Example:
        >>> round(new_classes_half_width(64), 4)  # sqrt(ln(40) / 64)
        0.2401
    """
    check_whole("n_classes", n_classes, 2)
    check_real("confidence", confidence, 0, 1, above_low=True, below_high=True)
    return math.sqrt(math.log(2 / (1 - confidence)) / (2 * (n_classes // 2)))


def multiclass_bound(pair_errors: Tensor) -> Tensor:
    r"""Union bound from two-class errors to the k-way error.

    .. math:: Err_P(f) \le (k-1)\, \mathrm{Avg}_{i \ne j} Err_{P_{ij}}(f)

    Proof: a sample of class i is misclassified only if some rival j is at least as near as i, and that is an error of
    the pair (i, j) with the same shots; sum over j, average over i.

    Args:
        pair_errors: [k, k] with anything (NaN) on the diagonal.

    Returns:
        0-d tensor, at least 0; vacuous above 1.

    Raises:
        ValueError: not a square matrix of at least two classes.

    Example:
        >>> multiclass_bound(torch.tensor([[torch.nan, 0.1, 0.2], [0.1, torch.nan, 0.3], [0.2, 0.3, torch.nan]]))
        tensor(0.4000)
    """
    return (len(pair_errors) - 1) * _off_diagonal("pair_errors", pair_errors).mean()


def _off_diagonal(name: str, pairs: Tensor) -> Tensor:
    """The pairs of a matrix; a NaN among them would be a pair that is not known."""
    if not isinstance(pairs, Tensor):
        raise not_a_tensor(name, pairs, "[k, k]")
    shape = list(pairs.shape)
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        raise ValueError(f"{name} has shape {shape}; allowed: [k, k] with k of at least 2")
    pairs = pairs[~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)]
    check_at_least(name, pairs, 0, infinite=True)
    return pairs


@named_arguments
def without_replacement_factor(samples: int, shot: int) -> float:
    r"""Factor m / (m - n) from the error over all m samples to the error over those not drawn as shots.

    It holds for shots drawn *without* replacement and a fixed f: the mean error on the m - n left-over samples is
    unbiased for the population's error and at most m / (m - n) times the mean error over all m, split by split. With
    shots drawn with replacement from the m samples the factor is `iid_shots_factor`, which is larger. Within
    `cdnv_bound` no factor is needed: see its ``pool``.

    Args:
        samples: m, samples per class.
        shot: n < m.

    Returns:
        A number above 1.

    Raises:
        ValueError: fewer than one shot, or no sample left.

    Example:
        >>> without_replacement_factor(500, 5)
        1.0101010101010102
    """
    samples, shot = check_pool("samples", samples, shot)
    return samples / (samples - shot)


def iid_shots_factor(samples: int, shot: int) -> float:
    r"""Factor from the error with shots drawn *with* replacement from the m samples to the population's error.

    .. math:: 1 \Big/ \Bigl[\prod_{i=1}^{n}\Bigl(1 - \tfrac im\Bigr) \prod_{i=1}^{n-1}\Bigl(1 - \tfrac im\Bigr)\Bigr]

    the reciprocal of the probability that n shots of the query's class differ from the query and from each other,
    and n shots of the rival from each other: under that condition all are independent draws of the population. The
    slides' factor m / (m - n) is smaller and does not cover this scheme.

    Args:
        samples: m, samples per class.
        shot: n < m.

    Returns:
        A number above 1.

    Raises:
        ValueError: fewer than one shot, or no sample left.

    Example:
        >>> round(iid_shots_factor(500, 5), 4)
        1.0515
    """
    check_whole("shot", shot, 1)
    check_pool("samples", samples, shot)
    distinct = math.prod(1 - i / samples for i in range(1, shot + 1))
    return 1 / (distinct * math.prod(1 - i / samples for i in range(1, shot)))


@dataclass(frozen=True)
class CombinedBound:
    """The combined statement in both published versions: a number for what is known, words and rates for what is not.

    Attributes:
        leading: (k-1) m/(m-n) (1+1/n) Avg V: what the constant of the two-class bound multiplies.
        proved: (k-1) Avg of `quadratic_bound` with its pool: for a fixed f, in the mean over the draw of the samples,
            it bounds the error of tasks made of these classes, all constants known.
        class_term: (k-1) sqrt(q ln l) / (sqrt(l) Lambda), to be multiplied by an *unknown* constant times C(f).
        sample_term: n sqrt(q) / (sqrt(m) Lambda), likewise.
        later_leading: k Avg V, of the later version.
        later_term: k (n^2 / sqrt(m) + 1 / sqrt(l)) / Lambda of the later version, likewise; logarithms are left out.
        unknown: what no source that could be read states.
    """

    leading: float
    proved: float
    class_term: float
    sample_term: float
    later_leading: float
    later_term: float
    unknown: tuple[str, ...] = (
        "c1 and c4, the constants of the leading terms (for two classes 4 is proved here)",
        "c2, c3 and c5, the constants of the complexity terms, and the logarithms of the later version",
        "C(f), remembered as the product of the layers' norms",
        "the power of Lambda, and whether the slides' sample term carries a factor k - 1",
        "why the slides carry n and the later page n^2",
    )

    def __str__(self) -> str:
        return (
            f"slides:     error <~ c1 * {self.leading:.3g} + c2 * C(f) * {self.class_term:.3g}"
            f" + c3 * C(f) * {self.sample_term:.3g}\n"
            f"later page: error <~ c4 * {self.later_leading:.3g} + c5 * C(f) * {self.later_term:.3g}\n"
            f"c1 to c5 and C(f) unknown. Proved for a fixed f: error <= {self.proved:.3g}"
        )


@named_arguments
def combined_bound(
    cdnv: Tensor, *, shot: int, way: int, samples: int, n_classes: int, depth: int, min_distance: float
) -> CombinedBound:
    r"""The slides' final statement and the authors' later one, as far as they can be computed.

    .. math::
        E_P\,Err_P(f) &\lesssim (k-1)\frac{m}{m-n}\Bigl(1+\frac1n\Bigr)\mathop{\mathrm{Avg}}_{i\ne j} V_f(S_i,S_j)
        + O\Bigl(\frac{(k-1)C(f)\sqrt{q\ln l}}{\sqrt l\,\Lambda}\Bigr)
        + O\Bigl(\frac{C(f)\,n\sqrt q}{\sqrt m\,\Lambda}\Bigr)

        E_P\,Err_P(f) &\lesssim k\,\mathop{\mathrm{Avg}}_{i\ne j} V_f(S_i,S_j)
        + \frac{k\,C(f)}{\Lambda}\Bigl(\frac{n^2}{\sqrt m} + \frac1{\sqrt l}\Bigr),
        \qquad \Lambda = \min_{i\ne j}\|\mu_f(S_i) - \mu_f(S_j)\|

    The complexity terms have constants that no source that could be read states, so they are returned as rates, not as
    numbers that could be compared with an error. What *is* proved is the part for a fixed f: pairs by B5 over left-over
    samples, k classes by the union bound. It is about tasks made of the same l classes; for new classes add (k-1)
    times `new_classes_half_width`, and for an f that was trained on these samples nothing is proved here.

    Args:
        cdnv: [l, l] V of the source classes' samples, NaN on the diagonal.
        shot: n.
        way: k >= 2.
        samples: m > n, samples per class.
        n_classes: l >= 2.
        depth: q >= 1, layers of the network.
        min_distance: Lambda > 0, the smallest distance of two class means.

    Returns:
        CombinedBound.

    Raises:
        ValueError: what is below its least value.

    Reference:
        The first: slides of 7 December 2022, last theorem. The second: T. Galanti's page on arXiv:2212.12532, 2026.

    Example:
        >>> v = torch.tensor([[torch.nan, 0.01], [0.01, torch.nan]])
        >>> bound = combined_bound(v, shot=1, way=2, samples=101, n_classes=2, depth=4, min_distance=1.0)
        >>> round(bound.leading, 6)  # 101 / 100 * 2 * 0.01
        0.0202
    """
    cdnv = check_cdnv("cdnv", cdnv)
    factor = without_replacement_factor(samples, shot)
    for name, value, low in (("way", way, 2), ("n_classes", n_classes, 2), ("depth", depth, 1)):
        check_at_least(name, value, low)
    min_distance = check_at_least("min_distance", min_distance, 0, above=True)
    pairs = _off_diagonal("cdnv", cdnv)
    return CombinedBound(
        leading=(way - 1) * factor * (1 + 1 / shot) * float(pairs.mean()),
        proved=(way - 1) * float(quadratic_bound(pairs, shot, pool=samples).mean()),
        class_term=(way - 1) * math.sqrt(depth * math.log(n_classes) / n_classes) / min_distance,
        sample_term=shot * math.sqrt(depth / samples) / min_distance,
        later_leading=way * float(pairs.mean()),
        later_term=way * (shot**2 / math.sqrt(samples) + 1 / math.sqrt(n_classes)) / min_distance,
    )
