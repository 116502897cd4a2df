"""Feature maps: sizes, shapes, layers, and that each trains in bfloat16 and channels last."""

import pytest
import torch

from ncbook import backbones
from ncbook.catalog import BACKBONES
from ncbook.features import extract

# parameters without a head, three channels, 32 x 32
PARAMETERS = {
    "conv4": 113_088,  # 111,936 with one channel
    "conv4_small_wide": 80_640,  # 80,496 with one channel
    "resnet12": 12_424_320,
    "resnet18": 11_168_832,
    "wrn_28_4": 5_846_480,
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32), (3, 84)])
def test_shapes(name, channels, size):
    with torch.device("meta"):
        network = backbones.build(name, channels, size)
        assert network(torch.zeros(2, channels, size, size)).shape == (2, network.feature_dim)


@pytest.mark.parametrize("name", PARAMETERS)
def test_numbers_of_parameters(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in backbones.build(name, 3, 32).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("depth", [3, 5, 10, 14, 18, 20])
def test_plain_networks_have_their_depth(depth):
    with torch.device("meta"):
        network = backbones.build(f"plain{depth}", 3, 32)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == depth == len(backbones.layers(f"plain{depth}")) - 1
    assert [c.stride[0] for c in convolutions] == [2, 2] + [1] * (depth - 2)
    expected = 3 * 64 * 4 + 64 * 64 * 4 + (depth - 2) * 64 * 64 * 9 + depth * 2 * 64
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("name", BACKBONES)
def test_layers_come_in_order_and_end_with_the_features(name):
    torch.manual_seed(0)
    network, called = backbones.build(name, 1, 28).eval(), []
    for layer in backbones.layers(name):
        network.get_submodule(layer).register_forward_hook(lambda _m, _i, _o, layer=layer: called.append(layer))
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    features = extract(network, images)
    assert called == backbones.layers(name)
    last = extract(network, images, layer=backbones.layers(name)[-1])
    assert torch.equal(last, features)
    first = extract(network, images, layer=backbones.layers(name)[0])
    assert first.shape[0] == 3 and first.dim() == 2 and first.is_contiguous()


@pytest.mark.parametrize("name", ["conv4", "plain10", "resnet12", "resnet18", "wrn_28_4"])
def test_a_step_in_bfloat16_and_channels_last(name):
    torch.manual_seed(0)
    network = backbones.build(name, 3, 32).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(images).float().square().mean()
    loss.backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name


def test_residual_shortcuts_are_the_identity_where_the_residual_is_zero():
    torch.manual_seed(0)
    wide = backbones.build("wrn_28_4", 3, 32).eval()
    block = wide.group2[1]
    torch.nn.init.zeros_(block.residual[-1].weight)
    x = torch.randn(2, 128, 8, 8)
    before = x.clone()
    assert torch.equal(block(x), before) and torch.equal(x, before), "a block must not change its input in place"


def test_refusals():
    with pytest.raises(ValueError, match="did you mean 'conv4'"):
        backbones.build("conv5", 1, 28)
    with pytest.raises(ValueError, match="at least 16"):
        backbones.build("conv4", 1, 8)
    with pytest.raises(ValueError, match="in_channels=0"):
        backbones.build("conv4", 0, 28)
    with pytest.raises(ValueError, match="did you mean 'conv4'"):
        backbones.layers("conv5")


def test_conv4_on_the_meta_device():
    with torch.device("meta"):
        assert backbones.build("conv4", 3, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 256)
