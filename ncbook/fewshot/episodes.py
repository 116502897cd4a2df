"""Few-shot episodes: which rows are the shots and which are the queries.

Row numbers only, no features. Called by the evaluation, by the errors of pairs, and by objectives that train on
episodes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ncbook._checks import check_whole, named_arguments

from .checks import check_labels

# Episodes drawn at once: a block stays in cache on a CPU and fills a GPU. Fixed for each device type, because
# the first n episodes of a seed must not depend on how many are drawn.
_CPU_BLOCK, _GPU_BLOCK = 1024, 16384


@dataclass(frozen=True)
class Episodes:
    """Row numbers of few-shot episodes: a sequence, with slices that are episodes again.

    An integer index gives a single episode: an `Episodes` whose tensors lack the first dimension.

    Attributes:
        support: int64 [E, way, shot], rows of the labeled samples.
        query: int64 [E, way, query], rows of the samples to classify.
        classes: int64 [E, way]; entry k means the k-th label in ascending order.
    """

    support: Tensor
    query: Tensor
    classes: Tensor

    def __len__(self) -> int:
        if self.support.ndim == 2:
            raise TypeError("a single episode has no length; its support has shape [way, shot]")
        return len(self.support)

    def __getitem__(self, index: int | slice | Tensor) -> "Episodes":
        if self.support.ndim == 2:
            raise TypeError("a single episode cannot be indexed; its support has shape [way, shot]")
        return Episodes(self.support[index], self.query[index], self.classes[index])

    @classmethod
    def joined(cls, parts: list["Episodes"]) -> "Episodes":
        """The episodes of all parts, one after the other."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("support", "query", "classes")))


class Groups:
    """Rows sorted by class: class k owns ``order[start[k] : start[k] + size[k]]``."""

    def __init__(self, labels: Tensor):
        self.labels, self.index, self.size = torch.unique(labels, return_inverse=True, return_counts=True)
        self.order = torch.argsort(self.index, stable=True)
        self.start = self.size.cumsum(0) - self.size

    def check_size(self, needed: int, what: str, name: str = "labels") -> None:
        """Refuse a class with fewer than ``needed`` samples, by its label."""
        short = (self.size < needed).nonzero().flatten()
        if len(short):
            k = int(short[0])
            raise ValueError(
                f"{name}: class {int(self.labels[k])} has {int(self.size[k])} samples; "
                f"allowed: at least {what} = {needed} in every class"
            )

    def check_same_classes(self, other: "Groups") -> None:
        """Refuse query labels that are not those of the support set."""
        if self.labels.shape != other.labels.shape or bool((self.labels != other.labels).any()):
            ours, theirs = set(self.labels.tolist()), set(other.labels.tolist())
            raise ValueError(
                f"query_labels has other classes than labels: missing {sorted(ours - theirs)[:10]}, "
                f"unknown {sorted(theirs - ours)[:10]}; allowed: the same classes"
            )

    def rows(self, classes: Tensor, within: Tensor) -> Tensor:
        """Row numbers of the ``within``-th samples of ``classes``."""
        return self.order.take(self.start.take(classes) + within)


