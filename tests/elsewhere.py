"""A device that is not there: tensors that say that they are elsewhere, and are computed on the CPU.

Within `device()`, whatever is made on `ELSEWHERE` or from tensors there is an `Elsewhere`. As on a GPU, an operation on
tensors of two devices is an error (numbers without dimensions and indices may come from the CPU), and so is `.numpy()`;
`waits` lists what a GPU would have to be waited for. Only without gradients. Used by `test_devices`.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")  # of which torch needs no driver
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
SIZES = {"aten::nonzero", "aten::_unique2", "aten::unique_dim", "aten::masked_select"}  # known when they were computed
waits: list[str] = []


class Elsewhere(torch.Tensor):
    """A tensor on `ELSEWHERE`, with its content ``at_hand``."""

    @staticmethod
    def __new__(cls, at_hand: torch.Tensor):
        about = dict(strides=at_hand.stride(), storage_offset=at_hand.storage_offset(), dtype=at_hand.dtype)
        return torch.Tensor._make_wrapper_subclass(cls, at_hand.size(), device=ELSEWHERE, **about)

    def __init__(self, at_hand: torch.Tensor):
        self.at_hand = at_hand

    def __repr__(self, **_) -> str:
        return f"Elsewhere({self.at_hand})"

    def new_tensor(self, data):
        return torch.tensor(data, dtype=self.dtype, device=self.device)

    def tolist(self):
        waits.append("tolist")
        return self.at_hand.tolist()

    def numpy(self, **_):
        raise TypeError("a tensor of another device is no array")

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _computed(operation, args, kwargs or {})


def _is_elsewhere(device) -> bool:
    return device is not None and torch.device(device) == ELSEWHERE


def _computed(operation, args, kwargs):
    name, target = operation._schema.name, kwargs.get("device")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    if far and name not in ("aten::_to_copy", "aten::copy_"):
        indices = args[1] if name in INDEXING else ()
        near = [t for t in tensors if not isinstance(t, Elsewhere) and t.dim() and not any(t is i for i in indices)]
        if near:
            raise RuntimeError(f"tensors on two devices in {operation}")
    result = operation(*tree_map(_at_hand, args), **tree_map(_at_hand, kwargs))
    leaves = bool(far) and name == "aten::_to_copy" and target is not None and not _is_elsewhere(target)
    if far and (leaves or name == "aten::_local_scalar_dense" or name in SIZES):
        waits.append(name)
    if name == "aten::copy_":
        return args[0]
    if leaves or not (far or _is_elsewhere(target)):
        return result
    changed = {id(tensor.at_hand): tensor for tensor in far}  # in place: comes back as itself

    def wrapped(x):
        if not isinstance(x, torch.Tensor):
            return x
        return changed[id(x)] if id(x) in changed else Elsewhere(x)

    return tree_map(wrapped, result)


def _at_hand(x):
    if isinstance(x, Elsewhere):
        return x.at_hand
    return torch.device("cpu") if isinstance(x, torch.device) and x == ELSEWHERE else x


class _AnyGenerator(type):
    def __instancecheck__(cls, x) -> bool:
        return isinstance(x, torch._C.Generator)


class _Generator(metaclass=_AnyGenerator):
    """Made for either device; of both it is that of the CPU."""

    def __new__(cls, device="cpu"):
        return torch._C.Generator()


def _made(make):
    """``torch.tensor`` and its like: they would make a tensor of `ELSEWHERE` without asking the mode."""

    def on(data, *args, device=None, **kwargs):
        if isinstance(data, Elsewhere):
            return data.to(**{k: v for k, v in kwargs.items() if k == "dtype"})
        made = make(data, *args, **kwargs)
        return made if device is None else made.to(device)

    return on


@contextlib.contextmanager
def device(monkeypatch):
    """Without gradients; what torch asks a driver for is answered here."""
    waits.clear()
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(torch, "Generator", _Generator)
        patch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
        patch.setattr(torch, "tensor", _made(torch.tensor))
        patch.setattr(torch, "as_tensor", _made(torch.as_tensor))
        with _Mode():
            yield
