"""Previews of a fine-tuning: outputs of G' for some driving frames every few steps."""

from collections.abc import Callable
from pathlib import Path
from typing import final

import torch

from talkinghead.evaluation.outputs import folder_of, save_strip
from talkinghead.evaluation.results import ResultKey
from talkinghead.learners.finetune import Progress
from talkinghead.learners.shots import shown
from talkinghead.names import as_path_part
from talkinghead.types import Frames, Person


@final
class FinetunePreviews:
    """Writes `<folder>/<data>/T8/<person>.png`: a row of targets, then a row of outputs after every `every` steps.

    Args:
        num_frames: number of driving frames, evenly spaced
    """

    def __init__(self, folder: Path, every: int, num_frames: int = 6) -> None:
        if every < 1 or num_frames < 1:
            raise ValueError(f"previews every {every} steps of {num_frames} frames: both must be at least 1")
        self.folder, self.every, self.num_frames = folder, every, num_frames

    def watch(self, key: ResultKey, person: Person) -> Callable[[Progress], None]:
        """The `watch` argument of `FineTuner.learn` for this person."""
        total = len(person.target.images)
        chosen = torch.linspace(0, total - 1, min(self.num_frames, total)).round().long()
        driving, rows = Frames(*(part[chosen] for part in person.driving)), [person.target.images[chosen].float()]
        path = folder_of(self.folder, key) / f"T{key.T}" / f"{as_path_part(person.key)}.png"

        @torch.no_grad()
        def draw(progress: Progress) -> None:
            if progress.step % self.every and progress.step != progress.num_steps:
                return
            progress.generator.eval()  # training mode would update spectral norm's vectors
            rows.append(progress.generator(shown(progress.generator, driving)).float())
            progress.generator.train()
            save_strip(path, torch.stack([torch.cat(list(row), dim=2) for row in rows]))

        return draw