def draw_distinct(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` distinct numbers below each size, in uniformly random order.

    Entry i of a Lehmer code is uniform on 0 ... size - 1 - i: a place among the numbers that are still left.
    Decoding is a bijection from codes to ordered samples, so every ordered sample without repetition has the
    same probability (up to the 2^-53 steps of a float64).

    Args:
        sizes: int64 [...], each at least ``count``.
        count: numbers to draw.
        generator: on the device of ``sizes``.

    Returns:
        int64 [count, ...].
    """
    left = sizes - torch.arange(count, device=sizes.device).view(-1, *[1] * sizes.ndim)  # [count, ...]
    uniform = torch.rand(left.shape, generator=generator, dtype=torch.float64, device=sizes.device)
    code = uniform.mul_(left).floor_()  # floats, because adding a comparison to them needs no conversion
    passed = torch.empty_like(code)
    for i in range(count - 2, -1, -1):
        later = code[i + 1 :]
        later += torch.ge(later, code[i], out=passed[i + 1 :])
    return code.long()


class EpisodeSampler:
    """Draws episodes from one set of labels: checked and grouped by class once, drawn from as often as needed.

    A training loop draws the episodes of an epoch with a generator of its own, whose state it can keep.

    Args:
        labels: integers [N], with or without gaps.
        way: classes per episode, 2 ... number of classes.
        shot: labeled samples per class, at least 1.
        query: samples to classify per class, at least 1.
        query_labels: labels [M] of another set from which the queries come (domain shift), with the same
            classes; ``query`` of the episodes then holds row numbers of that set.

    Raises:
        TypeError, ValueError: for bad input, among them a class with fewer than shot + query samples.

    Example:
        >>> labels = torch.tensor([3, 3, 3, 7, 7, 7])
        >>> sampler = EpisodeSampler(labels, way=2, shot=1, query=2)
        >>> generator = torch.Generator().manual_seed(0)
        >>> [episode.support.shape for episode in sampler.draw(2, generator)]
        [torch.Size([2, 1]), torch.Size([2, 1])]
    """

    def __init__(
        self, labels: Tensor, *, way: int = 5, shot: int = 5, query: int = 15, query_labels: Tensor | None = None
    ):
        self.way = check_whole("way", way, 2)
        self.shot, self.query = check_whole("shot", shot, 1), check_whole("query", query, 1)
        self.groups = Groups(check_labels(labels))
        if way > len(self.groups.labels):
            raise ValueError(f"way={way}; allowed: at most the number of classes, {len(self.groups.labels)}")
        self.query_groups = None
        if query_labels is None:
            self.groups.check_size(shot + query, "shot + query")
        else:
            self.query_groups = Groups(check_labels(query_labels, "query_labels"))
            self.groups.check_same_classes(self.query_groups)
            self.groups.check_size(shot, "shot")
            self.query_groups.check_size(query, "query", "query_labels")

    def draw(self, episodes: int, generator: torch.Generator) -> Episodes:
        """Draw episodes, and leave the generator where the next draw goes on.

        Args:
            episodes: how many. The first n of a generator's state do not depend on it.
            generator: on the device of the labels.

        Returns:
            Episodes, on the device of the labels.

        Raises:
            TypeError, ValueError: for fewer than one episode, or a generator of another device.
        """
        check_whole("episodes", episodes, 1)
        device = self.groups.order.device
        if not isinstance(generator, torch.Generator):
            raise TypeError(f"generator is of type {type(generator).__name__}; allowed: a torch.Generator")
        if generator.device.type != device.type:
            raise ValueError(f"generator is on {generator.device}; allowed: {device}, where labels is")
        return Episodes.joined(list(self.blocks(episodes, generator)))

    def blocks(self, episodes: int, generator: torch.Generator) -> Iterator[Episodes]:
        """Yield the episodes of ``draw`` in blocks: a million need no more memory than a thousand."""
        device = self.groups.order.device
        block = _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK
        for first in range(0, episodes, block):
            yield self._block(block, generator)[: episodes - first]

    def _block(self, block: int, generator: torch.Generator) -> Episodes:
        groups, others = self.groups, self.query_groups
        n_classes = torch.full((block,), len(groups.labels), device=groups.order.device)
        classes = draw_distinct(n_classes, self.way, generator)  # [way, block]
        sizes = groups.size.take(classes)
        if others is None:
            drawn = groups.rows(classes, draw_distinct(sizes, self.shot + self.query, generator))
            support, query = drawn[: self.shot], drawn[self.shot :]  # [shot or query, way, block]
        else:
            support = groups.rows(classes, draw_distinct(sizes, self.shot, generator))
            query = others.rows(classes, draw_distinct(others.size.take(classes), self.query, generator))
        return Episodes(support.permute(2, 1, 0), query.permute(2, 1, 0), classes.T)


def seeded_generator(seed: int, device: torch.device) -> torch.Generator:
    """The generator of ``seed``, as ``sample_episodes`` and the evaluation use it."""
    return torch.Generator(device).manual_seed(check_whole("seed", seed, 0))


@named_arguments
def sample_episodes(
    labels: Tensor,
    *,
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    episodes: int,
    seed: int = 0,
    query_labels: Tensor | None = None,
) -> Episodes:
    """Draw episodes: ``way`` distinct classes, then ``shot`` + ``query`` distinct samples of each.

    Every ordered choice of classes has the same probability, and, within the classes, every ordered choice of
    samples, whatever the sizes of the classes. This is the protocol of Vinyals et al. (2016) and Snell et al.
    (2017).

    Args:
        labels: integers [N], with or without gaps.
        way: classes per episode, 2 ... number of classes.
        shot: labeled samples per class, at least 1.
        query: samples to classify per class, at least 1.
        episodes: how many.
        seed: the same seed gives the same episodes on one device type, and the first n do not depend on
            ``episodes``.
        query_labels: labels [M] of another set from which the queries come (domain shift), with the same
            classes; ``query`` then holds row numbers of that set.

    Returns:
        Episodes with ``support`` [E, way, shot] and ``query`` [E, way, query], int64 row numbers on the
        device of ``labels``.

    Raises:
        TypeError, ValueError: for bad input, among them a class with fewer than shot + query samples.

    Example:
        >>> labels = torch.tensor([3, 3, 3, 7, 7, 7])
        >>> episodes = sample_episodes(labels, way=2, shot=1, query=2, episodes=4)
        >>> episodes.support.shape, episodes.query.shape
        (torch.Size([4, 2, 1]), torch.Size([4, 2, 2]))
        >>> labels[episodes.query[0, 0]].unique() == labels[episodes.support[0, 0]]
        tensor([True])
    """
    sampler = EpisodeSampler(labels, way=way, shot=shot, query=query, query_labels=query_labels)
    return sampler.draw(episodes, seeded_generator(seed, labels.device))
