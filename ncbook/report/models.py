"""The model of a report: a module of the reader's, or a name of torchvision or timm; its weights, its preprocessing.

Downloads nothing unless weights="pretrained" asks for it. Called by `reports`; touches files of weights.
"""

from __future__ import annotations

import difflib
import importlib.util
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ncbook.experiment import ParameterError
from ncbook.features import as_input

WEIGHTS = ("auto", "pretrained", "random")
_NESTED = ("state_dict", "model_state_dict", "model", "module")  # where checkpoints keep the weights
DEFAULT_SIZE = 84  # of a module that does not say what it takes: that of `datasets.folder`


@dataclass
class Preprocessing:
    """Shorter side scaled to ``resize``, center cropped to ``crop``, then (x / 255 - mean) / std.

    As torchvision and timm do for evaluation. Images are scaled on the device, antialiased.
    """

    resize: int
    crop: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __call__(self, images: Tensor) -> Tensor:
        """Uint8 [B, C, H, W] to network input float32 [B, C, *crop]."""
        from torchvision.transforms.v2 import InterpolationMode, functional

        if min(images.shape[2:]) != self.resize:
            images = functional.resize(images, [self.resize], InterpolationMode(self.interpolation), antialias=True)
        images = functional.center_crop(images, list(self.crop))
        mean, std = (images.new_tensor(v, dtype=torch.float32).view(-1, 1, 1) for v in (self.mean, self.std))
        return as_input(images).sub_(mean).div_(std)

    def __str__(self) -> str:
        size = " × ".join(map(str, self.crop))
        return f"shorter side {self.resize}, center {size} pixels, mean {self.mean}, deviation {self.std}"


@dataclass
class FeatureMap:
    """A model that gives features, in evaluation mode, with what it takes.

    Attributes:
        net: images float [B, C, H, W] -> features [B, D].
        prepare: uint8 [B, C, H, W] -> float [B, C, H, W].
        name, weights, preprocessing: in words, for the report.
        image_size: pixels that files are scaled to before ``prepare``.
        channels: 1 or 3, that the net takes; None: not known, images stay as they are.
    """

    net: nn.Module
    prepare: Callable[[Tensor], Tensor]
    name: str
    weights: str
    preprocessing: str
    image_size: int = DEFAULT_SIZE
    channels: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Features of uint8 images, or of floats that are network input already."""
        if images.dtype != torch.uint8:
            return self.net(images)
        if images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        elif images.shape[1] == 3 and self.channels == 1:
            images = images.float().mean(1, keepdim=True).round().to(torch.uint8)
        return self.net(self.prepare(images))


def load(
    model: nn.Module | str, weights: str | os.PathLike = "auto", image_size: int | None = None, preprocess=None
) -> FeatureMap:
    """The feature map of a module or of a name.

    Args:
        model: images -> features [B, D]; or a name of torchvision or timm ("timm/…", "torchvision/…": of one of them).
        weights: of a name: "auto", pretrained ones if they are on this machine, else random; "pretrained", downloaded
            if need be; "random"; or a file of weights (.safetensors, or a state_dict of torch.save).
        image_size: pixels that image files are scaled to; None: what the model takes, else 84.
        preprocess: uint8 [B, C, H, W] -> network input, in place of the model's own.

    Raises:
        ParameterError: an unknown name, weights that are not there or do not fit.
    """
    if isinstance(model, nn.Module):
        if weights != "auto":
            raise ParameterError(f"weights={str(weights)!r} beside a module, which has its own; allowed: 'auto'")
        found = FeatureMap(model, as_input, type(model).__name__, "of the module as it came", "gray levels / 255")
        if hasattr(model, "pretrained_cfg") and _has("timm"):
            _take(found, _timm_preprocessing(model))
    elif isinstance(model, str):
        if str(weights) not in WEIGHTS and not Path(weights).is_file():
            raise ParameterError(f"weights={str(weights)!r}; allowed: {', '.join(WEIGHTS)}, or a file that is there")
        library, name = _library(model)
        with torch.random.fork_rng(devices=[]):  # random weights are the same ones in every report
            torch.manual_seed(0)
            found = (_from_timm if library == "timm" else _from_torchvision)(name, str(weights))
    else:
        allowed = "a torch.nn.Module, a name of torchvision or timm, or None with features [N, D] as data"
        raise ParameterError(f"model is of type {type(model).__name__}; allowed: {allowed}")
    found.channels = _channels(found.net)
    if image_size is not None:
        found.image_size = image_size
    if preprocess is not None:
        found.prepare, found.preprocessing = preprocess, "the caller's own"
    return found


def _library(name: str) -> tuple[str, str]:
    """("torchvision" or "timm", name); torchvision first where both have it."""
    import torchvision

    known = {"torchvision": torchvision.models.list_models(module=torchvision.models)}
    prefix, _, rest = name.rpartition("/")
    if _has("timm"):
        import timm

        known["timm"] = timm.list_models(pretrained=False)
    elif prefix == "timm":
        raise ParameterError(f"model={name!r} needs timm; pip install timm (or 'ncbook[models]')")
    for library, names in known.items():
        base = rest.split(".")[0] if library == "timm" else rest  # timm: architecture.weights
        if prefix in ("", library) and base in names:
            return library, rest
    every = sorted({n for names in known.values() for n in names})
    close = difflib.get_close_matches(rest, every, n=1)
    count = " or ".join(f"{library} ({len(names)})" for library, names in known.items())
    missing = "" if _has("timm") else "; timm is not installed"
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ParameterError(f"model={name!r} is unknown; {hint}allowed: an nn.Module, or a name of {count}{missing}")


def _from_torchvision(name: str, weights: str) -> FeatureMap:
    from torchvision import models

    default = models.get_model_weights(name).DEFAULT
    pretrained = weights == "pretrained" or (weights == "auto" and _downloaded(default.url))
    options = {} if pretrained or name not in ("googlenet", "inception_v3") else {"init_weights": True}
    net = _fetched(name, lambda: models.get_model(name, weights=default if pretrained else None, **options))
    removed = _without_classifier(net)
    words = f"{default} of torchvision" if pretrained else _read(net, weights, removed)
    own = default.transforms()
    crop = own.crop_size * 2 if len(own.crop_size) == 1 else own.crop_size
    found = FeatureMap(net, as_input, f"{name} (torchvision)", words, "")
    shape = dict(mean=tuple(own.mean), std=tuple(own.std), interpolation=own.interpolation.value)
    return _take(found, Preprocessing(own.resize_size[0], tuple(crop), **shape))


def _from_timm(name: str, weights: str) -> FeatureMap:
    import timm

    net = timm.create_model(name, pretrained=False, num_classes=0)
    pretrained = weights == "pretrained" or (weights == "auto" and _timm_has(net.pretrained_cfg))
    if pretrained:
        net = _fetched(name, lambda: timm.create_model(name, pretrained=True, num_classes=0))
    words = f"{net.pretrained_cfg.get('tag') or 'pretrained'} of timm" if pretrained else _read(net, weights, None)
    return _take(FeatureMap(net, as_input, f"{name} (timm)", words, ""), _timm_preprocessing(net))


def _timm_preprocessing(net: nn.Module) -> Preprocessing:
    from timm.data import resolve_model_data_config

    own = resolve_model_data_config(net)
    height, width = own["input_size"][1:]
    resize = math.floor(min(height, width) / own["crop_pct"])  # as timm
    return Preprocessing(resize, (height, width), tuple(own["mean"]), tuple(own["std"]), own["interpolation"])


def _timm_has(cfg: dict) -> bool:
    """Whether pretrained weights are in the caches of this machine."""
    if cfg.get("hf_hub_id") and _has("huggingface_hub"):
        from huggingface_hub import try_to_load_from_cache

        files = ("model.safetensors", "pytorch_model.bin")
        return any(isinstance(try_to_load_from_cache(cfg["hf_hub_id"], file), str) for file in files)
    return bool(cfg.get("url")) and _downloaded(cfg["url"])


def _downloaded(url: str) -> bool:
    """Whether torch's cache has the file."""
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file()


