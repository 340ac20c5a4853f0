"""Streaming: what an episode holds, which ones an epoch holds, and what happens to broken clips."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from talkinghead.data.episodes import choose_frames
from talkinghead.data.sampling import EpochOrder
from talkinghead.faces.landmark_image import draw_landmarks, mirror_points
from talkinghead.types import Episode
from tests.helpers.data_sets import (
    SIZE,
    colour,
    end_workers,
    frame_points,
    make_clip,
    module,
    read_frame,
    write_data_set,
)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training shards of 7, 7 and 6 clips, 5 clips to validate on."""
    clips = [make_clip(n) for n in range(25)]
    groups = {"train": [clips[:7], clips[7:14], clips[14:20]], "val": [clips[20:25]]}
    return write_data_set(tmp_path_factory.mktemp("tiny"), groups)


@pytest.fixture(autouse=True)
def _end_workers() -> Iterator[None]:
    yield
    end_workers()


def frames_of(batches: list[Episode]) -> list[tuple[int, tuple[int, ...]]]:
    """(clip, frames, target last) of every episode."""
    result = []
    for batch in batches:
        for shots, target in zip(batch.shots_points.numpy(), batch.target_points.numpy(), strict=True):
            read = [read_frame(points) for points in [*shots, target]]
            assert len({clip for clip, _ in read}) == 1
            result.append((read[0][0], tuple(frame for _, frame in read)))
    return result


def test_episode_holds_the_frames_its_points_say(data_set: Path) -> None:
    data = module(data_set)
    for raw in data.train_dataloader():
        assert raw.shots.dtype == torch.uint8
        batch = data.on_after_batch_transfer(raw, 0)
        assert batch.shots.shape == (4, 4, 3, SIZE, SIZE)
        assert batch.target_landmarks.shape == (4, 3, SIZE, SIZE)
        for n, (clip, frames) in enumerate(frames_of([batch])):
            assert batch.key[n] == f"clip{clip:03d}"
            assert batch.video_index[n] == clip
            assert len(set(frames)) == 5
            for image, frame in zip([*batch.shots[n], batch.target[n]], frames, strict=True):
                expected = torch.tensor(colour(clip, frame)) / 127.5 - 1
                assert (image.mean((1, 2)) - expected).abs().max() < 0.03
            drawn = draw_landmarks(frame_points(clip, frames[-1]), SIZE)
            assert torch.equal(raw.target_landmarks[n], torch.from_numpy(drawn).permute(2, 0, 1))


def test_flip_mirrors_picture_and_points(data_set: Path) -> None:
    plain = list(module(data_set).train_dataloader())
    flipped = list(module(data_set, flip=True).train_dataloader())
    mirrored = 0
    for a, b in zip(plain, flipped, strict=True):
        for n in range(4):
            if not torch.equal(a.target_points[n], b.target_points[n]):
                mirrored += 1
                expected = mirror_points(a.shots_points[n].numpy(), SIZE)
                np.testing.assert_allclose(b.shots_points[n].numpy(), expected, atol=1e-5)
    assert 2 <= mirrored <= 14


