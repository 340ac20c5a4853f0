"""Memory layout: another order in memory, the same results."""

import pytest
import torch

from talkinghead.models.fsth import Discriminator, Embedder, Generator
from talkinghead.models.memory_format import lay_out, layout_of, training_layout


@pytest.mark.parametrize(
    ("device", "bf16", "avx512", "size", "last"),
    [
        ("cpu", False, False, 256, False),
        ("cpu", False, False, 64, True),
        ("cpu", True, False, 256, True),
        ("cpu", False, True, 256, True),
        ("cuda", False, False, 256, True),
    ],
)
def test_which_layout(
    monkeypatch: pytest.MonkeyPatch, device: str, bf16: bool, avx512: bool, size: int, last: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: avx512)
    assert training_layout(device, bf16, size) is (torch.channels_last if last else torch.contiguous_format)


def test_results_and_gradients_are_the_same_within_rounding() -> None:
    outputs, gradients = [], []
    for layout in (torch.channels_last, torch.contiguous_format):
        torch.manual_seed(0)
        embedder, generator = Embedder(32, (8, 16), None), Generator(32, 16, (8, 16), 1, (16, 8), None, None)
        discriminator = Discriminator(3, 32, (8, 16), None)
        networks = [lay_out(network, layout) for network in (embedder, generator, discriminator)]
        assert [layout_of(network) for network in networks] == [layout] * 3
        x, y = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
        x_hat = generator(y, embedder(x, y))
        score = discriminator(x_hat, y, torch.tensor([0, 1])).score
        (score.sum() + (x_hat - x).square().sum()).backward()
        outputs.append(torch.cat([x_hat.flatten(), score]).detach())
        gradients.append(torch.cat([p.grad.flatten() for n in networks[:2] for p in n.parameters()]))
    for first, second in (outputs, gradients):
        assert (first - second).norm() < 1e-3 * first.norm()
