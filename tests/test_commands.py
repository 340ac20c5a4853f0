"""The commands of README.md and docs/tutorial.md: each is run at small size, or composed where it cannot run here."""

import functools
import re
import shlex
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

import talkinghead
from talkinghead.reenactment.inputs import SHIPPED
from tests.helpers.verbs import ROOT, call

PAGES = ("README.md", "docs/tutorial.md")
PEOPLE = [
    "data.build.train=2", "data.build.val=1", "data.build.test=1", "data.build.cross_clips=0",
    "data.build.frames_per_clip=5", "data.build.eval_frames=2", "data.build.test_frames=4", "data.num_workers=0",
]  # fmt: skip
TRAIN = [
    *PEOPLE, "data.val_episodes=1", "data.val_shots=1", "data.batch_size=1", "data.episodes_per_epoch=2", "shots=2",
    "validation_shots=[1]", "trainer=cpu", "trainer.max_epochs=1", "animate_example=false", "metrics.detector=null",
    "model.embedder.channels=[8,8,8,8]", "model.generator.down_channels=[8,8,8]",
    "model.generator.up_channels=[8,8,8]", "model.generator.num_residual=1",
]  # fmt: skip
EVALUATE = [
    "trainer=cpu", "shots=[1,2]", "frame_choice.max_shots=2", "frame_choice.num_targets=1",
    "frame_choice.min_targets=1", "people.num_people=1", "metrics.detector=null", "metrics.distances=null",
    "set_metrics=none", "finetune.epochs=1",
]  # fmt: skip
VOXCELEB = ["data.path=data/voxceleb2"]  # a few frames of a driver that ships, as VoxCeleb2's folders have them
PREPARE = ["detector=dlib", "detector.jitters=1", "workers=0", "source.val_identities=0", "settings.frames_per_clip=9",
           "settings.image_size=64", "settings.search_every=9"]  # fmt: skip
ANIMATE = [
    "max_frames=2",
    "look.sheet=0",
    "provenance=metadata",
]  # the default makes a certificate in the user's folder


class Run(NamedTuple):
    """What makes a command small, and what it leaves.

    Attributes:
        small: arguments to add; one whose key the command has takes its place
        makes: a pattern of the files that the command leaves
        needs: commands that must have run before
        fast: whether the command runs without `-m slow` too
    """

    small: list[str]
    makes: str | None = None
    needs: tuple[str, ...] = ()
    fast: bool = False


MAIN_JOB = "python train.py experiment=meta_synthetic"
MAIN_RUN = "outputs/meta_synthetic/*/checkpoints/last.ckpt"
PREPARED = "python prepare.py source=voxceleb2 source.root=/data/voxceleb2 output=data/voxceleb2"
RUNS = {
    "python train.py --help": Run([], fast=True),
    MAIN_JOB: Run(TRAIN, MAIN_RUN),
    f"{MAIN_JOB} ckpt_path=last": Run(TRAIN, needs=(MAIN_JOB,)),
    f"{MAIN_JOB} trainer.max_epochs=3": Run(TRAIN),
    f"{MAIN_JOB} init_from=RUN/checkpoints/last.ckpt": Run(TRAIN, needs=(MAIN_JOB,)),
    "python train.py -m experiment=meta_synthetic seed=0,1,2": Run(
        [*TRAIN, "seed=0,1", "trainer.fast_dev_run=true"], "outputs/meta_synthetic/sweep_*/1/.hydra"
    ),
    f"{MAIN_JOB} logger=wandb logger.wandb.offline=true": Run(TRAIN, "outputs/meta_synthetic/*/wandb/offline-run-*"),
    f"{MAIN_JOB} debug=default": Run(TRAIN),
    f"{MAIN_JOB} loss.weights.mch=0 trainer.max_epochs=1": Run(TRAIN),
    "python train.py -m experiment=meta_synthetic trainer.max_epochs=1 seed=0,1": Run(
        TRAIN, "outputs/meta_synthetic/sweep_*/validation_table.csv"
    ),
    "python evaluate.py checkpoint=outputs/meta_synthetic/<time>/checkpoints/last.ckpt data=synthetic finetune=small "
    "shots=[1,8] method=[ff,ft,warped,nearest] people.num_people=4 output=outputs/first": Run(
        [*PEOPLE, *EVALUATE], "outputs/first/results.csv", needs=(MAIN_JOB,)
    ),
    PREPARED: Run(PREPARE, "data/voxceleb2/dataset.json", fast=True),
    "python train.py -m experiment=finetune_voxceleb shots=1,8,32 init_from=CHECKPOINT": Run(
        [*VOXCELEB, *EVALUATE, "shots=1,2"], "outputs/finetune_voxceleb/results.csv", needs=(MAIN_JOB, PREPARED)
    ),
    "python evaluate.py checkpoint=CHECKPOINT data=voxceleb1 shots=[1,8,32] method=[ff,ft,warped,nearest] "
    "output=outputs/table": Run([*VOXCELEB, *EVALUATE], "outputs/table/results.csv", needs=(MAIN_JOB, PREPARED)),
    "python animate.py source=talkinghead/reenactment/shipped/portraits/anna.jpg "
    "driving=talkinghead/reenactment/shipped/drivers/lively.mp4 output=anna.mp4": Run(ANIMATE, "anna.mp4", fast=True),
    "python animate.py source=[a.jpg,b.jpg] driving=clip.mp4 look.paste=true": Run(
        ANIMATE, "outputs/animate/a_clip.mp4"
    ),
}
COMPOSED = {  # command: why it does not run here
    "python train.py experiment=meta_voxceleb trainer=ddp trainer.devices=8": "eight GPUs",
    "sbatch slurm/train.sbatch experiment=meta_voxceleb trainer=ddp trainer.devices=8": "a cluster",
    "python -m talkinghead.studio": "it serves until Ctrl-C; tests/interrupts.py starts and ends it",
}  # fmt: skip
FIRST_STEPS = {  # of a fresh machine: what they name is there
    "make quickstart": "Makefile",
    "make test": "Makefile",
    "make setup": "Makefile",
    "git clone https://github.com/talkinghead/talkinghead": "docs/hooks.py",
    "cd talkinghead": ".",
    "source .venv/bin/activate": "Makefile",
}


