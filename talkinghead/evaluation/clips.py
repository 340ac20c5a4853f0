"""Moving clips: for a few test people and each shot count, all hold-out frames and the outputs of each method."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from talkinghead.callbacks.previews import draw_grid
from talkinghead.evaluation.contact_sheets import PeopleFiles
from talkinghead.provenance import OriginStatement
from talkinghead.types import Person
from talkinghead.video.writer import VideoWriter


class MovingClips(PeopleFiles):
    """Writes `<dirpath>/<data>/T8/<person>.mp4`: first shot | driving landmarks | target | each method.

    The hold-out frames are shown in order of time, each equally long. Weights & Biases gets the videos as `clips/T=8`.

    Args:
        num_people: number of people per rank, the first ones
        frames_per_second: rate of the videos
    """

    suffix = ".mp4"

    def __init__(self, dirpath: Path | str, num_people: int = 4, frames_per_second: int = 8) -> None:
        if num_people < 0 or frames_per_second < 1:
            raise ValueError(f"clips of {num_people} people at {frames_per_second} frames a second: 0 and 1 at least")
        super().__init__(dirpath)
        self.num_people, self.rate = num_people, frames_per_second

    def wanted(self, number: int) -> bool:
        """Whether this is one of the first `num_people` people of the rank."""
        return number < self.num_people

    def write(self, path: Path, person: Person, outputs: Mapping[str, Tensor]) -> None:
        """Write a video with a frame for each hold-out frame; `outputs`: method -> [F, 3, H, W] in [-1, 1]."""
        shown = {
            "shot": person.shots.images[:1].expand_as(person.target.images),
            "driving": person.driving.landmarks,
            "target": person.target.images,
            **outputs,
        }
        columns = {name: images.float().cpu() for name, images in shown.items()}
        frames = [
            draw_grid({name: images[n : n + 1] for name, images in columns.items()})
            for n in range(len(columns["target"]))
        ]
        height, width = frames[0].shape[:2]
        statement = OriginStatement(composite=True)
        with VideoWriter(path, width, height, Fraction(self.rate), Fraction(1, self.rate), card=statement) as video:
            for n, frame in enumerate(frames):
                video.write(frame, n)

    def show(self, logger: WandbLogger, prefix: str, paths: Sequence[Path]) -> None:
        """Log the videos of one shot count as `clips/T=8`."""
        logger.log_video(f"clips/{prefix}", [str(path) for path in paths], caption=[path.stem for path in paths])
