"""The few-shot protocol: methods x shot counts on unseen people, as rows of one csv (arXiv 1905.08233, Sec. 4)."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple, final

import pytorch_lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn

from talkinghead.data.datasets import Skipped
from talkinghead.data.loader import SkipReport
from talkinghead.evaluation.finetune_previews import FinetunePreviews
from talkinghead.evaluation.harness import number_of, take, timed, uncached_autocast
from talkinghead.evaluation.outputs import FrameStore
from talkinghead.evaluation.results import ALL_CLIPS, ResultKey, Results, name_clips
from talkinghead.evaluation.tasks import People, PeopleSource
from talkinghead.learners.finetune import FineTuner
from talkinghead.metrics.frechet import FrechetDistance
from talkinghead.metrics.suite import ImageMetrics
from talkinghead.types import FewShotMethod, Person, Reenactor

_logger = logging.getLogger(__name__)


class Candidate(NamedTuple):
    """A method and its columns in result rows; see `evaluation.results.ResultKey`."""

    method: FewShotMethod
    name: str
    variant: str = "-"
    checkpoint: str = "-"
    config: str = "default"
    config_hash: str = "-"
    adaptation: str = ""  # of the driver's landmarks to the person; learning does not depend on it
    adapt: Callable[[Person], Person] = lambda person: person

    @property
    def short(self) -> str:
        """FF, FT, or the name of another method."""
        return self.name if self.variant == "-" else self.variant

    @property
    def label(self) -> str:
        """Name in logs and pictures: `short`, and the adaptation if any."""
        return f"{self.short}-{self.adaptation}" if self.adaptation else self.short


@final
class TaskDataModule(L.LightningDataModule):
    """The people of a source, distributed over the ranks; a rank may have fewer than another, or none."""

    def __init__(self, source: PeopleSource) -> None:
        super().__init__()
        self.source = source
        self.report = SkipReport()
        self.everybody: list[str] = []

    @property
    def skipped(self) -> dict[str, int]:
        """Number of unusable clips by cause."""
        return dict(self.report.counts)

    def prepare_data(self) -> None:
        """Build the data set if it is missing and can be built."""
        self.source.prepare()

    def find(self) -> None:
        """List the people, once. Raises ValueError where no clip is usable."""
        if self.everybody:
            return
        self.everybody, skipped = self.source.keys()
        self.report.add(skipped)
        if not self.everybody:
            raise ValueError(nobody(self.source, skipped))

    def test_dataloader(self) -> People:
        """The people of this rank, loaded one at a time."""
        self.find()
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return People(self.source, self.everybody[rank::world], self.report.add)


@final
class FewShotEvaluation(L.LightningModule):
    """Every candidate learns every person from T shots and reproduces the hold-out frames; nothing is meta-learned.

    Needs a Trainer with `inference_mode=False`. Rows that `results` already has are not computed again.

    Args:
        data: name of data set and split, for the rows
        protocol: unit and choice of frames, for the rows: `PeopleSource.protocol`
        shots: T
        metrics: per-image metrics
        kept: stores all outputs as pictures, so that a resumed run has earlier ones; None: they are not stored
        set_metrics: distances between the sets of all outputs and all targets, by log name; they need `kept`
        previews: writes previews of each fine-tuning, within the measured time of learning; None: none
        seed: of learning, combined with person, method and T, so that the order does not matter
    """

    def __init__(
        self, candidates: Sequence[Candidate], data: str, shots: Iterable[int], metrics: ImageMetrics,
        results: Results, kept: FrameStore | None = None,
        set_metrics: Mapping[str, FrechetDistance | None] | None = None, previews: FinetunePreviews | None = None,
        seed: int = 0, commit: str = "unknown", protocol: str = "-",
    ) -> None:  # fmt: skip
        super().__init__()
        labels = [candidate.label for candidate in candidates]
        if len(set(labels)) != len(labels):
            raise ValueError(f"methods {labels}: each may be given once")
        distances = {name: metric for name, metric in (set_metrics or {}).items() if metric is not None}
        if distances and kept is None:
            raise ValueError(f"{', '.join(distances)} compare all outputs: set keep_frames=true, or set_metrics=none")
        self.candidates, self.data, self.shots = list(candidates), data, sorted(set(shots))
        self.results, self.kept, self.previews = results, kept, previews
        self.seed, self.commit, self.protocol = seed, commit, protocol
        networks = {c.label: c.method for c in candidates if isinstance(c.method, nn.Module)}
        self.methods = nn.ModuleDict(networks)  # registered, so that Lightning moves them to the device
        self._metrics, self._set_metrics = [metrics], distances
        self.names = [*metrics.means, *metrics.of_clips]
        self._met: list[str] = []  # this rank's people
        self._last: tuple[object, Reenactor, float] | None = None  # the last learned person, and the seconds it took

    # One person.

    def on_test_start(self) -> None:
        """Raise ValueError for a trainer in inference mode, in which no method can learn."""
        if torch.is_inference_mode_enabled():
            raise ValueError("methods learn while they are tested: build the Trainer with inference_mode=False")
        self._met = []

    def test_step(self, person: Person, batch_idx: int) -> dict[str, Float[Tensor, "M 3 H W"]]:
        """Add this person's rows. Returns the outputs by `T=8/FT`, including stored ones of an earlier run."""
        began = time.monotonic()
        self._met.append(person.key)
        if self.kept is not None:
            self.kept.save_target(self._key(self.candidates[0], 0, person.key), person.target.images)
        outputs = {}
        for num_shots in self.shots:
            known = person._replace(shots=take(person.shots, num_shots))
            for candidate in self.candidates:
                key = self._key(candidate, num_shots, person.key)
                outputs[f"T={num_shots}/{candidate.label}"] = (
                    self._load(key) if self._is_done(key) else self._evaluate(candidate, known, key)
                )
        _logger.info("%s %s: %.1f s", self.data, person.key, time.monotonic() - began)
        return {name: x_hat for name, x_hat in outputs.items() if x_hat is not None}

    def _evaluate(self, candidate: Candidate, person: Person, key: ResultKey) -> Float[Tensor, "M 3 H W"]:
        L.seed_everything(number_of(self.seed, person.key, candidate.short, key.T), verbose=False)
        person = candidate.adapt(person)
        with torch.enable_grad(), uncached_autocast(self.device.type):
            reenact, learning_s = self._learned(candidate, person, key)
            x_hat, seconds = timed(self.device, lambda: reenact(person.driving))
        x_hat = x_hat.detach().float()
        num_targets = len(person.target.images)
        if x_hat.shape != person.target.images.shape:
            raise ValueError(f"{candidate.label}: {tuple(x_hat.shape)} for {tuple(person.target.images.shape)} targets")
        metrics = self._metrics[0]
        measured = metrics.measure_clip(x_hat, person.target.images, person.target.points)
        if self.kept is not None:
            self.kept.save(key, x_hat)
        speed = {"learning_s": learning_s, "ms_per_frame": 1000 * seconds / num_targets}
        known = {"identity": person.identity or person.key, "num_targets": num_targets}
        self.results.add(key, {**known, **measured, **speed, "commit": self.commit})
        return x_hat

    def _learned(self, candidate: Candidate, person: Person, key: ResultKey) -> tuple[Reenactor, float]:
        """The learned person, shared by all adaptations of a method, and the seconds that learning took."""
        what = (id(candidate.method), person.key, key.T)
        if self._last is None or self._last[0] != what:
            self._last = None  # free its memory
            self._last = (what, *timed(self.device, lambda: self._learn(candidate.method, person, key)))
        return self._last[1], self._last[2]

    def _learn(self, method: FewShotMethod, person: Person, key: ResultKey) -> Reenactor:
        if self.previews is not None and isinstance(method, FineTuner):
            return method.learn(person.shots, self.previews.watch(key, person))
        return method.learn(person.shots)

    def _is_done(self, key: ResultKey) -> bool:
        """Whether a row with all present metrics exists, and its stored pictures."""
        row = self.results.find(key)
        complete = row is not None and all(row.get(name) for name in self.names)
        return complete and (self.kept is None or self.kept.has(key))

    def _load(self, key: ResultKey) -> Float[Tensor, "M 3 H W"] | None:
        return None if self.kept is None else self.kept.load(key).to(self.device)

    def _key(self, candidate: Candidate, num_shots: int, person: str) -> ResultKey:
        c = candidate
        return ResultKey(
            self.data, c.name, c.variant, num_shots, person, c.checkpoint, c.config, c.config_hash, str(self.seed),
            self.protocol,
        )  # fmt: skip

    def _set_key(self, candidate: Candidate, num_shots: int) -> ResultKey:
        """Key of the row for all people of this run as one set; other people give another row."""
        people = name_clips(row["clip"] for row in self._rows(candidate, num_shots))
        return replace(self._key(candidate, num_shots, ALL_CLIPS), clips=people)

    # All people.

    def on_test_epoch_end(self) -> None:
        """Measure the set metrics; log `test/T=8/FT/ssim`, means over all people of this run, also earlier rows."""
        self.trainer.strategy.barrier()  # until every rank has written its rows
        everything = [(candidate, num_shots) for num_shots in self.shots for candidate in self.candidates]
        missing = [one for one in everything if self._lacks_set_metrics(*one)]
        self.trainer.strategy.barrier()  # until every rank has read them
        if missing and self.kept is not None:
            self._add_set_metrics(self.kept, missing)
        self.trainer.strategy.barrier()
        for candidate, num_shots in everything:
            prefix = f"test/T={num_shots}/{candidate.label}"
            means = self._means(candidate, num_shots)
            self.log_dict({f"{prefix}/{name}": value for name, value in means.items()}, sync_dist=True)  # equal anyway
            if self.trainer.is_global_zero:
                _logger.info("%s  %s", prefix, "  ".join(f"{name} {value:.4g}" for name, value in means.items()))

    def _lacks_set_metrics(self, candidate: Candidate, num_shots: int) -> bool:
        """Whether the set row of exactly these people is missing or incomplete."""
        total = self._num_outputs(candidate, num_shots)
        row = self.results.find(self._set_key(candidate, num_shots)) or {}
        known = row.get("num_targets") == str(total) and all(row.get(name) for name in self._set_metrics)
        return bool(self._set_metrics and total and not known)

    def _add_set_metrics(self, kept: FrameStore, missing: Sequence[tuple[Candidate, int]]) -> None:
        """Add rows of clip `*`. Distances are reduced over ranks, so every rank takes part, with or without people."""
        people = sorted({row["clip"] for row in self._rows(*missing[0])})
        targets = self._key(missing[0][0], missing[0][1], ALL_CLIPS)
        content = kept.digest_targets(targets, people)
        for metric in self._set_metrics.values():
            metric.to(self.device).reset(real=True)
            if not metric.load_real(content):
                for person in self._met:
                    metric.update_real(kept.load_target(replace(targets, clip=person)).to(self.device))
                metric.save_real(content)
        for candidate, num_shots in missing:
            values = {}
            for name, metric in self._set_metrics.items():
                metric.reset()
                for person in self._met:
                    metric.update_fake(kept.load(self._key(candidate, num_shots, person)).to(self.device))
                values[name] = float(metric.compute())
            if self.trainer.is_global_zero:
                total = self._num_outputs(candidate, num_shots)
                key = self._set_key(candidate, num_shots)
                self.results.add(key, {"num_targets": total, **values, "commit": self.commit})

    def _num_outputs(self, candidate: Candidate, num_shots: int) -> int:
        return sum(int(row["num_targets"]) for row in self._rows(candidate, num_shots))

    def _rows(self, candidate: Candidate, num_shots: int) -> list[dict[str, str]]:
        """Rows of this run's people on all ranks, for one candidate and shot count."""
        everybody = set(self.trainer.datamodule.everybody)  # type: ignore[attr-defined]
        rows = self.results.of(self._key(candidate, num_shots, ALL_CLIPS))
        return [row for row in rows if row["clip"] in everybody]

    def rows(self) -> list[dict[str, str]]:
        """All rows of this run: of each person, and of all people as one set."""
        found = []
        for num_shots in self.shots:
            for candidate in self.candidates:
                together = self.results.find(self._set_key(candidate, num_shots))
                found += self._rows(candidate, num_shots) + ([together] if together else [])
        return found

    def _means(self, candidate: Candidate, num_shots: int) -> dict[str, float]:
        rows = self._rows(candidate, num_shots)
        names = [*self.names, "learning_s", "ms_per_frame"]
        columns = {name: [float(row[name]) for row in rows if row.get(name)] for name in names}
        measured = {name: [v for v in values if not math.isnan(v)] for name, values in columns.items()}
        means = {name: fmean(measured[name]) if measured[name] else math.nan for name in names if columns[name]}
        together = self.results.find(self._set_key(candidate, num_shots)) or {}
        return means | {name: float(together[name]) for name in self._set_metrics if together.get(name)}


def nobody(source: PeopleSource, skipped: Sequence[Skipped]) -> str:
    """Error message where no clip is usable."""
    example = f"; {skipped[0].detail}" if skipped else ""
    return (
        f"{source.name}: of {len(skipped)} clips none has the {source.choice.needed} frames that the protocol needs; "
        f"lower frame_choice.max_shots or frame_choice.min_targets{example}"
    )
