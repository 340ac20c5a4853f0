"""Options against signatures, endings of a run, and worker processes that end at once."""

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from wandb.errors import CommError

from talkinghead.cli.checking import check_account, check_flags, check_options, check_seed, found, missing_package
from talkinghead.cli.early import CONF
from talkinghead.cli.ending import errors_in_one_line, go_on, of_this_job, what_it_left, without_noise
from talkinghead.processes import end_with_parent, stopping_at_once

WITHOUT = {"prepare": ("paths",), "animate": ("finetune", "method"), "studio": ("finetune",)}
PREPARE = ("source=folder", "source.root=x", "output=y", "detector=dlib")


def composed(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(
            name, ["hydra.runtime.output_dir=out", "hydra.runtime.cwd=.", *overrides], return_hydra_config=True
        )
    HydraConfig.instance().set_config(config)
    return OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
def test_every_experiment_passes(experiment: str) -> None:
    check_options(composed("config", f"experiment={experiment}"))


@pytest.mark.parametrize(("name", "overrides"), [
    ("evaluate", ()), ("animate", ()), ("studio", ()), ("prepare", PREPARE), ("prepare", (*PREPARE, "cluster=ray")),
    ("config", ("trainer=ddp_cpu", "logger=many", "loss=v2", "debug=profile")),
    ("config", ("trainer=ddp", "trainer.strategy.timeout.minutes=5")),
])  # fmt: skip
def test_what_ships_passes(name: str, overrides: tuple[str, ...]) -> None:
    check_options(composed(name, *overrides), WITHOUT.get(name, ()))


def test_flags_of_the_trainer_that_the_learners_cannot_use_name_what_to_set() -> None:
    with pytest.raises(ValueError, match=r"gradient_clip_val=0\.5: .*set learner\.gradient_clip_norm, please"):
        check_flags(composed("config", "+trainer.gradient_clip_val=0.5"))
    with pytest.raises(ValueError, match=r"accumulate_grad_batches=4: .*set learner\.accumulate, please"):
        check_flags(composed("config", "+trainer.accumulate_grad_batches=4"))
    check_flags(composed("config", "+trainer.gradient_clip_val=null", "+trainer.accumulate_grad_batches=1"))
    check_flags(composed("config", "experiment=facenet_synthetic", "+trainer.gradient_clip_val=1"))  # it takes it


@pytest.mark.parametrize(("name", "override", "message"), [
    ("config", "trainer.max_epochs=abc", "trainer.max_epochs=abc: a whole number or null is wanted"),
    ("config", "validation_shots=1", r"validation_shots=1: a list such as \[1,8,32\] is wanted"),
    ("config", "shots=null", "shots=null: a whole number is wanted"),
    ("config", "learner.lr_generator=fast", "learner.lr_generator=fast: a number is wanted"),
    ("config", "+learner.foo=1", "learner.foo: MetaLearner has no such option"),
    ("config", "+trainer.max_epoc=1", "trainer.max_epoc: Trainer has no such option; the nearest is max_epochs"),
    ("config", "data.flip=3", "data.flip=3: true or false is wanted"),
    ("config", "data.build.train=[1]", r"data.build.train=\[1\]: a whole number is wanted"),
    ("config", "model=x2face_64", "learner.generator: .*choices that do not go together"),
    ("prepare", "workers=two", "workers=two: a whole number or null is wanted"),
    ("prepare", "settings.fps=fast", "settings.fps=fast: a number or null is wanted"),
])  # fmt: skip
def test_a_wrong_option_is_named_as_it_was_typed(name: str, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_options(composed(name, *(PREPARE if name == "prepare" else ()), override), WITHOUT.get(name, ()))


@pytest.mark.parametrize(("seed", "good"), [(-1, False), (2**32, False), (0, True), (2**32 - 1, True)])
def test_seeds_are_those_that_numpy_takes(seed: int, good: bool) -> None:
    for name in ("config", "evaluate"):
        if good:
            check_seed(composed(name, f"seed={seed}"))
            continue
        with pytest.raises(ValueError, match=f"^seed={seed}: a whole number from 0 to 4294967295, please$"):
            check_seed(composed(name, f"seed={seed}"))


def test_an_account_is_asked_for_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, bool]] = []
    monkeypatch.setattr("wandb.login", lambda **given: asked.append(given))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    check_account(composed("config", "logger=tensorboard"))
    check_account(composed("config", "logger=wandb", "logger.wandb.offline=true"))
    assert not asked
    for name, logger in (("config", "wandb"), ("config", "many"), ("evaluate", "wandb")):
        with pytest.raises(ValueError, match=r"^logger=wandb: no account .*logger\.wandb\.offline=true$"):
            check_account(composed(name, f"logger={logger}"))
    assert asked == 3 * [{"prompt": False, "verify": False}]
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_account(composed("config", "logger=wandb"))
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setattr("wandb.login", lambda **given: True)
    check_account(composed("config", "logger=wandb"))


def test_what_weights_and_biases_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit) as stop, errors_in_one_line("evaluate.py"):
        raise CommError("Error uploading run. ")
    line = "logger=wandb: Error uploading run; without account or network logger.wandb.offline=true"
    assert str(stop.value.code).endswith(line)
    assert "\n" not in str(stop.value.code)


def test_the_time_that_ranks_wait_is_a_number() -> None:
    with pytest.raises(ValueError, match=r"timeout\.minutes=soon: a number is wanted"):
        check_options(composed("config", "trainer=ddp", "trainer.strategy.timeout.minutes=soon"))


