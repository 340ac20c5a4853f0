"""The few-shot harness: what is learned from what, rows, restarts, ranks; and evaluate.py from end to end."""

import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import pytorch_lightning as L
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from talkinghead.cli import evaluate
from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.evaluation.contact_sheets import ContactSheets
from talkinghead.evaluation.frame_choice import FrameChoice
from talkinghead.evaluation.harness import take, uncached_autocast
from talkinghead.evaluation.outputs import FrameStore, load_strip, save_strip
from talkinghead.evaluation.protocol import Candidate, FewShotEvaluation, TaskDataModule
from talkinghead.evaluation.results import ALL_CLIPS, Results
from talkinghead.evaluation.tasks import SelfReenactment
from talkinghead.metrics.frechet import FrechetDistance
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.models.copying import MeanFrame, NearestFrame
from talkinghead.storage import digest, read_csv
from talkinghead.types import Frames
from tests.helpers.data_sets import SIZE, make_clip, write_data_set
from tests.helpers.scripts import finish, start

ROOT = Path(__file__).parents[2]
CHOICE = FrameChoice(max_shots=4, num_targets=4, min_targets=2)
METHODS = sorted(path.stem for group in ("method", "baseline") for path in (ROOT / "conf" / group).glob("*.yaml"))


class ColourLearner(nn.Module):
    """Learns the mean colour of the shots by gradient steps, noisily; counts how often it is asked to."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Parameter(torch.zeros(3))
        self.seen: list[tuple[int, float]] = []

    def learn(self, shots: Frames) -> Callable[[Frames], torch.Tensor]:
        colour = self.colour.detach().clone().requires_grad_()
        optimizer = torch.optim.SGD([colour], 0.5)
        for _ in range(3):
            optimizer.zero_grad()
            ((colour[None, :, None, None] - shots.images) ** 2).mean().backward()
            optimizer.step()
        noise = torch.rand(())
        self.seen.append((len(shots.images), float(noise)))
        x_hat = (colour.detach() + 0.01 * noise).clamp(-1, 1)
        return lambda driving: x_hat[None, :, None, None].expand_as(driving.images).clone()


class Pixels(nn.Module):
    """Features for a set metric: the mean colour."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def people(root: Path, count: int = 3) -> TaskDataModule:
    path = root / "tiny"
    if not path.exists():
        write_data_set(path, {"test": [[make_clip(n, 10) for n in range(count)]]})
    data = EpisodeDataModule(path, size=SIZE, num_shots=1, episodes_per_epoch=1, batch_size=1, num_workers=0, seed=0)
    return TaskDataModule(SelfReenactment(data, SIZE, CHOICE))


def learner(
    root: Path, method: nn.Module | None = None, shots: tuple[int, ...] = (1, 4), **options
) -> FewShotEvaluation:
    candidates = [Candidate(NearestFrame(), "nearest"), Candidate(MeanFrame(), "mean")]
    if method is not None:
        candidates.append(Candidate(method, "ours", "FT", "0123456789ab"))
    options = {"kept": FrameStore(root / "frames")} | options
    return FewShotEvaluation(candidates, "tiny/test", shots, ImageMetrics(), Results(root / "results.csv"), **options)


def run(learner: FewShotEvaluation, data: TaskDataModule, *callbacks: L.Callback, **options) -> dict[str, float]:
    trainer = L.Trainer(
        accelerator="cpu", callbacks=list(callbacks), logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
        **{"inference_mode": False, **options},
    )  # fmt: skip
    (metrics,) = trainer.test(learner, datamodule=data, verbose=False)
    return dict(metrics)


