"""Inputs that several files of this folder draw, and what a refusal may look like."""

import contextlib
import warnings

import torch
from hypothesis import strategies as st

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
LABEL_DTYPES = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
KINDS = ["normal", "integers", "collapsed", "on a line", "outlier", "few directions"]


@st.composite
def classes(draw, *, least_classes=1, most_classes=5, least=1, most=9, most_dim=6, exponents=True):
    """(features [N, D], labels [N]) of classes of any sizes, far from each other or not, in any order and layout.

    A seed makes the numbers, so that what hypothesis shrinks is the structure: sizes, kind, scale, types.
    """
    sizes = draw(st.lists(st.integers(least, most), min_size=least_classes, max_size=most_classes))
    dim = draw(st.integers(1, most_dim))
    kind = draw(st.sampled_from(KINDS))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(DTYPES))

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    index = index[torch.randperm(len(index), generator=generator)]
    means, noise = normal(len(sizes), dim), normal(len(index), dim)
    if kind == "on a line":
        means = normal(len(sizes), 1) * normal(1, dim)
    elif kind == "collapsed":
        noise = noise * 10.0 ** -draw(st.integers(1, 7))
    elif kind == "few directions":
        noise = noise[:, :1] * normal(1, dim)
    x = means[index] + noise * draw(st.sampled_from([0.1, 1.0, 3.0]))
    if kind == "integers":
        x = torch.randint(0, 3, x.shape, generator=generator).double()  # many ties
    elif kind == "outlier":
        x[0] += 10.0 ** draw(st.integers(1, 4))
    for dead in range(draw(st.integers(0, 2))):
        x = torch.cat([x, torch.full_like(x[:, :1], float(dead))], 1)  # a unit that never changes
    x = x.to(dtype)
    if exponents and dtype in (torch.float32, torch.float64):
        x = x * 2.0 ** draw(st.sampled_from([0, 0, 0, -20, 20, -40, 40] + [-300, 300] * (dtype == torch.float64)))
    layout = draw(st.sampled_from(["plain", "transposed", "strided", "gradient"]))
    if layout == "transposed":
        x = x.T.contiguous().T
    elif layout == "strided":
        x = torch.stack([x, x], 2)[..., 0]
    elif layout == "gradient":
        x = x.requires_grad_()
    label_dtype = draw(st.sampled_from(LABEL_DTYPES))
    first = draw(st.integers(0 if label_dtype == torch.uint8 else -9, 9))
    labels = first + draw(st.integers(1, 20)) * torch.arange(len(sizes))
    return x, labels.to(label_dtype)[index]


def is_plain(message: str) -> bool:
    """One sentence that a person can read: no lines, no object's address, not empty."""
    return bool(message) and "\n" not in message and " at 0x" not in message and len(message) < 600


@contextlib.contextmanager
def right_or_refused(*errors):
    """Run a block that may refuse by one of the documented errors in one sentence; no warning may come out of it.

    Yields a list that holds the error afterwards.
    """
    refusal, allowed = [], errors or (TypeError, ValueError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            yield refusal
        except allowed as error:
            if not is_plain(str(error)):
                raise AssertionError(f"not one sentence: {error}") from error
            refusal.append(error)


# What a caller may hand over by mistake, in place of a number.
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 30),
    st.floats(),
    st.sampled_from(["", "5", "1e-3", "conv4", "strokes", "auto", "a\x00b", "\udcff", "ü", "x" * 300]),
    st.lists(st.integers(0, 3), max_size=2),
    st.just({}),
    st.just(b"5"),
    st.builds(torch.tensor, st.sampled_from([1, 1.5, True, [1, 2]])),
)
