"""Broken, missing and far away data: skipped and counted, or one clear error; training goes on."""

import dataclasses
import functools
import http.server
import tarfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from talkinghead.data.reader import ShardReader
from talkinghead.data.remote import DataFault
from talkinghead.data.shards import Clip, DatasetInfo
from tests.helpers.data_sets import end_workers, make_clip, module, read_frame, write_data_set


@pytest.fixture(autouse=True)
def _end_workers() -> Iterator[None]:
    yield
    end_workers()


def without_landmarks(clip: Clip, frames: slice) -> Clip:
    points = clip.landmarks.copy()
    points[frames] = np.nan
    return dataclasses.replace(clip, landmarks=points)


def with_corrupt_frames(clip: Clip) -> Clip:
    return dataclasses.replace(clip, frames=[frame[: len(frame) // 2] for frame in clip.frames])


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Clips 0-3 are good, 4 to 7 are broken in one way each, 8 to 11 lie in a shard that was cut in two."""
    clips = [make_clip(n) for n in range(12)]
    bad = [
        without_landmarks(clips[4], slice(None)),
        without_landmarks(clips[5], slice(0, 9)),
        with_corrupt_frames(clips[6]),
        make_clip(7, num_frames=4),
    ]
    write_data_set(tmp_path, {"train": [[*clips[:4], *bad], clips[8:]], "val": [[*clips[:2], *bad]]})
    shard = tmp_path / "train/000001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    return tmp_path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_clips_are_skipped_counted_and_reported_once(broken: Path, num_workers: int) -> None:
    data = module(broken, num_workers=num_workers)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        batches = [batch for _ in range(2) for batch in data.train_dataloader()]
    assert len(batches) == 8
    good = {0, 1, 2, 3, 8, 9}
    assert {read_frame(points)[0] for batch in batches for points in batch.target_points.numpy()} <= good
    messages = [str(w.message) for w in caught if str(w.message).startswith("skipped, ")]
    for cause, place in {
        "no landmarks": "clip004",
        "too few usable frames": "clip00",
        "corrupt JPEG": "clip006",
        "truncated shard": "000001.tar",
    }.items():
        assert data.skipped[cause] >= 1
        assert len([m for m in messages if cause in m and place in m]) == 1
    assert len(messages) == 4


def test_replacements_disturb_no_other_episode(tmp_path: Path) -> None:
    clips = [make_clip(n) for n in range(40)]
    whole = write_data_set(tmp_path / "whole", {"train": [clips[:20], clips[20:]]})
    holed = [without_landmarks(clip, slice(None)) if n % 10 == 0 else clip for n, clip in enumerate(clips)]
    holed_set = write_data_set(tmp_path / "holed", {"train": [holed[:20], holed[20:]]})

    def episodes(path: Path) -> list:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [tuple(p.ravel()) for b in module(path).train_dataloader() for p in b.target_points.numpy()]

    a, b = episodes(whole), episodes(holed_set)
    assert len(set(b)) == len(b) == len(a)
    for before, after in zip(a, b, strict=True):
        clip = read_frame(np.array(before).reshape(68, 2))[0]
        assert (before == after) == (clip % 10 != 0)


def test_validation_leaves_out_broken_clips(broken: Path) -> None:
    data = module(broken, val_episodes=10)
    with pytest.warns(UserWarning, match="skipped"):
        batches = list(data.val_dataloader())
    assert {batch.key[0] for batch in batches} == {"clip000", "clip001"}
    assert set(data.skipped) == {"no landmarks", "too few usable frames", "corrupt JPEG"}


def test_a_missing_shard_is_skipped(broken: Path) -> None:
    (broken / "train/000001.tar").unlink()
    data = module(broken)
    with pytest.warns(UserWarning, match="unreadable shard"):
        assert len(list(data.train_dataloader())) == 4


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    clips = [without_landmarks(make_clip(n), slice(None)) for n in range(3)]
    write_data_set(tmp_path, {"train": [clips], "val": [clips]})
    data = module(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataFault, match=r"^1000 clips in a row.*no landmarks"):
            next(iter(data.train_dataloader()))
        with pytest.raises(ValueError, match="val_shots"):
            data.val_dataloader()


def test_errors_name_the_option(broken: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lower num_shots"):
        module(broken, num_shots=12).train_dataloader()
    with pytest.raises(ValueError, match="lower val_shots"):
        module(broken, val_shots=32).val_dataloader()
    with pytest.raises(ValueError, match="episodes_per_epoch=3"):
        module(broken, episodes_per_epoch=3).train_dataloader()
    with pytest.raises(ValueError, match="'test'"):
        module(broken).test_dataloader()
    with pytest.raises(FileNotFoundError, match=r"(?s)dataset\.json.*run this instead"):
        module(tmp_path / "nowhere", source_hint="run this instead").prepare_data()


def test_splits_may_have_longer_clips_than_training(tmp_path: Path) -> None:
    clips = [make_clip(n, 12) for n in range(2)]
    write_data_set(tmp_path, {"train": [clips], "val": [clips]})
    info = DatasetInfo.load(tmp_path)
    dataclasses.replace(info, frames_per_clip=6).save(tmp_path)
    assert len(module(tmp_path, val_shots=10, val_episodes=2).val_dataloader()) == 2


def test_a_missing_data_set_is_built_once(tmp_path: Path) -> None:
    calls = []

    def build(path: Path) -> None:
        calls.append(path)
        write_data_set(path, {"train": [[make_clip(n) for n in range(4)]]})

    data = module(tmp_path / "new", build=build)
    data.prepare_data()
    data.prepare_data()
    assert calls == [tmp_path / "new"]
    assert data.num_videos == 4


def test_every_cut_of_a_shard_leaves_whole_clips(tmp_path: Path) -> None:
    clips = [make_clip(n, 3) for n in range(3)]
    write_data_set(tmp_path, {"train": [clips]})
    shard = tmp_path / "train/000000.tar"
    content = shard.read_bytes()
    with tarfile.open(shard) as tar:  # any reader of tars can read it
        assert len(tar.getnames()) == 15
    previous = 0
    for size in [*range(1, len(content), 509), len(content)]:
        shard.write_bytes(content[:size])
        reader = ShardReader(str(shard))
        assert previous <= len(reader.clips) <= 3
        previous = len(reader.clips)
        for n, stored in enumerate(reader.clips):
            assert [reader.clip(n).read(name) for name in stored.frames] == clips[n].frames
    assert previous == 3


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on this machine that serves `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_remote_data_is_the_local_data(tmp_path: Path, web: str, num_workers: int) -> None:
    clips = [make_clip(n) for n in range(12)]
    write_data_set(tmp_path / "set", {"train": [clips[:4], clips[4:8], clips[8:]], "val": [clips[:2]]})
    far = module(f"{web}/set", num_workers=num_workers, episodes_per_epoch=12, batch_size=3)
    far.prepare_data()
    seen = [read_frame(points) for batch in far.train_dataloader() for points in batch.target_points.numpy()]
    assert {clip for clip, _ in seen} == set(range(12))
    near = module(tmp_path / "set", val_episodes=4)
    for a, b in zip(far.val_dataloader(), near.val_dataloader(), strict=False):
        assert a.key == b.key
        assert (a.target == b.target).all()


def test_remote_data_through_a_command(tmp_path: Path) -> None:
    write_data_set(tmp_path, {"train": [[make_clip(n) for n in range(4)]]})
    assert len(list(module(f"pipe:cat {tmp_path}/{{}}").train_dataloader())) == 4


def test_missing_remote_data_is_an_error(web: str) -> None:
    with pytest.raises(FileNotFoundError, match="prepare it"):
        module(f"{web}/nothing", source_hint="prepare it").prepare_data()


def test_loaders_draw_nothing_from_the_global_random_state(tmp_path: Path) -> None:
    """A run that goes on in the middle of an epoch starts its loader once more, and must end in the same state."""
    path = write_data_set(tmp_path / "tiny", {"train": [[make_clip(n) for n in range(4)]]})
    loader, before = module(path).train_dataloader(), torch.get_rng_state()
    for _ in range(2):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)