def test_rows_and_logs_of_methods_shots_and_people(tmp_path: Path) -> None:
    method = ColourLearner()
    logged = run(learner(tmp_path, method), people(tmp_path))
    rows = Results(tmp_path / "results.csv").rows()
    assert len(rows) == 3 * 3 * 2
    assert {(row["method"], row["variant"], row["T"], row["checkpoint"]) for row in rows} == {
        (method, variant, shots, checkpoint)
        for method, variant, checkpoint in (("nearest", "-", "-"), ("mean", "-", "-"), ("ours", "FT", "0123456789ab"))
        for shots in "14"
    }
    assert {row["num_targets"] for row in rows} == {"4"}
    assert all(float(row["learning_s"]) > 0 and float(row["ms_per_frame"]) > 0 for row in rows)
    mine = [float(row["psnr"]) for row in rows if row["method"] == "ours" and row["T"] == "4"]
    assert logged["test/T=4/FT/psnr"] == pytest.approx(sum(mine) / 3, rel=1e-4)
    names = {"ssim", "psnr", "stillness", "learning_s", "ms_per_frame"}
    assert set(logged) == {
        f"test/T={t}/{label}/{n}" for t in (1, 4) for label in ("nearest", "mean", "FT") for n in names
    }
    assert [shots for shots, _ in method.seen] == [1, 4] * 3
    assert torch.equal(method.colour.detach(), torch.zeros(3))


def test_seeds_depend_on_person_method_and_shots_and_not_on_the_order(tmp_path: Path) -> None:
    first, second, other = ColourLearner(), ColourLearner(), ColourLearner()
    run(learner(tmp_path / "a", first), people(tmp_path))
    run(learner(tmp_path / "b", second, shots=(4,)), people(tmp_path))
    run(learner(tmp_path / "c", other, seed=1), people(tmp_path))
    assert [one for one in first.seen if one[0] == 4] == second.seen
    assert len({noise for _, noise in first.seen}) == 6
    assert not {noise for _, noise in first.seen} & {noise for _, noise in other.seen}


def test_a_restart_does_only_what_is_missing(tmp_path: Path) -> None:
    once, again = ColourLearner(), ColourLearner()
    before = run(learner(tmp_path, once, shots=(4,)), people(tmp_path))
    results = tmp_path / "results.csv"
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(line for line in lines if not ("clip001" in line and "ours" in line)))
    after = run(learner(tmp_path, again, shots=(4,)), people(tmp_path))
    assert len(again.seen) == 1
    assert again.seen[0] in once.seen
    for name in ("ssim", "psnr"):
        assert after[f"test/T=4/FT/{name}"] == before[f"test/T=4/FT/{name}"], "the mean counts those done before"
    more = ColourLearner()
    run(learner(tmp_path, more), people(tmp_path))
    assert [shots for shots, _ in more.seen] == [1, 1, 1], "T=4 is there"


