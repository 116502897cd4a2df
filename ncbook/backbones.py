"""Feature maps f: images [B, C, H, W] -> features [B, D]. No classifier heads, no training, no files.

Built by `training` and `runs`; every layer that a layer-wise measurement may look at has a name.
"""

from torch import nn

from ncbook import catalog
from ncbook._checks import check_choice, check_whole, named_arguments

__all__ = ["Conv4", "PlainConv", "ResNet12", "WideResNet", "build", "layers", "resnet18"]
__dir__ = __all__.copy


class Conv4(nn.Sequential):
    """Four blocks of 3x3 convolution (64 filters), batch norm, ReLU and 2x2 max pooling; then flattened.

    The network of Vinyals et al. (2016) and Snell et al. (2017). With one input channel 111,936 parameters
    (convolutions with bias, batch norm included). Images of 28 x 28 give D = 64 features, 32 x 32 D = 256.
    "conv4_small" has 8, 16, 32 and 64 filters (24,624 parameters): as many features at an eighth of the time;
    "conv4_small_wide" differs in the last block alone, 256 filters (80,496 parameters, D = 256).
    """

    def __init__(self, in_channels: int, image_size: int, widths=(64, 64, 64, 64)):
        super().__init__()
        channels = in_channels
        for block, width in enumerate(widths, 1):
            conv = nn.Conv2d(channels, width, kernel_size=3, padding=1)
            # Pooled before ReLU: the same numbers, and ReLU has a quarter of them to do.
            pooled = nn.Sequential(conv, nn.BatchNorm2d(width), nn.MaxPool2d(2), nn.ReLU(inplace=True))
            self.add_module(f"block{block}", pooled)
            channels = width
        self.add_module("features", nn.Flatten())  # [B, width, s, s] -> [B, width * s * s]
        self.feature_dim = channels * (image_size // 16) ** 2


class PlainConv(nn.Sequential):
    """A plain convolutional network of any depth: two 2x2 convolutions of stride 2, then 3x3 ones; then flattened.

    Each convolution is followed by batch norm and ReLU. The networks of the slides' figure on depth (3, 5, 10, 14, 18,
    20 layers) as they are *recalled*: the sources at hand give the depths, neither the width nor the layers; 64
    channels are this project's choice, 16 in those named "_small". Images of 32 x 32 give D = 4,096 (1,024).
    """

    def __init__(self, in_channels: int, image_size: int, depth: int, width: int = 64):
        super().__init__()
        channels = in_channels
        for layer in range(1, depth + 1):
            size, stride, padding = (2, 2, 0) if layer <= 2 else (3, 1, 1)
            conv = nn.Conv2d(channels, width, size, stride, padding, bias=False)  # batch norm brings the bias
            self.add_module(f"layer{layer}", nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
            channels = width
        self.add_module("features", nn.Flatten())
        self.feature_dim = width * (image_size // 2 // 2) ** 2


class _FewShotBlock(nn.Module):
    """Three 3x3 convolutions with batch norm and leaky ReLU around a 1x1 shortcut, then 2x2 max pooling."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        parts = []
        for inside in (channels, width, width):
            parts += [nn.Conv2d(inside, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.1)]
        self.residual = nn.Sequential(*parts[:-1])
        self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width))
        self.finish = nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2))

    def forward(self, x):
        return self.finish(self.residual(x) + self.shortcut(x))


class ResNet12(nn.Sequential):
    """The 12-layer network of few-shot papers: four blocks of 64, 160, 320 and 640 channels, average pooling; D = 640.

    The wide one of Lee et al. (MetaOptNet, 2019) and Tian et al. (RFS, 2020), without their DropBlock.
    """

    def __init__(self, in_channels: int, image_size: int, widths=(64, 160, 320, 640)):
        super().__init__()
        channels = in_channels
        for block, width in enumerate(widths, 1):
            self.add_module(f"block{block}", _FewShotBlock(channels, width))
            channels = width
        self.add_module("features", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        self.feature_dim = channels
        _kaiming(self)


class _PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; a 1x1 shortcut where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
        )
        changes = stride != 1 or channels != width
        self.shortcut = nn.Conv2d(channels, width, 1, stride, bias=False) if changes else None

    def forward(self, x):
        inner = self.first(x)
        return self.residual(inner) + (x if self.shortcut is None else self.shortcut(inner))


class WideResNet(nn.Sequential):
    """WRN-28-4 of Zagoruyko and Komodakis (2016): three groups of four blocks, average pooling; D = 256, no dropout.

    The network of the slides. 5,846,480 parameters without a head, for three channels.
    """

    def __init__(self, in_channels: int, image_size: int, depth: int = 28, widen: int = 4):
        super().__init__()
        self.add_module("stem", nn.Conv2d(in_channels, 16, 3, padding=1, bias=False))
        channels = 16
        for group, (width, stride) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
            blocks = []
            for block in range((depth - 4) // 6):
                blocks.append(_PreActivationBlock(channels, width * widen, stride if block == 0 else 1))
                channels = width * widen
            self.add_module(f"group{group}", nn.Sequential(*blocks))
        finish = [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.add_module("features", nn.Sequential(*finish))
        self.feature_dim = channels
        _kaiming(self)


def _kaiming(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def resnet18(in_channels: int, image_size: int) -> nn.Module:
    """torchvision's ResNet-18 with the stem for small images: a 3x3 convolution of stride 1, no pooling; D = 512."""
    from torchvision import models  # seconds to import: only for those who want it

    network = models.resnet18(weights=None)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool, network.fc = nn.Identity(), nn.Identity()
    network.feature_dim = 512
    return network


@named_arguments
def build(name: str, in_channels: int, image_size: int) -> nn.Module:
    """Build a feature map with fresh weights from torch's global generator.

    Args:
        name: one of `ncbook.catalog.BACKBONES`.
        in_channels: channels C of the images, at least 1.
        image_size: height and width of the images in pixels, at least what the network takes.

    Returns:
        A module from float images [B, C, H, W] to features [B, D], with D in its attribute ``feature_dim``.

    Raises:
        ValueError: unknown name, or an image size or channel count the network cannot take.

    Example:
        >>> sum(p.numel() for p in build("conv4", in_channels=1, image_size=28).parameters())
        111936
        >>> build("conv4", in_channels=1, image_size=28).feature_dim
        64
    """
    entry = catalog.BACKBONES[check_choice("backbone", name, catalog.BACKBONES)]
    check_whole("in_channels", in_channels, 1)
    check_whole("image_size", image_size, entry.smallest)
    return globals()[entry.builder](in_channels, image_size, **entry.options)


def layers(name: str) -> list[str]:
    """Names of the layers whose outputs can be extracted, from the first to the features.

    Example:
        >>> layers("conv4")
        ['block1', 'block2', 'block3', 'block4', 'features']
    """
    return list(catalog.BACKBONES[check_choice("backbone", name, catalog.BACKBONES)].layers)