def test_resize_scales_points_about_pixel_centres(data_set: Path) -> None:
    stored = next(iter(module(data_set).train_dataloader()))
    half = next(iter(module(data_set, size=SIZE // 2).train_dataloader()))
    assert half.target.shape == (4, 3, SIZE // 2, SIZE // 2)
    torch.testing.assert_close(half.target_points, (stored.target_points + 0.5) / 2 - 0.5)
    odd = next(iter(module(data_set, size=24).train_dataloader()))
    assert odd.target.shape == (4, 3, 24, 24)
    torch.testing.assert_close(odd.target.float().mean((2, 3)), stored.target.float().mean((2, 3)), atol=2.0, rtol=0)


def test_an_epoch_does_not_depend_on_the_number_of_workers(data_set: Path) -> None:
    epochs = [frames_of(list(module(data_set, num_workers=n).train_dataloader())) for n in (0, 1, 2)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(epochs[0]) == 16
    assert len({clip for clip, _ in epochs[0]}) == 16  # 20 clips are enough: none comes twice


def test_seed_and_epoch_change_the_order(data_set: Path) -> None:
    def epoch(number: int, seed: int = 1) -> list:
        loader = module(data_set, seed=seed).train_dataloader()
        loader.position = lambda: (number, 0)
        return frames_of(list(loader))

    assert epoch(0) == epoch(0)
    assert epoch(0) != epoch(1)
    assert epoch(0) != epoch(0, seed=2)
    assert [c for c, _ in epoch(0)] != [c for c, _ in epoch(1)]


@pytest.mark.parametrize("num_lanes", [1, 2, 3, 8, 50])
def test_lanes_share_no_visit_and_clips_come_equally_often(num_lanes: int) -> None:
    order = EpochOrder([7, 1, 12], num_lanes, seed=0, window=2)
    per_lane = 120 // num_lanes
    visits = [order(3, lane, position) for lane in range(num_lanes) for position in range(per_lane)]
    assert len(set(visits)) == len(visits)
    counts = np.bincount([visit.clip for visit in visits], minlength=20)
    assert counts.min() >= 1
    if num_lanes == 1:
        assert counts.min() == counts.max() == 6


def test_clips_of_a_window_are_mixed_and_windows_are_not() -> None:
    order = EpochOrder([100] * 10, num_lanes=1, seed=0, window=5)
    shards = [order(0, 0, position).clip // 100 for position in range(1000)]
    assert len(set(shards[:500])) == 5
    assert set(shards[:500]).isdisjoint(shards[500:])
    assert all(len(set(shards[n : n + 50])) == 5 for n in range(0, 450, 50))


def test_repeated_clips_show_other_frames(tmp_path: Path) -> None:
    write_data_set(tmp_path, {"train": [[make_clip(0, 6), make_clip(1, 6)]]})
    data = module(tmp_path, episodes_per_epoch=60, batch_size=10)  # 2 clips x 30 different episodes each
    episodes = frames_of(list(data.train_dataloader()))
    assert len({(clip, frames[-1], frozenset(frames[:-1])) for clip, frames in episodes}) == 60


def test_choose_frames_makes_every_choice_once() -> None:
    choices = [choose_frames(5, 3, (0,), count) for count in range(20)]
    assert len({(c[-1], frozenset(c[:-1])) for c in choices}) == 20
    assert choose_frames(5, 3, (0,), 20) == choices[0]


def test_ranks_split_the_epoch(data_set: Path) -> None:
    whole: list = []
    for rank in range(2):
        data = module(data_set, episodes_per_epoch=20, batch_size=5)
        data._world = lambda rank=rank: (2, rank)  # type: ignore[method-assign]
        mine = frames_of(list(data.train_dataloader()))
        assert len(mine) == 10
        whole += mine
    assert len({clip for clip, _ in whole}) == 20


def test_validation_is_fixed_and_split_over_ranks(data_set: Path) -> None:
    def validation(rank: int = 0, world: int = 1, **options) -> list:
        data = module(data_set, val_episodes=12, **options)
        data._world = lambda: (world, rank)  # type: ignore[method-assign]
        batches = list(data.val_dataloader())
        assert all(batch.target.dtype == torch.uint8 for batch in batches)  # float on the device
        return frames_of(batches)

    one = validation()
    assert one == validation(seed=7, num_workers=2, flip=True, episodes_per_epoch=4)
    assert len(one) == len(set(one)) == 12
    assert {clip for clip, _ in one[:5]} == set(range(20, 25))  # a target of every clip before a second one
    first, second = validation(0, 2), validation(1, 2)
    assert sorted(first + second) == sorted(one)
    shots = {clip: frames[:-1] for clip, frames in one}
    assert all(shots[clip] == frames[:-1] for clip, frames in one)


def test_webdataset_reads_the_shards(tmp_path: Path) -> None:
    """As docs/data.md shows: the index behind a tar's end disturbs nobody."""
    clips = [make_clip(n) for n in range(6)]
    write_data_set(tmp_path, {"train": [clips[:3], clips[3:]]})
    shards = webdataset.WebDataset(
        f"{tmp_path}/train/{{000000..000001}}.tar", shardshuffle=100, nodesplitter=webdataset.split_by_node
    )
    found = {sample["__key__"]: sample for sample in shards.shuffle(200)}
    assert sorted(found) == [clip.key for clip in clips]
    for clip in clips:
        sample = found[clip.key]
        assert json.loads(sample["json"]) == clip.meta
        assert (np.load(io.BytesIO(sample["landmarks.npy"])) == clip.landmarks).all()
        assert [sample[name] for name in sorted(sample) if name.endswith(".jpg")] == clip.frames