def test_a_row_without_a_metric_or_without_its_pictures_is_done_again(tmp_path: Path) -> None:
    run(learner(tmp_path, ColourLearner(), shots=(4,)), people(tmp_path))
    text = (tmp_path / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(text.replace("psnr", "other"))
    again = ColourLearner()
    run(learner(tmp_path, again, shots=(4,)), people(tmp_path))
    assert len(again.seen) == 3
    next((tmp_path / "frames/tiny/test").glob("ours*/T4/clip002.png")).unlink()
    once_more = ColourLearner()
    run(learner(tmp_path, once_more, shots=(4,)), people(tmp_path))
    assert once_more.seen == [one for one in again.seen if one in once_more.seen]
    assert len(once_more.seen) == 1


def test_set_metrics_have_their_own_rows_and_survive_a_restart(tmp_path: Path) -> None:
    def distance() -> dict[str, FrechetDistance | None]:
        return {"fd_pixels": FrechetDistance("fd_pixels", Pixels(), tmp_path / "statistics"), "fid": None}

    logged = run(learner(tmp_path, ColourLearner(), shots=(4,), set_metrics=distance()), people(tmp_path))
    rows = [row for row in Results(tmp_path / "results.csv").rows() if row["clip"] == ALL_CLIPS]
    assert {row["method"]: row["num_targets"] for row in rows} == {"nearest": "12", "mean": "12", "ours": "12"}
    assert all(float(row["fd_pixels"]) > 0 and row["ssim"] == "" for row in rows)
    assert logged["test/T=4/mean/fd_pixels"] == pytest.approx(float(rows[1]["fd_pixels"]), rel=1e-4)

    lines = (tmp_path / "results.csv").read_text().splitlines(keepends=True)
    (tmp_path / "results.csv").write_text("".join(line for line in lines if "*" not in line))
    again = ColourLearner()
    assert run(learner(tmp_path, again, shots=(4,), set_metrics=distance()), people(tmp_path)) == pytest.approx(
        logged, nan_ok=True
    )
    assert again.seen == [], "the distance comes from the pictures that were kept"
    with pytest.raises(ValueError, match="keep_frames"):
        learner(tmp_path, kept=None, set_metrics=distance())


def test_the_distance_of_a_larger_set_is_not_overwritten(tmp_path: Path) -> None:
    def evaluated(count: int | None, seed: int = 0) -> None:
        metrics: dict[str, FrechetDistance | None] = {"fd_pixels": FrechetDistance("fd_pixels", Pixels())}
        data = people(tmp_path)
        data.source.num_people = count
        run(learner(tmp_path, shots=(4,), set_metrics=metrics, seed=seed), data)

    evaluated(None)
    path = tmp_path / "results.csv"
    before = [row for row in Results(path).rows() if row["clip"] == ALL_CLIPS]
    evaluated(2)
    after = [row for row in Results(path).rows() if row["clip"] == ALL_CLIPS]
    assert [row for row in after if row in before] == before
    assert sorted((row["method"], row["num_targets"]) for row in after) == [
        ("mean", "12"), ("mean", "8"), ("nearest", "12"), ("nearest", "8"),
    ]  # fmt: skip
    assert {row["clips"][:2] for row in after} == {"3-", "2-"}
    evaluated(2, seed=1)
    rows = Results(path).rows()
    assert {row["seed"] for row in rows} == {"0", "1"}
    assert [row for row in rows if row in after] == after
    assert {row["identity"] for row in rows if row["seed"] == "1"} <= {"person0", "person1", "person2", ""}
    assert len(list((tmp_path / "frames/tiny/test").glob("target*"))) == 2, "another seed holds out other frames"


def test_half_a_kept_picture_is_made_again(tmp_path: Path) -> None:
    run(learner(tmp_path, ColourLearner(), shots=(4,)), people(tmp_path))
    (path,) = (tmp_path / "frames/tiny/test").glob("ours*/T4/clip002.png")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"clip002\.png is no strip"):
        load_strip(path)
    again = ColourLearner()
    run(learner(tmp_path, again, shots=(4,)), people(tmp_path))
    assert len(again.seen) == 1
    assert path.read_bytes() == whole


def test_contact_sheets_and_kept_pictures(tmp_path: Path) -> None:
    run(learner(tmp_path, shots=(4,)), people(tmp_path), ContactSheets(tmp_path / "people", num_rows=2))
    sheets = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "people").rglob("*.png"))
    assert sheets == [f"people/tiny/test/T4/clip{n:03d}.png" for n in range(3)]
    images = torch.rand(3, 3, SIZE, SIZE) * 2 - 1
    save_strip(tmp_path / "strip.png", images)
    assert (load_strip(tmp_path / "strip.png") - images).abs().max() <= 1 / 255 + 1e-6


def test_what_is_asked_wrongly_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_shots=5"):
        run(learner(tmp_path, shots=(5,)), people(tmp_path))
    with pytest.raises(ValueError, match="inference_mode=False"):
        run(learner(tmp_path), people(tmp_path), inference_mode=True)
    with pytest.raises(ValueError, match="each may be given once"):
        FewShotEvaluation([Candidate(MeanFrame(), "mean")] * 2, "d", [1], ImageMetrics(), Results(tmp_path / "r.csv"))
    write_data_set(tmp_path / "short/tiny", {"test": [[make_clip(0, 5)]]})
    with pytest.raises(ValueError, match="none has the 6 frames"), pytest.warns(UserWarning, match="too few"):
        run(learner(tmp_path), people(tmp_path / "short"))


