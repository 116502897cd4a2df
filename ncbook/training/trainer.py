"""The trainer: batches, step, augmentation, schedule, and its state as one dict. It knows no folder and no file.

Made and stepped by `ncbook.training.fit`, and by benchmarks. The batches and the augmentation of an epoch come from
generators seeded by (seed, epoch), and the state within an epoch holds where those are: so a run continued from any
state gives the bits of an uninterrupted one. They are on the CPU: every kind of device steps on the same batches.
"""

import contextlib
import hashlib

import torch
from torch import Tensor, nn

from ncbook import backbones, catalog, features, objectives
from ncbook._checks import check_choice
from ncbook.experiment import Experiment
from ncbook.training.augmentations import AUGMENT
from ncbook.training.schedules import learning_rate_factor


def derived_seed(*parts: int | str) -> int:
    """A 63-bit seed for one purpose, from a run's seed and the purpose's name; the same on every machine.

    Example:
        >>> derived_seed(0, "epoch", 1) == derived_seed(0, "epoch", 1) != derived_seed(0, "epoch", 2)
        True
    """
    text = "/".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


def resolve_precision(precision: str, device: torch.device) -> str:
    """Name of the dtype that training computes in; "auto": bfloat16 where the hardware multiplies in it."""
    if check_choice("precision", precision, catalog.PRECISIONS) != "auto":
        return precision
    native = False
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return "bfloat16" if native else "float32"


class AugmentedImages:
    """Source training images as an objective sees them: rows in, augmented network input out.

    Args:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        augmentation: one of `ncbook.catalog.AUGMENTATIONS`.
        device: where the network is. The images move there, unless they would take more than half of its free memory.
    """

    def __init__(self, images: Tensor, labels: Tensor, augmentation: str, device: torch.device):
        fits = device.type != "cuda" or images.nbytes <= torch.cuda.mem_get_info(device)[0] / 2
        self.images = images.to(device) if fits else images
        self.labels, self.device = labels.to(device), device
        self.augment = AUGMENT[augmentation]
        self.noise: torch.Generator | None = None  # set by the trainer at the beginning of an epoch

    def __call__(self, rows: Tensor) -> Tensor:
        """Network input float32 [B, C, H, W] of rows [B]; never computed below float32."""
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.images[rows.to(self.images.device)].to(self.device)
            return self.augment(features.as_input(pixels), self.noise)


