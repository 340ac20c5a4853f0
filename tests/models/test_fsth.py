"""The networks: sizes of the paper, scales and shifts from P, rows of W, spectral norm."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from talkinghead.models.encoder import pool
from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.layers import (
    DivideByNorm,
    InstanceNorm,
    NormalizeInstances,
    NormalizeInstancesOnCPU,
    SelfAttention,
    SpectralNorm,
    conv,
    normalized,
)


def num_parameters(module: nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.fixture
def small() -> tuple[Embedder, Generator, Discriminator]:
    sizes = (8, 16, 16)
    return (
        Embedder(32, sizes, attention=8),
        Generator(32, 16, (8, 16), 2, (16, 8), attention_down=8, attention_up=16),
        Discriminator(5, 32, sizes, attention=8),
    )


def images(batch: int, size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(batch, 3, size, size) * 2 - 1, torch.rand(batch, 3, size, size) * 2 - 1


def test_paper_sizes() -> None:
    assert num_parameters(Embedder()) == pytest.approx(14.8, rel=0.02)
    assert num_parameters(Generator()) == pytest.approx(37.9, rel=0.02)
    discriminator = Discriminator(num_videos=10)
    assert num_parameters(discriminator) - 10 * 512 / 1e6 == pytest.approx(19.6, rel=0.02)


def test_authors_code_sizes() -> None:
    assert num_parameters(Embedder(attention=None)) == pytest.approx(14.83, abs=0.005)
    assert num_parameters(Generator(attention_down=None, attention_up=None)) == pytest.approx(37.91, abs=0.01)
    assert num_parameters(Discriminator(1, attention=None)) == pytest.approx(19.55, abs=0.01)


def test_generator_is_a_function_of_psi(small: tuple[Embedder, Generator, Discriminator]) -> None:
    embedder, generator, _ = (m.eval() for m in small)
    x, y = images(3)
    e = embedder(x, y)
    x_hat = generator(y, e)
    assert x_hat.shape == (3, 3, 32, 32)
    assert x_hat.abs().max() <= 1
    assert torch.equal(x_hat, generator.synthesize(y, generator.project(e)))
    assert not torch.allclose(generator(y, e.flip(0)), x_hat), "the embedding must change the picture"


def test_psi_reaches_every_adaptive_layer(small: tuple[Embedder, Generator, Discriminator]) -> None:
    generator = small[1]
    psi = torch.zeros(1, sum(generator.psi_sizes), requires_grad=True)
    generator.synthesize(images(1)[1], psi).sum().backward()
    assert psi.grad is not None
    assert all(part.abs().sum() > 0 for part in psi.grad.split(generator.psi_sizes, dim=1))


def test_generator_rejects_unequal_depths() -> None:
    with pytest.raises(ValueError, match="2 down blocks and 3 up blocks"):
        Generator(32, 16, (8, 16), 1, (16, 8, 8))


def test_discriminator_is_bilinear_in_w(small: tuple[Embedder, Generator, Discriminator]) -> None:
    discriminator = small[2].eval()
    x, y = images(2)
    i = torch.tensor([4, 1])
    score, features = discriminator(x, y, i)
    v, _ = discriminator.V(x, y)
    expected = (v @ (discriminator.W.weight[i] + discriminator.w0).T).diagonal() + discriminator.b
    torch.testing.assert_close(score, expected)
    assert len(features) == 4  # three down blocks and the flat one


def test_scores_compared_in_one_pass_are_those_of_two(small: tuple[Embedder, Generator, Discriminator]) -> None:
    discriminator = small[2].eval()
    x, y = images(2)
    x_hat, i = -x, torch.tensor([4, 1])
    one = discriminator.compare(x, x_hat, y, i)
    two = discriminator(x, y, i).score, discriminator(x_hat, y, i).score
    torch.testing.assert_close(one, two)

    def gradients(scores: tuple[torch.Tensor, torch.Tensor]) -> list[torch.Tensor]:
        discriminator.zero_grad()
        (scores[0].sum() - 2 * scores[1].sum()).backward()
        return [p.grad.to_dense() for p in discriminator.parameters() if p.grad is not None]

    torch.testing.assert_close(gradients(one), gradients(two), rtol=1e-4, atol=1e-5)


def test_w_gradient_is_sparse(small: tuple[Embedder, Generator, Discriminator]) -> None:
    discriminator = small[2]
    discriminator(*images(2), torch.tensor([3, 3])).score.sum().backward()
    gradient = discriminator.W.weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    assert gradient.coalesce().indices().tolist() == [[3]]


@pytest.mark.parametrize("pooling", ["sum_relu", "relu_sum", "max"])
def test_pooling(pooling: str) -> None:
    h = torch.tensor([[[[1.0, -3.0]], [[2.0, 1.0]]]])
    expected = {"sum_relu": [0.0, 3.0], "relu_sum": [1.0, 3.0], "max": [1.0, 2.0]}
    assert pool(h, pooling).tolist() == [expected[pooling]]


def test_spectral_norm_is_one() -> None:
    layer = normalized(nn.Conv2d(6, 9, 3), True)
    for _ in range(50):
        weight = layer.weight
    assert torch.linalg.matrix_norm(weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)


def test_spectral_norm_agrees_with_torch() -> None:
    linear = nn.Linear(7, 5)
    reference = nn.utils.parametrizations.spectral_norm(nn.Linear(7, 5), n_power_iterations=200)
    reference.parametrizations.weight.original.data.copy_(linear.weight.data)
    ours = SpectralNorm(linear.weight, num_warmup=200)(linear.weight)
    for _ in range(3):
        theirs = reference.weight
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_spectral_norm_gradient_matches_autograd() -> None:
    u, v = torch.randn(4, dtype=torch.float64), torch.randn(12, dtype=torch.float64)
    weight = torch.randn(4, 3, 2, 2, dtype=torch.float64).to(memory_format=torch.channels_last).requires_grad_()
    sigma = u @ weight.movedim(1, -1).flatten(1) @ v
    results = weight / sigma, DivideByNorm.apply(weight, sigma.detach(), u, v)
    theirs, ours = (torch.autograd.grad(result.square().sin().sum(), weight)[0] for result in results)
    torch.testing.assert_close(ours, theirs)


def test_spectral_norm_is_the_same_for_channels_last() -> None:
    plain = torch.randn(6, 4, 3, 3)
    norm = SpectralNorm(plain, num_warmup=3)
    other = SpectralNorm(plain, num_warmup=0)
    other.load_state_dict(norm.state_dict())
    for _ in range(2):
        torch.testing.assert_close(norm(plain), other(plain.to(memory_format=torch.channels_last)))
    torch.testing.assert_close(norm.v, other.v)
    assert conv(4, 6, 3, True).weight.is_contiguous(memory_format=torch.channels_last)


def test_spectral_norm_in_bf16_autocast_stays_fp32() -> None:
    layer = normalized(nn.Conv2d(6, 9, 3), True).eval()
    expected = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, expected)


def test_spectral_norm_rests_in_evaluation() -> None:
    layer = normalized(nn.Linear(7, 5), True).eval()
    u = layer.parametrizations.weight[0].u.clone()
    first, second = layer.weight, layer.weight
    assert torch.equal(first, second)
    assert torch.equal(u, layer.parametrizations.weight[0].u)


def test_cached_weights_are_computed_once() -> None:
    layer = normalized(nn.Linear(7, 5), True).train()
    with parametrize.cached():
        assert layer.weight is layer.weight


def test_instance_norm_matches_torch() -> None:
    x = torch.randn(2, 4, 5, 6)
    scale, shift = torch.randn(2, 4), torch.randn(2, 4)
    ours = InstanceNorm(4, affine=False)(x, torch.cat([scale, shift], 1))
    theirs = nn.functional.instance_norm(x) * (1 + scale)[:, :, None, None] + shift[:, :, None, None]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", [NormalizeInstances, NormalizeInstancesOnCPU])
@pytest.mark.parametrize("batch", [1, 3])
def test_instance_norm_gradient_by_finite_differences(batch: int, function: type[torch.autograd.Function]) -> None:
    x, scale, shift = (
        torch.randn(n, 2, *size, dtype=torch.float64, requires_grad=True)
        for n, size in ((3, (3, 4)), (batch, (1, 1)), (batch, (1, 1)))
    )
    assert torch.autograd.gradcheck(lambda *inputs: function.apply(*inputs, 1e-5), (x, scale, shift))


def test_instance_norm_is_the_same_on_every_device() -> None:
    x = torch.randn(2, 3, 8, 8).bfloat16().to(memory_format=torch.channels_last)
    scale, shift = torch.randn(2, 2, 3, 1, 1)
    ours, formula = (f.apply(x, scale, shift, 1e-5) for f in (NormalizeInstancesOnCPU, NormalizeInstances))
    assert ours.dtype == formula.dtype
    assert ours.stride() == formula.stride()
    torch.testing.assert_close(ours, formula, rtol=1e-2, atol=1e-2)


def test_instance_norm_in_bf16_keeps_fp32_statistics() -> None:
    x = (100 + torch.randn(2, 3, 16, 16)).bfloat16()
    normalized_x = InstanceNorm(3, affine=True)(x)
    assert normalized_x.dtype == torch.bfloat16
    torch.testing.assert_close(normalized_x.float(), nn.functional.instance_norm(x.float()), rtol=1e-2, atol=1e-2)


def test_self_attention_starts_as_identity_and_looks_everywhere() -> None:
    attention = SelfAttention(16, spectral_norm=False)
    x = torch.randn(1, 16, 8, 8, requires_grad=True)
    assert torch.equal(attention(x), x)
    attention.gamma.data.fill_(1)
    (attention(x) - x)[0, :, 0, 0].sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, 7, 7].abs().sum() > 0, "the output at one corner must depend on the opposite one"


def test_embedder_needs_large_enough_pictures() -> None:
    with pytest.raises(ValueError, match="need pictures of 64 px"):
        Embedder(32, (8,) * 6, None)
