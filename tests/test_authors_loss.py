"""loss=authors: L_CNT sums all 13 ReLUs of the first 30 layers, not one a block."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from talkinghead.models.backbones import VGG, VGG16_BLOCKS, VGG19_BLOCKS


@pytest.mark.parametrize(("name", "blocks"), [("vgg19", VGG19_BLOCKS), ("vggface", VGG16_BLOCKS)])
def test_all_relus_are_compared(name: str, blocks: tuple[int, ...]) -> None:
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        config = compose("config", ["loss=authors", "paths.output_dir=out", "paths.root_dir=."]).loss.content
    backbone = config.backbones[name]
    network = VGG(blocks, list(backbone.layers), backbone.convention, backbone.pooling)
    relus = [n for n, layer in enumerate(network.features) if isinstance(layer, nn.ReLU)]
    assert network.layers == tuple(relus[:13])
    assert len(network.features) == 30
    assert sum(isinstance(layer, nn.AvgPool2d) for layer in network.features) == 4
    with torch.no_grad():
        assert len(network(torch.zeros(1, 3, 32, 32))) == 13