def test_learning_inside_autocast_sees_its_own_steps() -> None:
    layer, x = nn.Linear(4, 1, bias=False), torch.ones(1, 4)
    with torch.autocast("cpu", torch.bfloat16), uncached_autocast("cpu"):
        before = layer(x)
        layer.weight.data += 1
        assert layer(x).dtype == torch.bfloat16
        assert float((layer(x) - before).detach()) == pytest.approx(4, abs=0.1)


def test_copies() -> None:
    images = torch.arange(3.0)[:, None, None, None].expand(3, 3, 8, 8)
    points = torch.arange(3.0)[:, None, None].expand(3, 68, 2) * 10
    shots = Frames(images, images, points)
    driving = Frames(images[:2], images[:2], torch.tensor([18.0, 4.0])[:, None, None].expand(2, 68, 2))
    assert NearestFrame().learn(shots)(driving)[:, 0, 0, 0].tolist() == [2, 0]
    assert MeanFrame().learn(take(shots, 2))(driving)[:, 0, 0, 0].tolist() == [0.5, 0.5]


# Two ranks.


def share(root: Path) -> None:
    """Run by each of two processes."""
    torch.set_num_threads(1)
    strategy = DDPStrategy(process_group_backend="gloo")
    metric = FrechetDistance("fd_pixels", Pixels())
    one = learner(root, ColourLearner(), shots=(4,), set_metrics={"fd_pixels": metric})
    logged = run(one, people(root), devices=2, strategy=strategy)
    rank = one.trainer.global_rank
    torch.save({"logged": logged, "met": one._met}, root / f"rank{rank}.pt")


