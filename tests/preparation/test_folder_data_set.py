"""A folder of videos given as test people is prepared when it is first asked for."""

import multiprocessing
from pathlib import Path

import pytest

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.evaluation.frame_choice import FrameChoice
from talkinghead.evaluation.tasks import SelfReenactment
from talkinghead.faces.fan import own_gpu
from talkinghead.preparation.clip import Settings
from talkinghead.preparation.folder_data_set import PreparedVideos
from talkinghead.preparation.sources import Folder
from tests.helpers.preparation_videos import GreenFace, write_clip


def test_a_folder_of_videos_becomes_test_people(tmp_path: Path) -> None:
    for person in ("anna", "ben"):
        write_clip(tmp_path / "videos" / person / "a.mp4", num_frames=12)
    settings = Settings(image_size=32, frames_per_clip=12, min_face=20)
    splits = {"train": None, "test": "."}
    build = PreparedVideos(Folder(str(tmp_path / "videos"), splits), GreenFace(), settings, workers=0)
    data = EpisodeDataModule(
        tmp_path / "prepared",
        size=16,
        num_shots=1,
        episodes_per_epoch=1,
        batch_size=1,
        num_workers=0,
        seed=0,
        build=build,
    )
    people = SelfReenactment(data, 16, FrameChoice(max_shots=4, num_targets=6, min_targets=2))
    people.prepare()
    keys, skipped = people.keys()
    assert not skipped
    assert len(keys) == 2
    person = people.load(keys[0])
    assert (person.shots.images.shape, person.target.images.shape) == ((4, 3, 16, 16), (6, 3, 16, 16))


def test_workers_go_round_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    process = multiprocessing.current_process()
    assert own_gpu(2) == "cuda:0"
    for number, gpu in ((1, "cuda:0"), (2, "cuda:1"), (3, "cuda:0")):
        monkeypatch.setattr(process, "_identity", (number,))
        assert own_gpu(2) == gpu
