"""`train.py experiment=meta_shipped` is the one command that makes the model that ships: renders, trains, writes it."""

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from talkinghead.cli import train
from talkinghead.learners.checkpoints import image_size_of, networks
from talkinghead.learners.export import PARTS
from talkinghead.models.trusted import inside
from talkinghead.models.warp_guided import WarpGuidedGenerator
from talkinghead.reenactment.inputs import MODELS
from tests.helpers.scripts import finish, start

ROOT = Path(__file__).parents[1]
SMALL = [
    "experiment=meta_shipped", "loss=warp_offline", "trainer=cpu", "model=warp_64", "data.build.image_size=64",
    "data.build.train=4", "data.build.val=1", "data.build.test=1", "data.build.cross_clips=0",
    "data.build.frames_per_clip=4", "data.build.eval_frames=4", "data.build.people_per_shard=4",
    "data.val_shots=2", "data.val_episodes=2", "validation_shots=[1,2]", "data.num_workers=0", "data.batch_size=2",
    "data.episodes_per_epoch=8", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "metrics.detector=null",
    "callbacks.previews=null", "callbacks.schedule.warmup=1", "logger=none",
]  # fmt: skip


@pytest.mark.slow
def test_one_command_renders_trains_and_writes_the_small_checkpoint(tmp_path: Path) -> None:
    told = finish(start("train.py", *SMALL, f"paths.root_dir={tmp_path}", f"hydra.run.dir={tmp_path}"))
    small = tmp_path / "checkpoints/warp_256.ckpt"
    assert "warp_256.ckpt" in told
    assert torch.load(small, weights_only=True).keys() == PARTS
    assert small.stat().st_size < 20e6
    assert image_size_of(str(small)) == 64
    parts = networks(str(small))
    assert isinstance(parts["generator"], WarpGuidedGenerator)
    assert all(value.isfinite().all() for value in parts.state_dict().values())


def test_the_networks_are_those_of_the_file_that_ships() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["experiment=meta_shipped", "num_videos=1"])
    assert config.portable == MODELS["warp_256"].name
    assert [*config.portable_loss.content.backbones] == [
        *inside(str(MODELS["warp_256"]))["loss"]["content"]["backbones"]
    ]
    shipped = networks(str(MODELS["warp_256"])).state_dict()
    for name in ("embedder", "generator", "discriminator"):
        own = {f"{name}.{key}": value.shape for key, value in instantiate(config.model[name]).state_dict().items()}
        assert own == {key: value.shape for key, value in shipped.items() if key.startswith(f"{name}.")}


def test_the_papers_networks_that_ship_have_their_own_experiment() -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("config", ["experiment=meta_fsth_64"])
    assert (config.portable, config.data.build.train, config.data.build.get("looks")) == ("fsth_64.ckpt", 600, None)


def test_a_run_without_a_checkpoint_says_that_nothing_was_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.write_portable(tmp_path / "last.ckpt", tmp_path / "small.ckpt")
    assert "portable=small.ckpt: not written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