@pytest.mark.parametrize("count", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_two_ranks_share_the_people(tmp_path: Path, count: int) -> None:
    people(tmp_path, count)
    finish(start(__file__, str(tmp_path)))
    main = torch.load(tmp_path / "rank0.pt", weights_only=True)
    rows = Results(tmp_path / "results.csv").rows()
    assert len(rows) == 3 * count + 3
    assert len(main["met"]) == (count + 1) // 2, "the other rank had the rest"
    metric = {"fd_pixels": FrechetDistance("fd_pixels", Pixels())}
    alone = learner(tmp_path / "alone", ColourLearner(), shots=(4,), set_metrics=metric)
    for name, value in run(alone, people(tmp_path, count)).items():
        if "learning_s" not in name and "ms_per_frame" not in name:
            assert main["logged"][name] == pytest.approx(value, rel=1e-4, nan_ok=True), name


# evaluate.py and its config.

TINY = [
    "trainer=cpu", "logger=none", "metrics=default", "metrics.detector=null", "metrics.distances=null", "data=folder",
    "set_metrics=none", "frame_choice.max_shots=4", "frame_choice.num_targets=4", "frame_choice.min_targets=2",
]  # fmt: skip
NETWORKS = [
    "model.image_size=32", "model.embedder.channels=[8,16]", "model.generator.embedding_size=16", "num_videos=3",
    "model.generator.down_channels=[8,16]", "model.generator.up_channels=[16,8]", "model.generator.num_residual=1",
]  # fmt: skip


def compose_config(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        runtime = ["hydra.runtime.output_dir=out", "hydra.runtime.cwd=."]
        config = compose(name, [*runtime, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    return config


@pytest.mark.parametrize("method", METHODS)
def test_every_method_composes(method: str) -> None:
    config = compose_config("evaluate", f"method=[{method}]")
    section = OmegaConf.to_container(config.method, resolve=True)[method]
    assert {"name", "variant"} <= set(section)
    assert ("learner" in section) != ("changes" in section)


def test_methods_of_ones_own_are_chosen_as_the_docs_say() -> None:
    assert list(compose_config("evaluate", "method=[mean,nearest]").method) == ["mean", "nearest"]
    assert list(compose_config("evaluate", "method=nearest").method) == ["nearest"]


@pytest.mark.parametrize("people", ["self", "cross", "stills"])
def test_every_source_of_people_composes(people: str) -> None:
    config = compose_config("evaluate", f"people={people}", *(["people.root=faces"] if people == "stills" else []))
    section = OmegaConf.to_container(config.people, resolve=True)
    assert section["_target_"].startswith("talkinghead.evaluation.")
    assert section["choice"]["max_shots"] == 32


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny data set, and a checkpoint as train.py writes it, of networks that have learned nothing."""
    root = tmp_path_factory.mktemp("evaluate")
    write_data_set(root / "tiny", {"train": [[make_clip(9)]], "test": [[make_clip(n, 12) for n in range(2)]]})
    config = compose_config("config", *NETWORKS, "row=no_mch")
    parts = nn.ModuleDict({n: instantiate(config.model[n]) for n in ("embedder", "generator", "discriminator")})
    inside = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("model", "loss")}
    torch.save({"state_dict": parts.state_dict(), "config": {**inside, "row": config.row}}, root / "last.ckpt")
    return root, root / "last.ckpt"


def options(root: Path, *overrides: str) -> list[str]:
    return [*TINY, f"data.path={root / 'tiny'}", f"paths.root_dir={root}", *overrides]


def test_evaluate_from_end_to_end(trained: tuple[Path, Path]) -> None:
    root, checkpoint = trained
    mine = options(root, "finetune=paper", "finetune.max_steps=2", f"output={root / 'out'}")
    finish(start("evaluate.py", *mine, f"checkpoint={checkpoint}", "method=[ff,ft,nearest,mean]", "shots=[1,4]"))
    rows = Results(root / "out/results.csv").rows()
    assert len(rows) == 4 * 2 * 2
    assert {row["data"] for row in rows} == {"tiny/test"}
    assert {row["config"] for row in rows} == {"no_mch"}, "the row that the checkpoint was trained as"
    assert all(math.isfinite(float(row["ssim"])) for row in rows)
    ours = [row for row in rows if row["method"] == "ours"]
    assert {row["variant"] for row in ours} == {"FF", "FT"}
    assert {row["checkpoint"] for row in ours} == {digest(checkpoint)[:12]}
    assert len({row["config_hash"] for row in ours}) == 2
    assert len(list((root / "out/people").rglob("*.png"))) == 4
    before = (root / "out/results.csv").read_bytes()
    again = finish(start("train.py", "experiment=finetune_synthetic", *mine, f"init_from={checkpoint}", "shots=1"))
    assert "test/T=1/FT  ssim" in again
    assert (root / "out/results.csv").read_bytes() == before, "train.py finds what evaluate.py has done"


def test_a_baseline_alone_is_built_from_its_own_checkpoint(trained: tuple[Path, Path]) -> None:
    root, _ = trained
    small = ["model.image_size=16", "model.embedder.channels=[4,4,4,4]", "model.driver.channels=[4,4,4,4]"]
    config = compose_config("config", "experiment=x2face_synthetic", *small, "num_videos=1")
    inside = {name: OmegaConf.to_container(config[name], resolve=True) for name in ("model", "loss", "learner")}
    torch.save({"state_dict": instantiate(config.learner).state_dict(), "config": inside}, root / "x2face.ckpt")
    config = compose_config(
        "evaluate", *options(root, f"checkpoints.x2face={root / 'x2face.ckpt'}", "method=[x2face]", "shots=4")
    )
    given, config = config, evaluate.with_sections_of_checkpoint(config)
    _, learner = evaluate.build(config)
    assert [candidate.name for candidate in learner.candidates] == ["x2face"]
    assert (given.model.image_size, config.model.image_size) == (64, 16), "the config that was given stays as it was"
    logged = OmegaConf.masked_copy(config, [name for name in config if name != "hydra"])
    assert list(evaluate.plain(logged)["method"]) == ["x2face"], "goes to the loggers: nothing in it is left dangling"


@pytest.mark.slow
def test_a_sweep_of_train_py_ends_with_a_table_of_its_rows(trained: tuple[Path, Path]) -> None:
    root, checkpoint = trained
    mine = options(root, "experiment=finetune_synthetic", f"init_from={checkpoint}", "finetune.max_steps=1")
    swept = ["logger=csv", "shots=1,4", "seed=range(2)", f"hydra.sweep.dir={root / 'sweep'}"]
    told = finish(start("train.py", "-m", *mine, *swept))
    rows = Results(root / "outputs/finetune_synthetic/results.csv").rows()
    assert sorted({(row["variant"], row["T"], row["seed"]) for row in rows}) == [
        ("FT", "1", "0"), ("FT", "1", "1"), ("FT", "4", "0"), ("FT", "4", "1"),
    ]  # fmt: skip
    assert len(rows) == 8
    assert {path.name for path in (root / "sweep").iterdir() if path.is_dir()} == {"0", "1", "2", "3"}
    table = read_csv(root / "sweep/table.csv")
    ssim = [row for row in table if row["metric"] == "ssim"]
    assert [(row["T"], row["method"], row["seeds"], row["identities"]) for row in ssim] == [
        ("1", "FT", "0 1", "2"), ("4", "FT", "0 1", "2"),
    ]  # fmt: skip
    assert float(ssim[0]["low"]) <= float(ssim[0]["mean"]) <= float(ssim[0]["high"])
    end = told[told.rindex("tiny/test: mean over identities") :]
    assert "0, 1" in end
    assert "table of the sweep" in end
    assert "table/tiny/test/FT/ssim" in (root / "sweep/3/metrics/metrics.csv").read_text()
    again = root / "sweep/0/a.ckpt"
    again.write_bytes(checkpoint.read_bytes())
    assert compose_config("evaluate", f"checkpoint={again}").checkpoint == str(again), "no sign to quote in its path"


def test_settings_have_a_hash_that_does_not_know_where_files_lie(trained: tuple[Path, Path]) -> None:
    root, checkpoint = trained

    def hash_of(*overrides: str) -> str:
        mine = options(root, f"checkpoint={checkpoint}", "method=[ft]", *overrides)
        config = compose_config("evaluate", *mine)
        return evaluate.hash_of(evaluate.settings(evaluate.with_sections_of_checkpoint(config), "ft"))

    usual = hash_of()
    assert usual == hash_of("paths.root_dir=elsewhere", "people.num_people=3", "output=other")
    assert usual == hash_of("seed=1"), "it has a column of its own"
    changes = ["finetune.epochs=41", "frame_choice.seed=1", "frame_choice.num_targets=3", "people.split=val"]
    changes += ["frame_choice.split=mixed", "frame_choice.shots=even", "people.unit=video"]
    assert len({usual, *(hash_of(change) for change in changes)}) == 1 + len(changes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=[ft]"], "method ft needs its trained networks: checkpoint=FILE"),
        (["method=[x2face]"], r"checkpoints\.x2face=FILE"),
        (["method=[ff]", "checkpoint=nowhere.ckpt"], r"there is no checkpoint nowhere\.ckpt"),
    ],
)
def test_evaluate_says_what_is_missing(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate.build(
            evaluate.with_sections_of_checkpoint(
                compose_config("evaluate", *options(tmp_path, "shots=[1,4]", *overrides))
            )
        )


if __name__ == "__main__":
    share(Path(sys.argv[1]))
