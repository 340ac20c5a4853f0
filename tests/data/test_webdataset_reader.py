"""`data.reader=webdataset`: the library reads the same shards; faults are told and counted as by our own reader."""

import dataclasses
import io
import tarfile
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.remote import DataFault
from tests.data.test_broken import web  # noqa: F401, a fixture
from tests.data.test_episodes import frames_of
from tests.data.test_resume import Stop, fit
from tests.helpers.data_sets import colour, end_workers, make_clip, module, write_data_set

CLIPS = [make_clip(n) for n in range(12)]


@pytest.fixture(autouse=True)
def _end_workers() -> Iterator[None]:
    yield
    end_workers()


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streamed")
    return write_data_set(root, {"train": [CLIPS[:4], CLIPS[4:8], CLIPS[8:10]], "val": [CLIPS[10:]]})


def streamed(path: Path | str, **options) -> EpisodeDataModule:
    return module(path, **{"reader": "webdataset", "episodes_per_epoch": 40, **options})


@pytest.mark.parametrize("num_workers", [0, 2])
def test_episodes_are_those_of_the_shards(data_set: Path, num_workers: int) -> None:
    loader = streamed(data_set, num_workers=num_workers, episodes_per_epoch=400).train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    assert [len(batches) for batches in epochs] == [len(loader)] * 2 == [100, 100]
    for batch in epochs[0]:
        for (clip, frames), image in zip(frames_of([batch]), batch.target.movedim(1, -1).numpy(), strict=True):
            assert np.abs(image[16, 16].astype(int) - colour(clip, frames[-1])).max() < 8
            assert len(set(frames)) == 5
    seen = [frames_of(batches) for batches in epochs]
    assert {clip for clip, _ in seen[0]} == set(range(10)), "all shards, and no clip of another split"
    assert seen[0] != seen[1]


def test_more_workers_and_ranks_than_shards_have_batches_all_the_same(tmp_path: Path) -> None:
    write_data_set(tmp_path, {"train": [CLIPS[:3]]})
    for rank in range(2):
        data = streamed(tmp_path, num_workers=2, batch_size=2)
        data._world = lambda rank=rank: (2, rank)  # type: ignore[method-assign]
        assert [len(batch.key) for batch in data.train_dataloader()] == [2] * 10


@pytest.mark.parametrize("num_workers", [0, 1])
def test_remote_shards(tmp_path: Path, web: str, num_workers: int) -> None:  # noqa: F811
    write_data_set(tmp_path / "set", {"train": [CLIPS[:4], CLIPS[4:8]]})
    seen = frames_of(list(streamed(f"{web}/set", num_workers=num_workers).train_dataloader()))
    assert {clip for clip, _ in seen} <= set(range(8))


def test_broken_clips_and_shards_are_skipped_and_counted(tmp_path: Path) -> None:
    bare = dataclasses.replace(CLIPS[4], landmarks=np.full_like(CLIPS[4].landmarks, np.nan))
    write_data_set(tmp_path, {"train": [[*CLIPS[:4], bare], CLIPS[5:8], CLIPS[8:]]})
    (tmp_path / "train/000001.tar").write_bytes(b"no tar at all" * 100)
    (tmp_path / "train/000002.tar").unlink()
    data = streamed(tmp_path, episodes_per_epoch=200)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen = frames_of(list(data.train_dataloader()))
    assert {clip for clip, _ in seen} == set(range(4))
    assert data.skipped.keys() == {"no landmarks", "unreadable shard"}
    told = [str(warning.message) for warning in caught if str(warning.message).startswith("skipped, ")]
    assert any("clip004" in one for one in told)
    assert len(told) == 2


def test_a_share_of_broken_clips_ends_the_run(tmp_path: Path) -> None:
    bare = [dataclasses.replace(clip, landmarks=np.full_like(clip.landmarks, np.nan)) for clip in CLIPS[:2]]
    write_data_set(tmp_path, {"train": [[*bare, *CLIPS[2:4]]]})
    with (
        pytest.warns(UserWarning, match="skipped, no landmarks"),
        pytest.raises(DataFault, match=r"data.max_skipped=0.1"),
    ):
        list(streamed(tmp_path, episodes_per_epoch=100, max_skipped=0.05).train_dataloader())


def test_nothing_usable_is_one_error(tmp_path: Path) -> None:
    bare = [dataclasses.replace(clip, landmarks=np.full_like(clip.landmarks, np.nan)) for clip in CLIPS[:2]]
    write_data_set(tmp_path, {"train": [bare]})
    with pytest.warns(UserWarning, match="no landmarks"), pytest.raises(DataFault, match="in a row give no episode"):
        list(streamed(tmp_path).train_dataloader())


def test_a_network_that_is_gone_is_a_fault_and_no_skipped_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data_set(tmp_path, {"train": [CLIPS[:4]]})

    def gone(*_: object) -> None:
        raise DataFault("the network fails")

    monkeypatch.setattr("talkinghead.data.webdataset_reader.open_local", gone)
    data = streamed(tmp_path)
    with pytest.raises(DataFault, match="the network fails"):
        list(data.train_dataloader())
    assert not data.skipped


def test_a_resumed_run_says_that_its_order_is_another(data_set: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(data_set, tmp_path, 0, [Stop("on_train_batch_end", 1, 2, checkpoint)], data={"reader": "webdataset"})
    with pytest.warns(UserWarning, match="data.reader=ranges resumes exactly"):
        resumed = fit(data_set, tmp_path, 0, ckpt=checkpoint, data={"reader": "webdataset"})
    steps = [seen[:2] for seen in resumed.seen]
    assert steps == [(1, 3), (1, 4), *((2, n) for n in range(5))], "as many steps as were left"
    with pytest.warns(UserWarning, match=r"the order of episodes is not the one .*reader webdataset -> ranges"):
        fit(data_set, tmp_path, 0, ckpt=checkpoint)


def test_tars_of_webdatasets_own_writer(tmp_path: Path) -> None:
    """Without the index at the end, members in any order."""
    write_data_set(tmp_path, {"train": [CLIPS[:4]]})
    shard = tmp_path / "train/000000.tar"
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(shard, "w") as tar:
        for key in ("clip002", "clip000"):
            for member, content in reversed([one for one in members if one[0].name.startswith(key)]):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    with pytest.warns(UserWarning, match="not as long as dataset.json says"):
        seen = frames_of(list(streamed(tmp_path).train_dataloader()))
    assert {clip for clip, _ in seen} == {0, 2}
    assert any(a != b for a, b in pairwise(seen))


def test_another_reader_is_refused(data_set: Path) -> None:
    with pytest.raises(ValueError, match=r"data.reader=torchdata: choose ranges or webdataset"):
        module(data_set, reader="torchdata")
