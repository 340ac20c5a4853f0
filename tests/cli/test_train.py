"""train.py as users run it: experiments compose, a killed run goes on bit-equal, two ranks agree."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from talkinghead.cli import train
from talkinghead.reenactment.inputs import MODELS
from talkinghead.synthetic.dataset import SyntheticDataset
from tests.helpers.data_sets import make_clip, write_data_set
from tests.helpers.scripts import finish, start

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml"))
TINY = [
    "experiment=meta_synthetic", "animate_example=false", "trainer=cpu", "data=folder", "data.size=32",
    "data.batch_size=2", "data.episodes_per_epoch=8", "data.num_workers=0", "data.val_shots=8", "shots=3",
    "validation_shots=[1,8]", "model.image_size=32", "model.embedder.channels=[8,16]",
    "model.generator.embedding_size=16", "model.generator.down_channels=[8,16]",
    "model.generator.up_channels=[16,8]", "model.generator.num_residual=1", "metrics.detector=null",
    "callbacks.previews=null",
]  # fmt: skip


def compose_config(*overrides: str) -> object:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    config = compose_config(f"experiment={experiment}", "hydra.runtime.output_dir=out", "hydra.runtime.cwd=.")
    HydraConfig.instance().set_config(config)
    if config.stage == "test":  # its learner is the method's
        assert "learner" not in config
        assert list(config.method) == ["ft"]
        return
    OmegaConf.to_container(config.learner, resolve=True)
    assert config.learner["_target_"].startswith("talkinghead.learners.")


@pytest.mark.parametrize("preset", ["fsth_64", "fsth_128"])
def test_networks_of_a_preset_fit_together(preset: str) -> None:
    config = compose_config(f"model={preset}", "num_videos=7")
    embedder, generator = instantiate(config.model.embedder), instantiate(config.model.generator)
    discriminator = instantiate(config.model.discriminator)
    size = config.model.image_size
    x = torch.zeros(1, 3, size, size)
    x_hat = generator(x, embedder(x, x))
    assert x_hat.shape == x.shape
    assert discriminator(x_hat, x, torch.tensor([6])).score.shape == (1,)


def test_a_rehearsal_leaves_the_config_as_it_is() -> None:
    rows = {"_target_": "torch.nn.Embedding", "num_embeddings": "${num_videos}", "embedding_dim": 2}
    learner = {"_target_": "torch.nn.ModuleDict", "modules": {"W": "${model.W}"}}
    config = OmegaConf.create({"num_videos": None, "model": {"W": rows}, "learner": learner})
    train.rehearse(config)
    config.num_videos = 7
    assert instantiate(config.learner)["W"].num_embeddings == 7


@pytest.mark.parametrize("override", ["trainer.max_epochs=abc", "init_from=nothing.ckpt", "ckpt_path=nothing.ckpt"])
def test_what_cannot_work_is_told_before_data_are_rendered(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_config("experiment=meta_synthetic", "trainer=cpu", "hydra.runtime.cwd=.",
                            f"paths.root_dir={tmp_path}", f"hydra.runtime.output_dir={tmp_path}", override)  # fmt: skip
    HydraConfig.instance().set_config(config)
    monkeypatch.setattr("talkinghead.data.datamodule.build_once", lambda *_: pytest.fail("rendered"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stop, train.errors_in_one_line("train.py"):  # noqa: PT012
        given = train.OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        train.check_options(given)
        train.fit(given)
    assert str(stop.value.code).startswith(f"train.py: {override}: ")


def test_a_misspelt_key_fails() -> None:
    with pytest.raises(ConfigCompositionException, match=r"trainer\.max_epoch"):
        compose_config("trainer.max_epoch=3")


@pytest.fixture
def data_set(tmp_path: Path) -> Path:
    clips = [make_clip(n) for n in range(10)]
    return write_data_set(tmp_path / "tiny", {"train": [clips[:4], clips[4:8]], "val": [clips[8:]]})


def train_on(data_set: Path, run: str, *overrides: str) -> subprocess.Popen:
    folders = [f"data.path={data_set}", f"hydra.run.dir={data_set.parent / run}", f"paths.root_dir={data_set.parent}"]
    return start("train.py", *TINY, *folders, *overrides, HYDRA_FULL_ERROR="1")


def load(run: Path) -> dict:
    return torch.load(run / "checkpoints/last.ckpt", map_location="cpu", weights_only=True)


def assert_bit_equal(one: object, other: object, where: str = "checkpoint") -> None:
    """Nested dicts, lists and tensors, to the last bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_bit_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        for n, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_bit_equal(a, b, f"{where}[{n}]")
    else:
        assert one == other, where


