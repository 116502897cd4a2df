"""The classifiers on top of frozen features, batched over episodes.

A head sees an episode only through inner products of its S = way x shot shots and its Q = way x query
queries:

- ridge and logistic: ``K`` [E, S, S] of shots with shots and ``Kq`` [E, S, Q] of shots with queries;
- ncc and cosine: ``mq`` [E, way, Q] of class means with queries and ``mm`` [E, way], squared norms of class
  means.

A head returns scores [E, way, Q]; the class with the largest one wins.
"""

import warnings

import torch
from torch import Tensor


def _centred(K: Tensor) -> tuple[Tensor, Tensor]:
    """HKH with H = I - 11'/S, and K1/S [E, S, 1], the inner products with the mean of the shots."""
    middle = K.mean(-1, keepdim=True)
    return K - middle - middle.mT + middle.mean(1, keepdim=True), middle


def _one_hot(way: int, K: Tensor) -> Tensor:
    """Labels of the shots, [way, S]."""
    return torch.eye(way, dtype=K.dtype, device=K.device).repeat_interleave(K.shape[-1] // way, 1)


def ridge_scores(K: Tensor, Kq: Tensor, way: int, ridge: float) -> Tensor:
    """Ridge regression on one-hot labels in its dual form, intercept not penalised.

    f(q) = a'k_q + b with (K + ridge I) a + 1 b' = Y and 1'a = 0: scikit-learn's ``Ridge(alpha=ridge)``. With
    A = K + ridge I and [U, u] = A^-1 [Y, 1] that is b = Y'u / 1'u and a = U - u b'.
    """
    A = K.to(torch.float64, copy=True)  # float32 Cholesky loses four of seven digits for a small ridge
    A.diagonal(dim1=1, dim2=2).add_(ridge)
    Y = _one_hot(way, A)  # [way, S]
    L, failed = torch.linalg.cholesky_ex(A)
    L = L.masked_fill_((failed > 0)[:, None, None], torch.nan)  # never silently wrong: `evaluate` refuses NaN
    right = torch.cat([Y, torch.ones_like(Y[:1])]).T.expand(len(A), -1, -1)
    U = torch.cholesky_solve(right, L).mT  # [E, way + 1, S]
    U, u = U[:, :-1], U[:, -1:]
    b = (u @ Y.T / u.sum(-1, keepdim=True)).mT  # [E, way, 1]
    return torch.baddbmm(b.to(Kq.dtype), (U - b * u).to(Kq.dtype), Kq)


def logistic_scores(K: Tensor, Kq: Tensor, way: int, ridge: float, iterations: int = 50) -> Tensor:
    """Multinomial logistic regression, intercept not penalised, by Newton's method.

    Minimises sum_s -log softmax(f_s)[y_s] + ridge |w|^2 / 2: scikit-learn's ``LogisticRegression(C=1 /
    ridge)``. With w = X'a / ridge the optimum is a = Y - P and 1'a = 0. A Newton step solves da + W(K da + 1
    db) = r := Y - P - a under 1'da = 0, where W = diag(P) - PP' couples the classes of a shot. As (I + WK)^-1
    = I - MK with M = (W^-1 + K)^-1, da = r - M(Kr + 1 db), and M needs no matrix larger than S x S: Rasmussen
    & Williams, Gaussian Processes for Machine Learning (2006), equation 3.47.
    """
    K, middle = _centred(K)
    K = K.double() / ridge  # shots that are told apart with certainty leave float32 no digits for the intercept
    Y = _one_hot(way, K)  # [way, S]
    a, b = torch.zeros_like(Y).expand(len(K), -1, -1), K.new_zeros(len(K), way, 1)
    identity = torch.eye(K.shape[-1], dtype=K.dtype, device=K.device)
    tolerance = 1e-4  # last change of the scores; Newton's method squares its error, so about 1e-8 is left

    def objective(a, f):
        return (f.logsumexp(1) - (Y * f).sum(1)).sum(-1) + (a * (a @ K)).sum((1, 2)) / 2  # [E]

    for _ in range(iterations):
        f = a @ K + b  # [E, way, S]
        P = f.softmax(1)
        r = Y - P - a
        # E_c = (diag(P_c)^-1 + K)^-1 for every class c, safe when probabilities vanish
        root = P.sqrt()
        B = torch.addcmul(identity, root[..., :, None] * root[..., None, :], K[:, None])
        E = torch.cholesky_inverse(torch.linalg.cholesky_ex(B).L) * root[..., :, None] * root[..., None, :]
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
        # the full step where it does not climb; else one that provably descends (Sun & Tran-Dinh 2019, M_f =
        # 1)
        df = da @ K + db
        before, after = objective(a, f), objective(a + da, f + df)
        far = (df.amax(1) - df.amin(1)).amax(-1).clamp_min(1e-6)
        step = torch.where(after <= before + 1e-4 * (1 + before), 1.0, far.log1p() / far)[:, None, None]
        a, b = a + step * da, b + step * db
        last = float(far.max())
        if last < tolerance:
            break
    else:
        warnings.warn(
            f"logistic head: the scores still change by {last:.1e} after {iterations} Newton steps; "
            "use a larger ridge or transform='l2'",
            RuntimeWarning,
            stacklevel=2,
        )
    a, b = (a / ridge).to(Kq.dtype), b.to(Kq.dtype)
    return torch.baddbmm(b - a @ middle, a, Kq)


def ncc_scores(mq: Tensor, mm: Tensor) -> Tensor:
    """Nearest class mean, since |q - m|^2 = |q|^2 - 2 (q'm - |m|^2 / 2)."""
    return mq - mm[:, :, None] / 2


def cosine_scores(mq: Tensor, mm: Tensor) -> Tensor:
    """Cosine with the class mean, times the norm of the query, which does not change the winner."""
    return mq / mm.sqrt().clamp_min(torch.finfo(mm.dtype).tiny)[:, :, None]


KERNEL_HEADS = {"ridge": ridge_scores, "logistic": logistic_scores}
MEAN_HEADS = {"ncc": ncc_scores, "cosine": cosine_scores}
HEADS = ("ridge", "ncc", "logistic", "cosine")


def scores_of(head: str, ridge: float, way: int, kernel, means) -> Tensor:
    """Scores [E, way, Q] of one head, from ``kernel`` = (K, Kq) or ``means`` = (mq, mm)."""
    return MEAN_HEADS[head](*means) if head in MEAN_HEADS else KERNEL_HEADS[head](*kernel, way, ridge)
