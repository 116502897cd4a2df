"""One dialect of messages, ``what came; allowed: what is``, and one "did you mean".

Pure functions that every room may call; no torch is imported before a tensor is looked at, so that `Experiment` can
refuse a parameter at once. Each returns the value it accepted.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import math
import operator
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


_PACKAGE = os.path.dirname(__file__) + os.sep
_LARGEST = 2**53  # of whole numbers without another limit: sums of a few of them are numbers of 64 bits


def nearest(name: object, allowed: Iterable[str]) -> str:
    """Say what is allowed, the nearest valid name first, in whatever case it came.

    Example:
        >>> nearest("CONV5", ["conv4", "resnet12"])
        "did you mean 'conv4'? allowed: conv4, resnet12"
    """
    allowed = list(allowed)
    lower = {other.lower(): other for other in allowed}
    close = difflib.get_close_matches("" if name is None else str(name).lower(), lower, n=1)
    return (f"did you mean {lower[close[0]]!r}? " if close else "") + "allowed: " + (", ".join(allowed) or "none")


def check_choice(name: str, value: object, allowed: Iterable[str], known_as: Mapping[str, str] | None = None) -> str:
    """Accept one of a few names; ``known_as`` says what else people write, and what it is called here.

    Example:
        >>> check_choice("head", "rigde", ["ridge", "ncc"])
        Traceback (most recent call last):
        ValueError: head='rigde' is unknown; did you mean 'ridge'? allowed: ridge, ncc
    """
    allowed = list(allowed)
    if not isinstance(value, str) or value not in allowed:
        other_name = (known_as or {}).get(str(value).lower().replace("-", "").replace("_", ""))
        raise ValueError(f"{name}={value!r} is unknown; {other_name or nearest(value, allowed)}")
    return value


def named_arguments(function):
    """Decorate a public function without ``**others``: arguments that do not fit are refused with the names that do.

    Example:
        >>> named_arguments(lambda features, *, shot=5: shot)(None, shots=1)
        Traceback (most recent call last):
        TypeError: <lambda>() got an unexpected keyword argument 'shots'; did you mean 'shot='? allowed: features, shot=
    """
    signature = inspect.signature(function)
    names = [f"{p.name}=" if p.kind is p.KEYWORD_ONLY else p.name for p in signature.parameters.values()]

    @functools.wraps(function)
    def checked(*arguments, **named):
        unknown = next((name for name in named if name not in signature.parameters), "")
        try:
            if unknown:
                raise TypeError(f"got an unexpected keyword argument {unknown!r}")
            signature.bind(*arguments, **named)
        except TypeError as error:
            raise TypeError(f"{function.__name__}() {error}; {nearest(unknown, names)}") from None
        return function(*arguments, **named)

    return checked


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, and name the line outside the package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def _plain(value: object) -> object:
    """A number of NumPy or torch as Python's own; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def check_whole(name: str, value: object, low: int, high: float = math.inf) -> int:
    """Accept an integer from ``low`` to ``high``, of Python, NumPy or torch.

    Example:
        >>> check_whole("shot", 0, 1)
        Traceback (most recent call last):
        ValueError: shot=0; allowed: a whole number of at least 1
    """
    number = _plain(value)
    whole = hasattr(number, "__index__") and not isinstance(number, bool) and not getattr(number, "ndim", 0)
    if whole and high == math.inf and operator.index(number) > _LARGEST:
        high = _LARGEST
    allowed = f"a whole number of at least {low}" + (f" and at most {high}" if high < math.inf else "")
    if not whole:
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; allowed: {allowed}")
    if not low <= operator.index(number) <= high:
        raise ValueError(f"{name}={value!r}; allowed: {allowed}")
    return operator.index(number)


