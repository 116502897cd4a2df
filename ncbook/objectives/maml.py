"""MAML (Finn et al. 2017): a network from which few gradient steps on the shots of an episode lead far.

Built by `ncbook.objectives.build`.
"""

import contextlib

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncbook.objectives.anil import Adapting, descend
from ncbook.objectives.episodic import places


class Maml(Adapting):
    """Cross-entropy of the queries under network and head after some gradient steps on the shots.

    All parameters start as the learned ones, and each step takes inner_rate times the gradient of the mean
    cross-entropy of the shots; with ``second_order=False`` these gradients count as constants. Batch norm uses the
    statistics of the batch throughout, also when it classifies: shots for themselves, queries for themselves, so that
    queries are classified together (as in the paper's code). The features of a run, in evaluation mode, are those of
    the network before it adapts; the statistics that they need are followed by one more forward pass per step, without
    gradients, of one episode.

    A head of zeros passes no gradient to the features: the first step moves the head alone, and with one inner step
    this is nearly ANIL, for as long as the learned head stays short beside that step (a tenth of it after 9,000 steps
    on Omniglot). Further steps move the features, too.
    """

    needs_images = True

    def episode_scores(self, backbone: nn.Module, pixels: Tensor, shot: int) -> Tensor:
        """Logits of the adapted network [T, way * query, way]; see `Episodic.episode_scores`."""
        self.check_way(pixels.shape[1])
        if backbone.training:
            with torch.no_grad():  # for the running statistics
                backbone(pixels[0].flatten(0, 1))
        network = nn.Sequential(backbone, self.head)
        with batch_statistics(network):
            return torch.stack([self._one(network, episode, shot) for episode in pixels])

    def _one(self, network: nn.Module, pixels: Tensor, shot: int) -> Tensor:
        """Logits [way * query, way] of one episode [way, shot + query, channels, H, W]."""
        shots, queries = (part.flatten(0, 1) for part in pixels.tensor_split([shot], 1))
        labels = places(len(pixels), shot, pixels.device)

        def logits(parameters, images):
            return torch.func.functional_call(network, parameters, (images,)).float()

        def error(parameters):
            return F.cross_entropy(logits(parameters, shots), labels)

        adapted = descend(error, dict(network.named_parameters()), self.steps, self.rate, self.second_order)
        return logits(adapted, queries)


@contextlib.contextmanager
def batch_statistics(network: nn.Module):
    """Batch norm normalizes by the batch at hand and leaves its running statistics as they are.

    Args:
        network: in any mode, in which it is left again.
    """
    modes = {module: module.training for module in network.modules()}
    norms = [module for module in modes if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    tracking = {norm: norm.track_running_stats for norm in norms}
    try:
        network.train()
        for norm in norms:
            norm.track_running_stats = False
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = tracking[norm]
        for module, training in modes.items():
            module.training = training