def _take(found: FeatureMap, own: Preprocessing) -> FeatureMap:
    found.prepare, found.preprocessing, found.image_size = own, str(own), own.resize
    return found


def _fetched(name: str, make: Callable[[], nn.Module]) -> nn.Module:
    """The model, whose weights may have to be downloaded."""
    try:
        return make()
    except (OSError, RuntimeError) as error:
        said = " ".join(str(error).split())[:200]
        allowed = "weights='random', or a file of weights"
        raise ParameterError(f"weights of {name} cannot be had ({said}); allowed without them: {allowed}") from None


def _without_classifier(net: nn.Module) -> str:
    """Put nothing in the place of the last linear layer, whose input are the features; returns its name."""
    linear = [name for name, part in net.named_modules() if type(part) is nn.Linear and "aux" not in name.lower()]
    if linear and not type(net).__name__.startswith("SqueezeNet"):
        net.set_submodule(linear[-1], nn.Identity())
        return linear[-1]
    net.classifier = nn.AdaptiveAvgPool2d(1)  # SqueezeNet classifies by a convolution
    return "classifier"


def _read(net: nn.Module, weights: str, classifier: str | None) -> str:
    """Load a file of weights, if there is one; says in words what the net has."""
    if weights in WEIGHTS:
        return "random: nothing was learned" + (
            "" if weights == "random" else " (weights='pretrained' downloads them; a file may be given)"
        )
    try:
        if weights.endswith(".safetensors"):
            from safetensors.torch import load_file

            state = load_file(weights)
        else:
            state = torch.load(weights, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zipfile and safetensors raise a dozen types for other files
        said = " ".join(str(error).split())[:120]
        raise ParameterError(f"weights={weights!r} is no readable file of weights ({said})") from None
    for key in _NESTED:
        state = state[key] if isinstance(state, dict) and isinstance(state.get(key), dict) else state
    if not (isinstance(state, dict) and state and all(isinstance(v, Tensor) for v in state.values())):
        raise ParameterError(f"weights={weights!r} holds no state_dict; allowed: names of tensors")
    state = {name.removeprefix("module."): value for name, value in state.items()}
    own = net.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    if missing or other:
        wrong = (missing or other)[:3]
        what = "lacks" if missing else "has another shape for"
        raise ParameterError(
            f"weights={weights!r} {what} {len(missing or other)} of {len(own)} entries of the model, "
            f"such as {', '.join(wrong)}; allowed: weights of this model"
        )
    net.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
    unused = [name for name in state if name not in own]
    return f"from {Path(weights).name}" + (f" (not used: {', '.join(unused[:4])})" if unused else "")


def _channels(net: nn.Module) -> int | None:
    """Channels that the first convolution takes, 1 or 3; None where there is none."""
    first = next((p for p in net.parameters() if p.ndim == 4), None)
    return first.shape[1] if first is not None and first.shape[1] in (1, 3) else None


def _has(library: str) -> bool:
    return importlib.util.find_spec(library) is not None
