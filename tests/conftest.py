"""Every shape annotation of the package is checked at run time in the tests."""

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("talkinghead", "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
