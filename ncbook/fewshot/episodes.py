"""Few-shot episodes: which rows are the shots and which are the queries."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .checks import check_count, check_labels

# Episodes drawn at once: a block stays in cache on a CPU and fills a GPU. Fixed for a device type, because
# the first n episodes of a seed must not depend on how many are asked for.
_CPU_BLOCK, _GPU_BLOCK = 1024, 16384


@dataclass(frozen=True)
class Episodes:
    """Row numbers of few-shot episodes.

    Attributes:
        support: int64 [E, way, shot], rows of the labelled samples.
        query: int64 [E, way, query], rows of the samples to classify.
        classes: int64 [E, way]; entry k means the k-th label in ascending order.
    """

    support: Tensor
    query: Tensor
    classes: Tensor

    def __len__(self) -> int:
        return len(self.support)

    def __getitem__(self, rows: slice) -> "Episodes":
        return Episodes(self.support[rows], self.query[rows], self.classes[rows])


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
                f"{name}: class {int(self.labels[k])} has {int(self.size[k])} samples, "
                f"but {what} = {needed} are needed in every class"
            )

    def check_same_classes(self, other: "Groups") -> None:
        """Refuse query labels that are not those of the support set."""
        if self.labels.shape != other.labels.shape or bool((self.labels != other.labels).any()):
            ours, theirs = set(self.labels.tolist()), set(other.labels.tolist())
            raise ValueError(
                "query_labels must have the classes of labels: "
                f"missing {sorted(ours - theirs)[:10]}, unknown {sorted(theirs - ours)[:10]}"
            )

    def rows(self, classes: Tensor, within: Tensor) -> Tensor:
        """Row numbers of the ``within``-th samples of ``classes``."""
        return self.order.take(self.start.take(classes) + within)


def draw_distinct(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` distinct numbers below each size, in uniformly random order.

    Entry i of a Lehmer code is uniform on 0 ... size - 1 - i: "the how-manieth of those still left". Decoding
    is a bijection from codes to ordered samples, so every ordered sample without repetition has the same
    probability (up to the 2^-53 steps of a float64).

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


def episode_blocks(
    groups: Groups, query_groups: Groups | None, way: int, shot: int, query: int, episodes: int, seed: int
) -> Iterator[Episodes]:
    """Yield the episodes of ``sample_episodes`` in blocks: a million need no more memory than a thousand."""
    device = groups.order.device
    generator = torch.Generator(device).manual_seed(seed)
    block = _CPU_BLOCK if device.type == "cpu" else _GPU_BLOCK
    n_classes = torch.full((block,), len(groups.labels), device=device)
    for first in range(0, episodes, block):
        classes = draw_distinct(n_classes, way, generator)  # [way, block]
        if query_groups is None:
            drawn = groups.rows(classes, draw_distinct(groups.size.take(classes), shot + query, generator))
            support, queries = drawn[:shot], drawn[shot:]  # [shot or query, way, block]
        else:
            support = groups.rows(classes, draw_distinct(groups.size.take(classes), shot, generator))
            queries = query_groups.rows(classes, draw_distinct(query_groups.size.take(classes), query, generator))
        whole = Episodes(support.permute(2, 1, 0), queries.permute(2, 1, 0), classes.T)
        yield whole[: episodes - first]


def check_episodes(labels, query_labels, way, shot, query, episodes, seed) -> tuple[Groups, Groups | None]:
    """Validate what defines the episodes and group the rows by class."""
    for name, value in dict(way=way, shot=shot, query=query, episodes=episodes).items():
        check_count(name, value, 2 if name == "way" else 1)
    check_count("seed", seed, 0)
    groups = Groups(check_labels(labels))
    if way > len(groups.labels):
        raise ValueError(f"way must be at most the number of classes, {len(groups.labels)}, got {way}")
    if query_labels is None:
        groups.check_size(shot + query, "shot + query")
        return groups, None
    query_groups = Groups(check_labels(query_labels, "query_labels"))
    groups.check_same_classes(query_groups)
    groups.check_size(shot, "shot")
    query_groups.check_size(query, "query", "query_labels")
    return groups, query_groups


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

    Every ordered choice of classes has the same probability, and, given the classes, every ordered choice of
    samples, whatever the sizes of the classes. This is the protocol of Vinyals et al. (2016) and Snell et al.
    (2017).

    Args:
        labels: integers [N], with or without gaps.
        way: classes an episode, 2 ... number of classes.
        shot: labelled samples a class, at least 1.
        query: samples to classify a class, at least 1.
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
    groups, query_groups = check_episodes(labels, query_labels, way, shot, query, episodes, seed)
    blocks = list(episode_blocks(groups, query_groups, way, shot, query, episodes, seed))
    return Episodes(
        torch.cat([block.support for block in blocks]).contiguous(),
        torch.cat([block.query for block in blocks]).contiguous(),
        torch.cat([block.classes for block in blocks]).contiguous(),
    )
