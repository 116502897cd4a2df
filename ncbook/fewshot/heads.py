"""The classifiers on top of frozen features, batched over episodes; pure, called by the protocol.

A head sees an episode only through `Products`: inner products of its S = way x shot shots and its Q = way x query
queries. It returns `Scores` [E, way, Q], of which the largest of a query wins, with the size of their rounding
error: that is what a tie is judged with.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ncbook._checks import warn

TOO_SMALL = (
    "ridge is too small for features of this scale with shots so nearly dependent: the scores have no digits even in "
    "float64; use a larger ridge or transform='l2'"
)


class Products(NamedTuple):
    """Inner products of E episodes; what no chosen head needs is None.

    Attributes:
        shot_norm: [E], the largest norm of a shot.
        query_norms: [E, Q], norms of the queries.
        dim: D, terms of each product.
        K: [E, S, S], of shots with shots.
        Kq: [E, S, Q], of shots with queries, or None where ``rows`` stand in for them.
        mq: [E, way, Q], of class means with queries.
        mm: [E, way], squared norms of class means.
        rows: the shots [E, S, D] and the queries [E, Q, D] themselves.
    """

    shot_norm: Tensor
    query_norms: Tensor
    dim: int
    K: Tensor | None = None
    Kq: Tensor | None = None
    mq: Tensor | None = None
    mm: Tensor | None = None
    rows: tuple[Tensor, Tensor] | None = None

    def weighted(self, a: Tensor, b: Tensor) -> Tensor:
        """b + sum_s a_s x_s'q for every query q, [E, way, Q], of coefficients a [E, way, S] and b [E, way, 1].

        By way of the weights w = sum_s a_s x_s where the rows are at hand: 2 way D (S + Q) operations, not 2 D S Q.
        """
        if self.rows is None:
            return torch.baddbmm(b.to(self.Kq.dtype), a.to(self.Kq.dtype), self.Kq)
        shots, queries = self.rows
        return torch.baddbmm(b.to(shots.dtype), a.to(shots.dtype) @ shots, queries.mT)


class Scores(NamedTuple):
    """Scores of E episodes, and what their rounding error is proportional to.

    Attributes:
        values: [E, way, Q], up to a constant per query.
        size: [E]; with relative rounding eps, a score of query q is uncertain by eps x size x (|q| + |shots|).
        extra: [E, 1] or 0.0, a further uncertainty that a solver leaves.
    """

    values: Tensor
    size: Tensor
    extra: Tensor | float = 0.0


def one_hot(way: int, like: Tensor) -> Tensor:
    """Labels [way, S] of the shots ``like`` [..., S]."""
    return torch.eye(way, dtype=like.dtype, device=like.device).repeat_interleave(like.shape[-1] // way, 1)


def ridge_scores(products: Products, way: int, ridge: float | Tensor) -> Scores:
    """Ridge regression on one-hot labels in its dual form, intercept not penalized.

    f(q) = a'k_q + b with (K + ridge I) a + 1 b' = Y and 1'a = 0: scikit-learn's ``Ridge(alpha=ridge)``. With
    A = K + ridge I and [U, u] = A^-1 [Y, 1] that is b = Y'u / 1'u and a = U - u b'. As 1'a = 0, b is 1 / way
    minus a'k, k = K1/S, and 1 / way is left out: next to it, scores of small features have no digits.
    """
    A = products.K.to(torch.float64, copy=True)  # float32 Cholesky loses four of seven digits for a small ridge
    middle = A.mean(-1, keepdim=True)
    A.diagonal(dim1=1, dim2=2).add_(ridge)
    Y = one_hot(way, A)  # [way, S]
    L, failed = torch.linalg.cholesky_ex(A)
    right = torch.cat([Y, torch.ones_like(Y[:1])]).T.expand(len(A), -1, -1)
    U = torch.cholesky_solve(right, L).mT  # [E, way + 1, S]
    U, u = U[:, :-1], U[:, -1:]
    b = (u @ Y.T / u.sum(-1, keepdim=True)).mT  # [E, way, 1]
    a = U - b * u
    values = products.weighted(a, a @ -middle)
    # |A^-1|^(1/2), by the smallest pivot; it multiplies the error of K, as |A^-1 X| <= |A^-1|^(1/2) for K = XX'
    pivot = L.diagonal(dim1=1, dim2=2).amin(1).masked_fill_(failed > 0, torch.nan)
    size = torch.linalg.vector_norm(a, dim=2).amax(1) * products.shot_norm * (1 + products.shot_norm / pivot)
    return Scores(values, size)


def ridge_predictions(support: Tensor, queries: Tensor, ridge: float | Tensor) -> Tensor:
    """Predictions of ridge regression on the one-hot labels of the shots, differentiable in all arguments.

    Args:
        support: float [T, way, shot, D], the shots of T episodes.
        queries: float [T, Q, D].
        ridge: penalty, above 0, of the squared weights; the intercept is not penalized.

    Returns:
        [T, Q, way], of which the largest wins: those of scikit-learn's ``Ridge(alpha=ridge)``, less 1 / way.

    Example:
        Shots 1 and -1, ridge 2: the weight of the first class is 1/2 · 2 / (2 + 2) per unit.

        >>> ridge_predictions(torch.tensor([[[[1.0]], [[-1.0]]]]), torch.tensor([[[2.0]]]), 2.0)
        tensor([[[ 0.5000, -0.5000]]])
    """
    shots = support.flatten(1, 2)
    middle = shots.mean(1, keepdim=True)
    shots, queries = shots - middle, queries - middle
    norms = torch.linalg.vector_norm(shots.detach(), dim=-1).amax(1)
    products = Products(norms, norms, support.shape[-1], K=shots @ shots.mT, Kq=shots @ queries.mT)
    return ridge_scores(products, support.shape[1], ridge).values.mT


def logistic_scores(
    products: Products, way: int, ridge: float | Tensor, iterations: int = 50, tolerance: float = 1e-4
) -> Scores:
    """Multinomial logistic regression, intercept not penalized, by Newton's method.

    Minimizes sum_s -log softmax(f_s)[y_s] + ridge |w|^2 / 2: scikit-learn's ``LogisticRegression(C=1 /
    ridge)``. With w = X'a / ridge the optimum is a = Y - P and 1'a = 0. A Newton step solves da + W(K da + 1
    db) = r := Y - P - a under 1'da = 0, where W = diag(P) - PP' couples the classes of a shot. As (I + WK)^-1
    = I - MK with M = (W^-1 + K)^-1, da = r - M(Kr + 1 db), and M needs no matrix larger than S x S: Rasmussen
    & Williams, Gaussian Processes for Machine Learning (2006), equation 3.47.

    ``tolerance`` is the last change of the scores; Newton's method squares its error, so 1e-4 leaves about 1e-8.
    """
    K = products.K
    middle = K.mean(-1, keepdim=True)  # [E, S, 1], the inner products with the mean of the shots
    K = (K - middle - middle.mT + middle.mean(1, keepdim=True)).double()  # HKH, H = I - 11'/S
    # a ridge so large that all probabilities are 1 / way to seven digits decides no query otherwise; it would only
    # take the scores' digits away
    largest = K.diagonal(dim1=1, dim2=2).amax(1)[:, None, None]
    ridge = torch.as_tensor(ridge, dtype=K.dtype, device=K.device)
    ridge = torch.where((largest > 0) & (ridge > 1e7 * largest), 1e7 * largest, ridge)  # [E, 1, 1]
    K = K / ridge  # shots that are told apart with certainty leave float32 no digits for the intercept
    Y = one_hot(way, K)  # [way, S]
    a, b = torch.zeros_like(Y).expand(len(K), -1, -1), K.new_zeros(len(K), way, 1)
    identity = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)

    def objective(a, f):
        return (f.logsumexp(1) - (Y * f).sum(1)).sum(-1) + (a * (a @ K)).sum((1, 2)) / 2  # [E]

    for _ in range(iterations):
        f = a @ K + b  # [E, way, S]
        P = f.softmax(1)
        r = Y - P - a
        # E_c = (diag(P_c)^-1 + K)^-1 for every class c, safe when probabilities vanish
        root = P.sqrt()
        B = torch.addcmul(identity, root[..., :, None] * root[..., None, :], K[:, None])
        L, failed = torch.linalg.cholesky_ex(B)
        if failed.any():
            raise ArithmeticError(TOO_SMALL)
        E = torch.cholesky_inverse(L) * root[..., :, None] * root[..., None, :]
        L = torch.linalg.cholesky_ex(E.sum(1)).L

        def M(u, E=E, L=L):
            Eu = (E @ u[..., None])[..., 0]
            return Eu - (E @ torch.cholesky_solve(Eu.sum(1)[..., None], L)[:, None])[..., 0]

        # db makes 1'da = 0. The matrix is singular along equal shifts of all classes, which change nothing
        E1 = E.sum(-1)  # [E, way, S]
        T = torch.diag_embed(E1.sum(-1)) - E1 @ torch.cholesky_solve(E1.mT, L)
        T = T + T.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        rK = r @ K
        db = torch.linalg.solve_ex(T, (r - M(rK)).sum(-1, keepdim=True)).result
        da = r - M(rK + db)
        # the full step where it does not climb; else one that provably descends (Sun & Tran-Dinh 2019, M_f = 1)
        df = da @ K + db
        before, after = objective(a, f), objective(a + da, f + df)
        far = (df.amax(1) - df.amin(1)).amax(-1)  # [E]
        damped = far.clamp_min(1e-6)
        step = torch.where(after <= before + 1e-4 * (1 + before), 1.0, damped.log1p() / damped)[:, None, None]
        a, b = a + step * da, b + step * db
        last = float(far.max())
        if last < tolerance:
            break
    else:
        warn(
            f"logistic head: the scores still change by {last:.1e} after {iterations} Newton steps; "
            "use a larger ridge or transform='l2'",
            RuntimeWarning,
        )
    a = a / ridge
    values = products.weighted(a, b - a @ middle.to(a))
    # an error of K moves a by W = diag(P) - PP' <= 1/2 times its effect, as ridge moves it by 1 / ridge
    size = torch.linalg.vector_norm(a, dim=2).amax(1) * products.shot_norm
    size = size * (1 + products.shot_norm / (2 * ridge.flatten()).sqrt())
    # what the solver leaves, and the rounding of an intercept that may be larger than the rest
    intercept = torch.finfo(b.dtype).eps + torch.finfo(values.dtype).eps * b.abs().amax((1, 2))
    extra = 4 * far.square().clamp_max(1e-6) + 16 * intercept
    return Scores(values, size, extra.to(values.dtype)[:, None])


def ncc_scores(products: Products, way: int, ridge: float) -> Scores:
    """Nearest class mean, since |q - m|^2 = |q|^2 - 2 (q'm - |m|^2 / 2)."""
    return Scores(products.mq - products.mm[:, :, None] / 2, products.shot_norm)


def cosine_scores(products: Products, way: int, ridge: float) -> Scores:
    """Cosine with the class mean, times the norm of the query, which does not change the winner.

    A mean of 0 has cosine 0 with everything. Whether it is 0 is only known in float64: next to it all is uncertain.
    """
    norms = products.mm.clamp_min(0).sqrt()  # [E, way]
    values = products.mq / norms.where(norms > 0, 1.0)[:, :, None]
    return Scores(values, (products.shot_norm[:, None] / norms).amax(1).square())


KERNEL_HEADS = {"ridge": ridge_scores, "logistic": logistic_scores}
MEAN_HEADS = {"ncc": ncc_scores, "cosine": cosine_scores}
HEADS = ("ridge", "ncc", "logistic", "cosine")


def scores_of(head: str, ridge: float, way: int, products: Products) -> Scores:
    """Scores of one head."""
    return (MEAN_HEADS | KERNEL_HEADS)[head](products, way, ridge)