def check_real(
    name: str,
    value: object,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above_low: bool = False,
    below_high: bool = False,
) -> float:
    """Accept a finite number from ``low`` to ``high``, with ``above_low`` or ``below_high`` without that end.

    Example:
        >>> check_real("ridge", 0, 0, above_low=True)
        Traceback (most recent call last):
        ValueError: ridge=0; allowed: a finite number above 0
    """
    ends = [f"above {low}" if above_low else f"of at least {low}"] if low > -math.inf else []
    ends += [f"below {high}" if below_high else f"of at most {high}"] if high < math.inf else []
    allowed = " ".join(["a finite number", " and ".join(ends)]).strip()
    plain = _plain(value)
    if isinstance(plain, bool | str) or not hasattr(plain, "__float__") or getattr(plain, "ndim", 0):
        hint = ""
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                hint = f" (YAML reads it as text: write {float(value):.1e})"
        raise TypeError(f"{name}={value!r} is of type {type(value).__name__}; allowed: {allowed}{hint}")
    try:
        number = float(plain) + 0.0  # -0.0 becomes 0.0
    except OverflowError:  # an integer of more than 300 digits
        number = math.inf
    inside = math.isfinite(number) and low <= number <= high
    if not inside or (above_low and number == low) or (below_high and number == high):
        raise ValueError(f"{name}={value!r}; allowed: {allowed}")
    return number


def not_a_tensor(name: str, value: object, allowed: str) -> TypeError:
    """The error about something else than a tensor; of NumPy's arrays, which many readers hold, it names the way.

    Example:
        >>> import numpy
        >>> str(not_a_tensor("labels", numpy.zeros(3, int), "[N] of integers"))
        'labels is of type ndarray; allowed: a torch.Tensor [N] of integers (torch.from_numpy(labels) makes one)'
    """
    hint = f" (torch.from_numpy({name}) makes one)" if type(value).__name__ == "ndarray" else ""
    return TypeError(f"{name} is of type {type(value).__name__}; allowed: a torch.Tensor {allowed}{hint}")


def check_floats(name: str, value: object, allowed: str) -> Tensor:
    """Accept a tensor of a float dtype; ``allowed`` says of what shape it is to be."""
    import torch

    if not isinstance(value, torch.Tensor):
        raise not_a_tensor(name, value, f"{allowed} of floats")
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}; allowed: a float dtype")
    return value


def check_labels(labels: object, name: str = "labels") -> Tensor:
    """Accept a vector [N] of integers, with or without gaps."""
    import torch

    if not isinstance(labels, torch.Tensor):
        raise not_a_tensor(name, labels, "[N] of integers")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {labels.dtype}; allowed: an integer dtype")
    if labels.ndim != 1:
        raise ValueError(f"{name} has shape {list(labels.shape)}; allowed: [N]")
    return labels


def check_matrix(features: object, name: str = "features") -> Tensor:
    """Accept features [N, D] of a float dtype, without labels; whether they are finite is not looked at."""
    check_floats(name, features, "[N, D]")
    if features.ndim != 2 or features.shape[1] == 0:
        shape = list(features.shape)
        raise ValueError(f"{name} has shape {shape}; allowed: [N, D] (features.flatten(1) flattens a layer's maps)")
    return features


def check_features(features: object, labels: object, name: str = "features", labels_name: str = "labels") -> Tensor:
    """Accept features [N, D] of a float dtype beside integer labels [N]; whether they are finite is not looked at."""
    check_matrix(features, name)
    check_labels(labels, labels_name)
    if len(labels) != len(features):
        raise ValueError(
            f"{labels_name} has shape {list(labels.shape)}; allowed: [{len(features)}], one entry per row of {name}"
        )
    return features


def describe_not_finite(values: Tensor, name: str = "features") -> str:
    """Say which rows hold NaN or infinity, or that finite numbers are too large for sums of their squares."""
    rows = (~values.detach().isfinite().flatten(1).all(1)).nonzero().flatten()
    if len(rows):
        return (
            f"{name} holds NaN or infinity in {len(rows)} of {len(values)} rows, first in row {int(rows[0])}; "
            "allowed: finite numbers"
        )
    largest = float(values.detach().abs().max())
    return f"{name} holds values up to {largest:g}; allowed: numbers small enough for sums of their squares"


@contextlib.contextmanager
def one_sentence():
    """Let IPython show an error about what a reader gave, or did not give, as its message without a traceback."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        text = f"{type(error).__name__}: {error}"
        error._render_traceback_ = functools.partial(list, [text])  # no lambda: errors are pickled
        raise