class Trainer:
    """A network, its objective and its optimizer at some step of an experiment.

    Args:
        experiment: what to train.
        images: uint8 [N, C, H, W], the source training images.
        labels: int64 [N], 0 ... n_source - 1.
        device: where to train.
        precision: "float32" or "bfloat16"; None: as `resolve_precision` says.

    Attributes:
        epoch: whole epochs behind us.
        step: steps behind us of the epoch under way.
        epochs, steps_per_epoch: how many there are in all.
        backbone, objective, optimizer: what is trained, and by what.
    """

    def __init__(
        self,
        experiment: Experiment,
        images: Tensor,
        labels: Tensor,
        *,
        device: torch.device | str = "cpu",
        precision: str | None = None,
    ):
        self.experiment, self.device = experiment, torch.device(device)
        self.precision = resolve_precision(precision or experiment.precision, self.device)
        # a student does not begin as its teacher did
        torch.manual_seed(derived_seed(experiment.seed, "student" if experiment.teacher else "weights"))
        self.backbone = backbones.build(experiment.backbone, images.shape[1], images.shape[-1])
        self.objective = objectives.build(experiment, self.backbone.feature_dim)
        self.backbone.to(self.device, memory_format=torch.channels_last)
        self.objective.to(self.device)
        self._trained = nn.ModuleDict({"backbone": self.backbone, "objective": self.objective})
        self.optimizer = _optimizer(experiment, list(self._trained.parameters()))
        self.images = AugmentedImages(images, labels, experiment.augmentation, self.device)
        self.steps_per_epoch = len(self._batches(epoch=1))
        default = max(1, round(catalog.DATASETS[experiment.dataset].steps / self.steps_per_epoch))
        self.epochs = experiment.epochs or default
        self.epoch = self.step = 0
        self._remaining = None  # batches of the epoch under way
        self._loss_sum = torch.zeros((), device=self.device)

    @property
    def finished(self) -> bool:
        """Whether the last step of the last epoch was made."""
        return self.epoch == self.epochs

    def advance(self) -> None:
        """Make one step."""
        if self._remaining is None:
            self._begin_epoch()
        behind, last = self.epoch * self.steps_per_epoch + self.step, self.epochs * self.steps_per_epoch - 1
        factor = learning_rate_factor(self.experiment.schedule, behind / max(1, last), self.epoch)
        rate = self.experiment.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._loss_sum += self._update(self._remaining[self.step])
        self.step += 1
        if self.step == self.steps_per_epoch:
            self.epoch, self.step, self._remaining = self.epoch + 1, 0, None

    def mean_loss(self) -> float:
        """Mean loss over the steps of the epoch that was under way at the last step; waits for the device."""
        return float(self._loss_sum) / (self.step or self.steps_per_epoch)

    def weights(self) -> dict[str, Tensor]:
        """Weights and buffers of the backbone and of the objective, by name."""
        return self._trained.state_dict()

    def state(self) -> dict[str, Tensor | int]:
        """All that the rest of the training depends on: numbers of steps as int, and tensors, by name."""
        state = {"epoch": self.epoch, "step": self.step, **self.weights()}
        for name, parameter in self._trained.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                state[f"optimizer.{key}.{name}"] = value
        if self._remaining is not None:  # within an epoch
            state |= {"noise": self.images.noise.get_state(), "random": torch.get_rng_state(), "loss": self._loss_sum}
            if self.device.type == "cuda":
                state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        return state

    def load_state(self, state: dict[str, Tensor | int]) -> None:
        """Go on from what `state` gave."""
        weights = {name: value for name, value in state.items() if name.startswith(("backbone.", "objective."))}
        self._trained.load_state_dict(weights)
        parameters = dict(self._trained.named_parameters())
        for name in state:
            if name.startswith("optimizer."):
                _, key, of = name.split(".", 2)
                self.optimizer.state[parameters[of]][key] = _laid_out_like(parameters[of], state[name])
        self.epoch, self.step, self._remaining = state["epoch"], state["step"], None
        if self.step:
            self._begin_epoch()
            self.images.noise.set_state(state["noise"])
            torch.set_rng_state(state["random"])
            if self.device.type == "cuda" and "random_cuda" in state:  # not where another kind of device began
                torch.cuda.set_rng_state(state["random_cuda"], self.device)
            self._loss_sum = state["loss"].to(self.device)

    def _update(self, batch) -> Tensor:
        """One step of the optimizer; its loss."""
        # no cache: torch empties it only where the outermost autocast ends, and `train` computes within one; the steps
        # would go on with the first one's weights
        reduced, dtype = self.precision != "float32", getattr(torch, self.precision)
        with torch.autocast(self.device.type, dtype, cache_enabled=False) if reduced else contextlib.nullcontext():
            loss = self.objective.loss(self.backbone, self.images, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _begin_epoch(self) -> None:
        seed = derived_seed(self.experiment.seed, "epoch", self.epoch + 1)
        torch.manual_seed(seed)  # for layers that draw random numbers
        self._remaining = self._batches(self.epoch + 1)
        self.images.noise = torch.Generator().manual_seed(seed)
        self._loss_sum = torch.zeros((), device=self.device)
        self._trained.train()

    def _batches(self, epoch: int):
        seed = derived_seed(self.experiment.seed, "epoch", epoch)
        return self.objective.batches(self.images.labels, torch.Generator().manual_seed(seed))


def _optimizer(experiment: Experiment, parameters: list[Tensor]) -> torch.optim.Optimizer:
    shared = {"lr": experiment.learning_rate, "weight_decay": experiment.weight_decay, "fused": True}
    if experiment.optimizer == "adam":
        return torch.optim.Adam(parameters, **shared)
    momentum = experiment.momentum
    return torch.optim.SGD(parameters, momentum=momentum, nesterov=momentum > 0, **shared)


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """On the parameter's device, and in its memory format, on which the bits of a fused step depend."""
    if value.shape != parameter.shape:  # a number of steps
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(value)
