"""Feature maps f: images [B, C, H, W] -> features [B, D]. No classifier heads, no training, no files.

Built by `training` and `runs`; every layer that a layer-wise measurement may look at has a name.
"""

from torch import nn

from ncbook.experiment import BACKBONES, nearest


class Conv4(nn.Sequential):
    """Four blocks of 3x3 convolution (64 filters), batch norm, ReLU and 2x2 max pooling; then flattened.

    The network of Vinyals et al. (2016) and Snell et al. (2017). With one input channel 111,936 parameters
    (convolutions with bias, batch norm included). Images of 28 x 28 give D = 64 features, 32 x 32 D = 256.
    """

    def __init__(self, in_channels: int, image_size: int, width: int = 64):
        super().__init__()
        channels = in_channels
        for block in range(1, 5):
            self.add_module(
                f"block{block}",
                nn.Sequential(
                    nn.Conv2d(channels, width, kernel_size=3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.MaxPool2d(2),  # before ReLU: the same numbers, and ReLU has a quarter of them to do
                    nn.ReLU(inplace=True),
                ),
            )
            channels = width
        self.add_module("features", nn.Flatten())  # [B, width, s, s] -> [B, width * s * s]
        self.feature_dim = width * (image_size // 16) ** 2


_BUILDERS = {"conv4": (Conv4, ["block1", "block2", "block3", "block4", "features"], 16)}


def _entry(name: str):
    if name not in _BUILDERS:
        raise ValueError(f"backbone={name!r} is unknown; {nearest(name, list(BACKBONES))}")
    return _BUILDERS[name]


def build(name: str, in_channels: int, image_size: int) -> nn.Module:
    """Build a feature map with fresh weights from torch's global generator.

    Args:
        name: "conv4".
        in_channels: channels C of the images, at least 1.
        image_size: height and width of the images in pixels.

    Returns:
        A module from float images [B, C, H, W] to features [B, D], with D in its attribute ``feature_dim``.

    Raises:
        ValueError: unknown name, or an image size or channel count the network cannot take.

    >>> sum(p.numel() for p in build("conv4", in_channels=1, image_size=28).parameters())
    111936
    >>> build("conv4", in_channels=1, image_size=28).feature_dim
    64
    """
    builder, _, smallest = _entry(name)
    if in_channels < 1:
        raise ValueError(f"in_channels={in_channels}; allowed: a whole number of at least 1")
    if image_size < smallest:
        raise ValueError(f"image_size={image_size}; {name} takes images of at least {smallest} pixels")
    return builder(in_channels, image_size)


def layers(name: str) -> list[str]:
    """Names of the layers whose outputs can be asked for, from the first to the features.

    >>> layers("conv4")
    ['block1', 'block2', 'block3', 'block4', 'features']
    """
    return list(_entry(name)[1])