def commands(text: str) -> list[str]:
    """The commands of the bash blocks, without comments and with the variables that the blocks set."""
    found, values = [], {}
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(re.sub(r"\$(\w+)", lambda match: values.get(match[1], match[0]), line), comments=True)
            for command in " ".join(words).split(" && "):
                if match := re.fullmatch(r"(\w+)=(\S+)", command):
                    values[match[1]] = match[2]
                elif command:
                    found.append(command)
    return found


def smaller(command: str, small: list[str], stand_ins: dict[str, str]) -> list[str]:
    """What follows `python`: placeholders replaced, and the arguments that make it small."""
    for name, value in stand_ins.items():
        command = command.replace(name, value)
    _, *words = command.split()
    keys = {one.split("=")[0] for one in small}
    return [*(word for word in words if word.split("=")[0] not in keys), *small]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run_or_said_why_not(page: str) -> None:
    found = commands((ROOT / page).read_text())
    assert len(found) >= 8
    for command in found:
        tables = [table for table in (RUNS, COMPOSED, FIRST_STEPS) if command in table]
        assert len(tables) == 1, f"{page}: {command}: add it to a table of this test"


def test_the_tables_name_no_command_that_is_gone() -> None:
    found = {command for page in PAGES for command in commands((ROOT / page).read_text())}
    assert {*RUNS, *COMPOSED, *FIRST_STEPS} == found


def test_first_steps_name_what_is_there() -> None:
    targets = (ROOT / "Makefile").read_text()
    for command, file in FIRST_STEPS.items():
        program, *rest = command.split()
        assert (ROOT / file).exists()
        if program == "make":
            assert re.search(rf"^{rest[0]}:", targets, re.MULTILINE), command
        elif program == "git":
            assert rest[-1] in (ROOT / file).read_text(), command


@pytest.mark.parametrize("command", COMPOSED)
def test_a_command_that_cannot_run_here_composes(command: str, tmp_path: Path) -> None:
    program = shlex.split(command.replace("sbatch slurm/train.sbatch", "python train.py"))
    status, printed = call([*program[1:], "--cfg", "job"], tmp_path)
    assert status == 0, printed
    assert "paths:" in printed


class Walk:
    """A working directory with the files that the commands name, in which each command runs at most once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.printed: dict[str, str] = {}
        shipped = folder / "talkinghead/reenactment/shipped"
        shipped.parent.mkdir(parents=True)
        shipped.symlink_to(SHIPPED.parent, target_is_directory=True)
        for name in ("a.jpg", "b.jpg"):
            shutil.copy(shipped / "portraits/anna.jpg", folder / name)
        for split in ("dev", "test"):
            (clip := folder / f"voxceleb2/{split}/mp4/id_{split}/video/00001.mp4").parent.mkdir(parents=True)
            shutil.copy(shipped / "drivers/lively.mp4", clip)
        shutil.copy(shipped / "drivers/lively.mp4", folder / "clip.mp4")

    def run(self, command: str) -> None:
        """Run a command at small size, after those that it needs."""
        if command in self.printed:
            return
        small, makes, needs, _ = RUNS[command]
        for other in needs:
            self.run(other)
        status, printed = call(smaller(command, small, self.stand_ins()), self.folder)
        assert status == 0, printed[-4000:]
        assert "Traceback" not in printed
        assert makes is None or list(self.folder.glob(makes)), f"nothing at {makes}: {printed[-4000:]}"
        self.printed[command] = printed

    def stand_ins(self) -> dict[str, str]:
        """What stands here for the placeholders of the pages."""
        run = next((path.parents[1] for path in sorted(self.folder.glob(MAIN_RUN))), self.folder)
        return {
            "CHECKPOINT": f"{run}/checkpoints/last.ckpt", "RUN": str(run), "<time>": run.name,
            "/data/voxceleb2": str(self.folder / "voxceleb2"),
        }  # fmt: skip


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return Walk(tmp_path_factory.mktemp("walk"))


@pytest.mark.parametrize(
    "command", [pytest.param(one, marks=[] if RUNS[one].fast else pytest.mark.slow) for one in RUNS]
)
def test_a_command_runs_at_small_size(command: str, walk: Walk) -> None:
    pytest.importorskip("dlib")
    walk.run(command)


def test_the_python_of_the_readme_runs(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dlib")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(walk.folder)
    shutil.copy("a.jpg", "anna.jpg")
    small = functools.partial(talkinghead.load, settings=talkinghead.Settings(max_frames=2), provenance="metadata")
    monkeypatch.setattr(talkinghead, "load", small)
    exec(block, {})
    assert Path("anna.mp4").is_file()
    assert Path("anna.safetensors").is_file()
