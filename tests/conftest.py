"""Every shape annotation of the package is checked at run time in the tests."""

import os
from collections.abc import Iterator

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("talkinghead", "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _weights_folder() -> Iterator[None]:
    """A verb that runs in this process sets the folder of pretrained networks: it is set back after each test."""
    name = "TALKINGHEAD_WEIGHTS"
    found = os.environ.get(name)
    yield
    os.environ.pop(name, None)
    if found is not None:
        os.environ[name] = found
