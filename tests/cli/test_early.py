"""Before any work: help, what would run, and mistakes on the command line told in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from talkinghead.cli import early
from talkinghead.cli.help import FLAGS, help_text
from talkinghead.machine import locked

ROOT = Path(__file__).parents[2]
VERBS = {"train": "config", "evaluate": "evaluate", "prepare": "prepare", "animate": "animate", "studio": "studio"}
RUN = """
import atexit, runpy, sys
heavy = ("torch", "pytorch_lightning", "cv2")
atexit.register(lambda: print("heavy:", [name for name in heavy if name in sys.modules]))
target, sys.argv = sys.argv[1], sys.argv[1:]
if target == "studio":
    runpy.run_module("talkinghead.studio", run_name="__main__")
else:
    runpy.run_path(target + ".py", run_name="__main__")
"""


def run(verb: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", RUN, verb, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("verb", VERBS)
def test_help_needs_nothing_heavy(verb: str) -> None:
    done = run(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: python " in done.stdout
    assert FLAGS in done.stdout
    assert "heavy: []" in done.stdout


@pytest.mark.parametrize("verb", ["pretrained", "provenance"])
def test_help_of_the_small_commands_needs_nothing_heavy(verb: str) -> None:
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules))"
    code += f"; from talkinghead.cli.launch import launch; launch({verb!r})"
    command = [sys.executable, "-c", code, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize(("verb", "needed"), [
    ("train", []), ("evaluate", []), ("animate", ["source=my portrait (1).jpg"]), ("studio", []),
    ("prepare", ["source=folder", "source.root=x", "output=y"]),
])  # fmt: skip
def test_what_would_run_is_printed_resolved_and_at_once(verb: str, needed: list[str]) -> None:
    done = run(verb, *needed, "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr
    assert "paths:" in done.stdout
    assert "${" not in done.stdout
    assert "heavy: []" in done.stdout


@pytest.mark.parametrize(("verb", "name"), VERBS.items())
def test_help_has_every_option_and_comment_of_its_file(verb: str, name: str) -> None:
    text = help_text(early.CONF, name, f"python {verb}.py", {})
    lines = (early.CONF / f"{name}.yaml").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("  - _self_"))
    end = next((n for n, line in enumerate(lines) if line.startswith("hydra:")), len(lines))
    for line in lines[start + 1 : end]:
        if line.strip() and not line.startswith(("files:", "  - ")) and "_target_" not in line:
            assert line.strip() in text
    commands = [line[4:] for line in lines if line.startswith("#   python ")]
    assert len(commands) == 5
    assert all(f"  {command}" in text for command in commands)


def test_commands_in_the_heads_of_conf_compose(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VERBS.values():
        for line in (early.CONF / f"{name}.yaml").read_text().splitlines():
            if line.startswith("#   python "):
                words = line.split("#")[1].split()
                given = [word for word in words if "=" in word or word == "-m"]
                files = (
                    ("source", "driving", "output", "checkpoint", "save_person", "study")
                    if name in ("animate", "studio")
                    else ()
                )
                monkeypatch.setattr(sys, "argv", ["x.py", *(g for g in given if g.split("=")[0] not in files)])
                early.answer(name, "python x.py")  # exits where something is wrong


def test_the_search_that_ships_is_one_of_optuna() -> None:
    search = OmegaConf.load(early.CONF / "hparams_search" / "optuna.yaml")
    assert search.defaults == [{"override /hydra/sweeper": "optuna"}]
    assert search.hydra.mode == "MULTIRUN"
    with initialize_config_dir(str(early.CONF), version_base="1.3"):
        config = compose("config", ["experiment=meta_synthetic"])
    assert all(OmegaConf.select(config, name) for name in search.hydra.sweeper.params), "rates that a run has"
    assert search.optimized_metric == "val/T=8/ssim"


@pytest.mark.parametrize(("name", "given", "told"), [
    ("config", "trainer.max_epoch=3", "trainer.max_epoch=3: there is no such option; the nearest is trainer.max_e"),
    ("config", "experiment=meta_synthetc", "the nearest is meta_synthetic; there are custom, "),
    ("config", "-m trainer.max_epoch=1,2", "trainer.max_epoch=1,2: there is no such option; the nearest is trainer.m"),
    ("config", "trainer=gpuu", "trainer=gpuu: there is no such choice; the nearest is gpu; there are cpu, "),
    ("config", "callbacks.emaa=null", "the nearest is callbacks.ema;"),
    ("config", "-m hydra/launcher=submitit_slurm seed=1,2", "there is no srun here"),
    ("config", "-m hydra/sweeper=optuna seed=1,2", "is not installed: pip install -c constraints.txt -e '.[optuna]'"),
    ("config", "-m seed=1,2 --cfg job", "leave one of them out"),
    ("config", "seed=1,2", "seed=1,2: several values want -m, for a sweep; a list is written seed=[a,b]"),
    ("config", "foo", "foo: options are written as key=value"),
    ("config", "init_from=0_shots=1/last.ckpt", "is quoted: 'init_from=\"0_shots=1/last.ckpt\"'"),
    ("config", "--source x", "--source: options are written without dashes, as key=value"),
    ("prepare", "", "source=… is needed: folder | stills | voxceleb1 | voxceleb2"),
    ("prepare", "source=folder output=x", "source.root=… is needed"),
    ("config", "trainer.gradient_clip_val=1", "here it is learner.gradient_clip_norm;"),
    ("config", "-m hparams_search=optuna", "is not installed: pip install -c constraints.txt"),
    ("config", "-m hparams_search=optunna", "the nearest is optuna;"),
    ("config", "trainer.accumulate_grad_batches=4", "here it is learner.accumulate;"),
    ("animate", "method=fast", "method=fast: there is no such choice; there are ff, ft"),
    ("animate", "look=null", "look=null: its options are given one by one, as look.NAME=VALUE"),
    ("animate", "detector=null", "detector=null: one of its choices is wanted: dlib, face_alignment"),
    ("animate", "finetune=null", "finetune=null: one of its choices is wanted: paper, small"),
    ("config", "-m hydra/launcher=slurm seed=1,2", "there is no srun here"),
    ("config", "seed=1,2 -m trainer.max_epoch=1", "trainer.max_epoch=1: there is no such option"),
    ("animate", "look.pste=true", "the nearest is look.paste;"),
    ("evaluate", "shot=[1]", "the nearest is shots;"),
])  # fmt: skip
def test_a_mistake_is_one_line(name: str, given: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", *given.split()])
    with pytest.raises(SystemExit) as stop:
        early.answer(name, "python x.py", {"method": ("ff", "ft")})
    text = str(stop.value.code)
    assert text.startswith("x.py: ")
    assert told in text
    assert "\n" not in text


@pytest.mark.parametrize("given", [
    "-m experiment=finetune_synthetic shots=1,8 seed=range(2)", "-m seed=glob(*)", "+new=1 ~callbacks.ema",
    "--config-dir experiments/ablations experiment=ablation_synthetic +row=no_fm",
    "-m trainer.max_epochs=choice(1,2) seed=interval(0,1)", "hydra.run.dir=x hydra.job.name=rank trainer=ddp_cpu",
])  # fmt: skip
def test_what_hydra_takes_is_let_through(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *given.split()])
    monkeypatch.chdir(ROOT)
    early.answer("config", "python train.py")


def test_the_working_directory_need_not_be_writable_where_nothing_goes_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "check_writable", lambda folder: pytest.fail(f"tried {folder}"))
    monkeypatch.setattr(sys, "argv", ["animate.py", "files.source=a.jpg", "files.driving=b.mp4"])
    early.answer("animate", "python animate.py")


@pytest.mark.parametrize("command", [
    ["train", "experiment=meta_synthetic", "hydra.run.dir={}/run"],
    ["train", "-m", "experiment=meta_synthetic", "seed=0,1", "hydra.sweep.dir={}/run"],
    ["evaluate", "data=synthetic", "method=[warped]", "output={}"],
    ["animate", "source=a.jpg", "driving=b.mp4", "hydra.run.dir={}"],
])  # fmt: skip
def test_an_output_folder_that_cannot_be_is_told_before_hydra_makes_it(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run(*(one.format(tmp_path / "file") for one in command))
    assert done.returncode == 1
    assert done.stderr.startswith(f"{command[0]}.py: {tmp_path}/file")
    assert done.stderr.endswith("is a file: choose another output\n")
    assert "heavy: []" in done.stdout


@pytest.mark.parametrize(("rank", "told"), [({}, True), ({"LOCAL_RANK": "1"}, False), ({"SLURM_PROCID": "0"}, True)])
def test_a_folder_in_which_a_training_is_at_work_is_left_alone(
    rank: dict[str, str], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rank.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["train.py", "experiment=meta_synthetic", f"hydra.run.dir={tmp_path}"])
    with locked(tmp_path, "training"):
        if told:
            with pytest.raises(SystemExit, match=r"^train\.py: another training is at work in .*; wait for it"):
                early.answer("config", "python train.py")
        else:
            early.answer("config", "python train.py")
    early.answer("config", "python train.py")
