"""Moving clips: who gets one, what its frames show and for how long, and who is told of it."""

from fractions import Fraction
from pathlib import Path
from unittest.mock import Mock

import av
import numpy as np
import pytest
import pytorch_lightning as L
import torch
from pytorch_lightning.loggers import CSVLogger, WandbLogger

from talkinghead.callbacks.previews import GAP_PX, HEADER_PX, MIN_CELL_PX
from talkinghead.evaluation.clips import MovingClips
from talkinghead.provenance import read
from talkinghead.types import Frames, Person

SIZE, NUM_TARGETS = 16, 3
TRAINER, LEARNER = Mock(L.Trainer), Mock(L.LightningModule, data="tiny/test")


def grey(*levels: float) -> Frames:
    images = torch.tensor(levels)[:, None, None, None].expand(-1, 3, SIZE, SIZE)
    return Frames(images, -images, torch.zeros(len(levels), 68, 2))


def person(key: str) -> Person:
    """Shots are black and white, hold-out frames three greys; their landmark images are the negatives."""
    holdout = grey(-0.5, 0.0, 0.5)
    return Person(key, grey(-1.0, 1.0), holdout, holdout)


def show(clips: MovingClips, *keys: str) -> None:
    """As a test run does, with one method at two shot counts."""
    clips.on_test_start(TRAINER, LEARNER)
    for number, key in enumerate(keys):
        outputs = {f"T={T}/ours": grey(*[T / 10] * NUM_TARGETS).images for T in (1, 8)}
        clips.on_test_batch_end(TRAINER, LEARNER, outputs, person(key), number)


def test_a_frame_for_each_holdout_frame_with_shot_driver_target_and_method_side_by_side(tmp_path: Path) -> None:
    show(MovingClips(tmp_path, frames_per_second=4), "anna")
    with av.open(str(tmp_path / "tiny/test/T8/anna.mp4")) as video:
        frames = list(video.decode(video=0))
    assert [frame.pts * frame.time_base for frame in frames] == [Fraction(n, 4) for n in range(NUM_TARGETS)]
    middles = [column * (MIN_CELL_PX + GAP_PX) + MIN_CELL_PX // 2 for column in range(4)]
    for frame, level in zip(frames, (-0.5, 0.0, 0.5), strict=True):
        assert frame.width == 4 * MIN_CELL_PX + 3 * GAP_PX
        row = frame.to_ndarray(format="rgb24")[HEADER_PX + MIN_CELL_PX // 2, middles]
        expected = [127.5 * (shown + 1) for shown in (-1.0, -level, level, 0.8)]
        assert np.abs(row - np.array(expected)[:, None]).max() < 6, "but for what the codec changes"


def test_the_first_people_only_and_one_file_for_each_shot_count(tmp_path: Path) -> None:
    show(MovingClips(tmp_path, num_people=2), "anna", "bert", "carl")
    files = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.mp4"))
    assert files == [f"tiny/test/T{T}/{name}.mp4" for T in (1, 8) for name in ("anna", "bert")]


def test_a_clip_says_that_parts_of_it_were_generated(tmp_path: Path) -> None:
    show(MovingClips(tmp_path), "anna")
    (said,) = read((tmp_path / "tiny/test/T1/anna.mp4").read_bytes())
    assert said["digital_source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")


def test_wandb_is_shown_the_videos_of_each_shot_count_by_the_first_rank(tmp_path: Path) -> None:
    clips, logger = MovingClips(tmp_path), Mock(WandbLogger)
    show(clips, "anna", "bert")
    clips.on_test_end(Mock(L.Trainer, loggers=[logger], is_global_zero=False), LEARNER)
    logger.log_video.assert_not_called()
    clips.on_test_end(Mock(L.Trainer, loggers=[logger, Mock(CSVLogger)], is_global_zero=True), LEARNER)
    assert [call.args[0] for call in logger.log_video.call_args_list] == ["clips/T=1", "clips/T=8"]
    paths = logger.log_video.call_args_list[1].args[1]
    assert paths == [str(tmp_path / f"tiny/test/T8/{name}.mp4") for name in ("anna", "bert")]
    assert logger.log_video.call_args_list[1].kwargs == {"caption": ["anna", "bert"]}


@pytest.mark.parametrize("options", [{"num_people": -1}, {"frames_per_second": 0}])
def test_no_video_has_fewer_than_a_frame_a_second(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="0 and 1 at least"):
        MovingClips(tmp_path, **options)
