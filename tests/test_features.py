"""Images to network input, features of layers, the device."""

import pytest
import torch

from ncbook import backbones, features


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return backbones.build("conv4", 1, 28)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (70, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_gray_levels_become_numbers_from_0_to_1():
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    network_input = features.as_input(levels)
    assert network_input.dtype == torch.float32 and network_input.flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert features.as_input(levels.expand(1, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)


def test_images_of_floats_stay_as_they_are():
    levels = torch.full((2, 1, 4, 4), 255.0).contiguous(memory_format=torch.channels_last)
    assert (features.as_input(levels) == 1).all() and (levels == 255).all()


def test_a_map_without_parameters():
    levels = torch.tensor([0, 51], dtype=torch.uint8)[:, None, None, None].expand(2, 1, 2, 2)
    found = features.extract(torch.nn.Flatten(), levels)
    assert found.tolist() == [[0.0] * 4, [torch.tensor(0.2).item()] * 4]


def test_features_do_not_depend_on_the_batch_and_the_mode_stays(backbone, images):
    backbone.train()
    whole = features.extract(backbone, images, layer=None)
    (parts,) = features.extract_layers(backbone, images, [""], batch=7)
    assert backbone.training and whole.shape == (70, 64) and whole.dtype == torch.float32
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert not whole.requires_grad


def test_layers_come_from_one_forward_pass_and_hooks_go(backbone, images):
    passes = []
    hook = backbone.get_submodule("block1").register_forward_hook(lambda *_: passes.append(1))
    first, last = features.extract_layers(backbone, images[:10], ["block1", ""])
    hook.remove()
    assert len(passes) == 1 and first.shape == (10, 64 * 14**2)
    assert torch.equal(last, features.extract(backbone, images[:10]))
    assert not backbone.get_submodule("block1")._forward_hooks


def test_devices():
    assert features.resolve_device("cpu") == torch.device("cpu")
    assert features.resolve_device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert features.resolve_device(torch.device("cpu")) == torch.device("cpu")
    for wrong in ("nowhere", "meta", "cuda:99", 3, None, True, b"cpu"):
        with pytest.raises(ValueError, match=r"device=.* is unknown; .*allowed: auto, cpu"):
            features.resolve_device(wrong)


def settings():
    backends = torch.backends
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv)
    algorithms = (backends.cudnn.deterministic, backends.cudnn.benchmark, torch.get_deterministic_debug_mode())
    return [part.fp32_precision for part in parts], algorithms


@pytest.mark.parametrize("kind", ["cpu", "cuda"])  # flags alone: no GPU is needed
def test_full_float32_and_the_same_bits_again_in_here_alone(kind, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_float32_matmul_precision("medium")
    try:
        before = settings()
        with pytest.raises(KeyError), features.reproducible(torch.device(kind)):
            precision, algorithms = settings()
            assert not {"tf32", "bf16"} & {*precision}
            assert algorithms == ((True, False, 1) if kind == "cuda" else before[1])
            raise KeyError
        assert settings() == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_features_are_float32_whatever_the_caller_computes_in(backbone, images):
    expected = features.extract(backbone, images[:8])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features.extract(backbone, images[:8]), expected)