def test_a_killed_run_goes_on_bit_equal(data_set: Path) -> None:
    options = ("trainer.max_epochs=40", "trainer.check_val_every_n_epoch=1000", "callbacks.last.every_minutes=0.002")
    whole = train_on(data_set, "outputs/meta_synthetic/whole", *options)
    last = data_set.parent / "outputs/meta_synthetic/killed/checkpoints/last.ckpt"
    hang = f"+callbacks.hang={{_target_:tests.helpers.rank_dump.HangAfterSave,path:{last}}}"
    killed = train_on(data_set, "outputs/meta_synthetic/killed", *options, hang)
    deadline = time.monotonic() + 600
    while not last.is_file() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    finish(whole)
    half = torch.load(last, weights_only=True)
    (data_set.parent / "outputs/meta_synthetic/whole").rename(data_set.parent / "whole")
    output = finish(train_on(data_set, "outputs/meta_synthetic/on", *options, "ckpt_path=last"))
    assert "going on from" in output
    end, expected = load(data_set.parent / "outputs/meta_synthetic/on"), load(data_set.parent / "whole")
    assert half["global_step"] < end["global_step"] == 160
    for key in ("state_dict", "optimizer_states", "ema"):
        assert_bit_equal(expected[key], end[key], key)


def test_two_ranks_hold_the_same_weights_and_share_the_episodes(data_set: Path, tmp_path: Path) -> None:
    dump = f"+callbacks.dump={{_target_:tests.helpers.rank_dump.RankDump,dirpath:{tmp_path}}}"
    finish(train_on(data_set, "ddp", "trainer=ddp_cpu", "trainer.devices=2", "trainer.max_epochs=2", dump))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert ranks[0]["step"] == ranks[1]["step"] == 4  # 8 episodes an epoch: 2 batches of 2 on each rank
    assert_bit_equal(ranks[0]["weights"], ranks[1]["weights"])
    seen = [*ranks[0]["seen"], *ranks[1]["seen"]]
    assert len(seen) == 16
    for epoch in range(2):
        keys = [key for number, key, _ in seen if number == epoch]
        assert sorted(keys) == sorted(set(keys)), "eight clips, eight episodes: each clip once"


@pytest.mark.slow
def test_a_rank_that_loses_its_data_saves_for_all(data_set: Path) -> None:
    """And the run that goes on from there ends as one that was never disturbed."""
    options = ["trainer=ddp_cpu", "trainer.devices=2", "trainer.max_epochs=4", "callbacks.last.every_minutes=null"]
    finish(train_on(data_set, "whole", *options))
    lose = "+callbacks.lose={_target_:tests.helpers.rank_dump.LoseData,rank:1,step:5}"
    process = train_on(data_set, "outputs/meta_synthetic/lost", *options, lose)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "cannot be read, tried 6 times" in printed
    assert load(data_set.parent / "outputs/meta_synthetic/lost")["global_step"] == 5
    finish(train_on(data_set, "outputs/meta_synthetic/on", *options, "ckpt_path=last"))
    end, expected = load(data_set.parent / "outputs/meta_synthetic/on"), load(data_set.parent / "whole")
    for key in ("state_dict", "optimizer_states", "ema"):
        assert_bit_equal(expected[key], end[key], key)


