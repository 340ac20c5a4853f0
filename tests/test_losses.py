"""The adversarial and matching losses against hand-computed values."""

import pytest
import torch

from talkinghead.losses import adversarial, feature_matching, hinge, matching


def test_hinge_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, 0.5])
    assert hinge(real, fake).item() == pytest.approx(((0 + 0) + (0.5 + 1.5)) / 2)


def test_hinge_is_zero_for_a_sure_discriminator() -> None:
    assert hinge(torch.tensor([1.0]), torch.tensor([-1.0])).item() == 0


def test_adversarial_wants_high_scores() -> None:
    fake = torch.tensor([1.0, 3.0], requires_grad=True)
    loss = adversarial(fake)
    loss.backward()
    assert loss.item() == -2
    assert fake.grad is not None
    assert (fake.grad < 0).all()


def test_feature_matching_averages_layers_and_spares_the_real() -> None:
    real = [torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)]
    fake = [torch.ones(1, 2, requires_grad=True), torch.full((1, 1, 2, 2), 3.0, requires_grad=True)]
    loss = feature_matching(real, fake)
    loss.backward()
    assert loss.item() == 2
    assert all(r.grad is None for r in real)
    assert all(f.grad is not None for f in fake)


def test_matching_by_hand() -> None:
    assert matching(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])).item() == 2