def test_a_missing_package_is_named_with_its_extra() -> None:
    assert missing_package(ModuleNotFoundError(name="gradio.blocks")).endswith(
        "gradio is not installed: pip install -c constraints.txt -e '.[studio]'"
    )
    with pytest.raises(ImportError, match=r"the package no_such_thing is not installed: pip install no_such_thing"):
        found("no_such_thing.Thing", "logger.x.")


# Endings


def test_mistakes_end_in_one_line_and_interruptions_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    with pytest.raises(SystemExit, match=r"^train.py: lr=0: too small$"), errors_in_one_line("train.py"):
        raise ValueError("lr=0: too small")
    with pytest.raises(ZeroDivisionError), errors_in_one_line("train.py"):
        raise ZeroDivisionError
    with pytest.raises(SystemExit) as stop, errors_in_one_line("train.py"):
        raise KeyboardInterrupt
    assert stop.value.code == 130


def test_sigterm_unwinds_and_exits_with_143(tmp_path: Path) -> None:
    program = (
        "import os, signal\nfrom talkinghead.cli.ending import errors_in_one_line\n"
        "with errors_in_one_line('x.py'):\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n    finally:\n        print('tidied')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout) == (143, "tidied\n")
    assert done.stderr == "x.py: terminated; the same command goes on, or starts again where nothing was saved\n"


@pytest.mark.parametrize(("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_lightnings_end_of_an_evaluation_is_one_line_too(how: signal.Signals, status: int, tmp_path: Path) -> None:
    program = (
        "import os, signal, torch, pytorch_lightning as L\nfrom talkinghead.cli.ending import errors_in_one_line\n"
        "class Stopped(L.LightningModule):\n"
        f"    def test_step(self, batch, index): os.kill(os.getpid(), {int(how)}); signal.sigtimedwait([], 5)\n"
        "with errors_in_one_line('x.py'):\n"
        "    options = dict(accelerator='cpu', logger=False, enable_progress_bar=False, enable_checkpointing=False)\n"
        "    trainer = L.Trainer(**options)\n"
        "    trainer.test(Stopped(), torch.utils.data.DataLoader([0]), verbose=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(
        f"x.py: {'interrupted' if status == 130 else 'terminated'}; the same"
    )


def test_what_a_run_left_and_how_it_goes_on(tmp_path: Path) -> None:
    for name in ("checkpoints/last.ckpt", "metrics/metrics.csv", "fit-profile.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lines = [line.split() for line in what_it_left(tmp_path)]
    assert lines == [
        ["checkpoints", "checkpoints/last.ckpt"],
        ["metrics", "metrics/metrics.csv"],
        ["time", "fit-profile.txt"],
    ]
    command = go_on(["experiment=x", "ckpt_path=old", "validation_shots=[1,8]"], Path("/a/0_shots=1/last.ckpt"))
    assert command == "python train.py experiment=x 'validation_shots=[1,8]' 'ckpt_path=\"/a/0_shots=1/last.ckpt\"'"


def test_hints_and_warnings_that_help_nobody_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    with warnings.catch_warnings(record=True) as seen, caplog.at_level(logging.INFO):
        warnings.resetwarnings()
        without_noise()
        warnings.warn("It is recommended to use `self.log('loss/cnt', ..., sync_dist=True)`", stacklevel=1)
        warnings.warn("a warning of ours", stacklevel=1)
        logger.info("💡 Tip: For seamless cloud logging try installing litlogger")
        logger.info("GPU available: False, used: False")
    assert [str(one.message) for one in seen] == ["a warning of ours"]
    assert [record.getMessage() for record in caplog.records] == ["GPU available: False, used: False"]


# Worker processes


def wait_for_ever(started: Path) -> None:
    started.touch()
    signal.pause()


def test_an_interruption_does_not_wait_for_the_workers(tmp_path: Path) -> None:
    context, started = multiprocessing.get_context("spawn"), tmp_path / "started"
    pool = ProcessPoolExecutor(1, context, end_with_parent)
    with pytest.raises(KeyboardInterrupt), stopping_at_once(pool):  # noqa: PT012
        pool.submit(wait_for_ever, started)
        while not started.exists():
            time.sleep(0.01)
        process = next(iter(pool._processes.values()))
        raise KeyboardInterrupt  # returns at all: the job never ends by itself
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


@pytest.mark.parametrize(("how", "end"), [(signal.SIGINT, (130, "interrupted")), (signal.SIGTERM, (143, "terminated"))])
def test_the_table_command_ends_with_one_line_too(how: signal.Signals, end: tuple[int, str], tmp_path: Path) -> None:
    """It reads its rows from a pipe that nobody writes to, and is stopped there."""
    os.mkfifo(tmp_path / "results.csv")
    command = [sys.executable, "-m", "talkinghead.reporting.tables", str(tmp_path / "results.csv")]
    table = subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)
    with (tmp_path / "results.csv").open("w"):  # returns when the command reads
        table.send_signal(how)
        _, told_to_stop = table.communicate(timeout=30)
    assert (table.returncode, told_to_stop) == (
        end[0],
        f"talkinghead.reporting.tables: {end[1]}; nothing was changed\n",
    )


def test_a_job_of_a_sweep_goes_on_alone() -> None:
    given = ["-m", "--config-dir", "experiments/ablations", "experiment=x", "seed=0,1", "~callbacks.ema"]
    own = ["experiment=x", "seed=1", "~callbacks.ema"]
    assert of_this_job(given, own) == ["--config-dir", "experiments/ablations", *own]