@pytest.mark.slow
def test_ranks_and_parts_of_a_batch_move_the_weights_as_one_rank_does(data_set: Path, tmp_path: Path) -> None:
    # With an eps this large, Adam's steps are nearly proportional to the gradients, of which it else forgets the size.
    common = ["trainer.max_epochs=1", "learner.eps=1", "learner.lr_generator=0.01", "learner.lr_discriminator=0.01"]
    for name, options in {
        "whole": ["data.batch_size=4"],
        "parts": ["trainer=ddp_cpu", "trainer.devices=2", "data.batch_size=2", "learner.accumulate=2"],
    }.items():
        (tmp_path / name).mkdir()
        dump = f"+callbacks.dump={{_target_:tests.helpers.rank_dump.RankDump,dirpath:{tmp_path / name}}}"
        finish(train_on(data_set, name, *common, *options, dump))
    whole = torch.load(tmp_path / "whole/0.pt", weights_only=True)
    parts = [torch.load(tmp_path / f"parts/{rank}.pt", weights_only=True) for rank in range(2)]
    assert sorted(whole["seen"]) == sorted([*parts[0]["seen"], *parts[1]["seen"]])
    assert whole["step"] == parts[0]["step"] == 2
    assert_bit_equal(parts[0]["weights"], parts[1]["weights"])
    for name, value in whole["weights"].items():
        assert torch.allclose(value, parts[0]["weights"][name], atol=5e-5), name


def test_a_sweep_reaches_its_first_job(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "-m", "experiment=meta_voxceleb", "seed=0,1"]
    environment = {**os.environ, "TALKINGHEAD_ROOT": str(tmp_path)}
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert "python prepare.py source=voxceleb2" in result.stderr
    (sweep,) = (tmp_path / "outputs/meta_voxceleb").iterdir()
    assert (sweep / "0/.hydra/overrides.yaml").is_file()


def test_missing_data_is_one_clear_message(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "experiment=meta_voxceleb", f"paths.root_dir={tmp_path}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode != 0
    assert "python prepare.py source=voxceleb2" in result.stderr
    assert "python train.py experiment=meta_synthetic" in result.stderr
    assert "Traceback" not in result.stderr


def test_what_was_not_asked_for_is_refused_before_work(tmp_path: Path) -> None:
    def refused(*overrides: str) -> str:
        command = [sys.executable, str(ROOT / "train.py"), f"paths.root_dir={tmp_path}", *overrides]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        return result.stderr.strip().splitlines()[-1]

    write_data_set(tmp_path / "data/synthetic", {"train": [[make_clip(n) for n in range(4)]]})
    few = SyntheticDataset(train=4, val=1, test=2).parameters
    (tmp_path / "data/synthetic/render.json").write_text(json.dumps(few))
    told = refused("experiment=meta_synthetic", "model=fsth_64")
    assert "holds synthetic heads of other parameters" in told
    assert "delete it" in told
    told = refused("experiment=meta_synthetic", "model=fsth_128", f"data.path={tmp_path / 'new'}")
    assert "stored at 64 px and the model wants 128" in told
    assert "data=synthetic_128" in told
    assert not (tmp_path / "new").exists()
    told = refused("data=folder", f"data.path={tmp_path / 'data/synthetic'}", "model.image_size=32", "data.size=32")
    assert "no clips in split 'val'" in told
    assert "source.val_identities=N" in told
    assert not (tmp_path / "outputs/None").exists()
    assert (tmp_path / "outputs/custom").is_dir()


@pytest.mark.slow
def test_the_main_job_ends_with_something_that_moves(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train.animate_example(MODELS["fsth_64"], tmp_path / "example.mp4")
    said = capfd.readouterr().out
    for name, frames in (("example.mp4", 100), ("example_warp_256.mp4", 50)):
        assert str(tmp_path / name) in said
        with av.open(str(tmp_path / name)) as video:
            stream = video.streams.video[0]
            assert (stream.frames, stream.height, stream.width > 2 * stream.height) == (frames, 256, True)


def test_an_example_that_cannot_be_made_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train.animate_example(tmp_path / "last.ckpt", tmp_path / "example.mp4")
    assert "there is no such file" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
