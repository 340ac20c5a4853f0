"""Remote shards by ranges of bytes: the same episodes as from a disk, few bytes more than the frames that are used."""

import dataclasses
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
import pytorch_lightning as L
import torch

from talkinghead.callbacks.last_checkpoint import LastCheckpoint
from talkinghead.data import ranges, remote
from talkinghead.data.cache import DiskCache, Piece
from talkinghead.data.ranges import RangeReader, fetch_pieces
from talkinghead.data.reader import ShardPool, load_info
from talkinghead.data.remote import DataFault
from tests.data.test_resume import Recorder, Stop, fit
from tests.helpers.data_sets import end_workers, make_clip, module, write_data_set
from tests.helpers.web import RangeServer, serving


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    yield
    end_workers()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[RangeServer]:
    """A data set of four training shards of four clips, and two of two to validate on."""
    clips = [make_clip(n) for n in range(20)]
    train = [clips[n : n + 4] for n in range(0, 16, 4)]
    write_data_set(tmp_path / "set", {"train": train, "val": [clips[16:18], clips[18:]]})
    with serving(tmp_path) as server:
        yield server


def episodes(location: str | Path, epochs: int = 2, **options: object) -> list[tuple]:
    """Everything of the training episodes of some epochs."""
    loader = module(location, **options).train_dataloader()
    found = []
    for epoch in range(epochs):
        loader.position = lambda epoch=epoch: (epoch, 0)
        for batch in loader:
            found += [(*batch.key, *(tensor.numpy().tobytes() for tensor in batch[:-1]))]
    return found


@pytest.mark.parametrize(("num_workers", "cached"), [(0, False), (0, True), (2, True)])
def test_remote_episodes_are_the_local_ones_whatever_the_workers(
    web: RangeServer, tmp_path: Path, num_workers: int, cached: bool
) -> None:
    options = {"cache_dir": tmp_path / "cache"} if cached else {}
    far = episodes(f"{web.url}/set", num_workers=num_workers, **options)
    assert far == episodes(tmp_path / "set")
    near, remote_one = module(tmp_path / "set", val_episodes=6), module(f"{web.url}/set", val_episodes=6, **options)
    pairs = list(zip(near.val_dataloader(), remote_one.val_dataloader(), strict=True))
    assert len(pairs) == 6
    assert all(a.key == b.key and (a.target == b.target).all() and (a.shots == b.shots).all() for a, b in pairs)


def big_clip(number: int) -> object:
    """64 frames of 17 kB, as of real faces at 256 px: a picture of noise in its middle."""
    clip = make_clip(number, num_frames=64)
    padding = np.random.default_rng(number).integers(0, 255, (64, 16_400), dtype=np.uint8)
    frames = [frame + row.tobytes() for frame, row in zip(clip.frames, padding, strict=True)]  # after a JPEG's end
    return dataclasses.replace(clip, frames=frames)


def test_an_epoch_fetches_little_more_than_the_frames_that_it_uses(tmp_path: Path) -> None:
    clips = [big_clip(n) for n in range(16)]
    write_data_set(tmp_path / "set", {"train": [clips[:8], clips[8:]]})
    size = sum(len(frame) for clip in clips for frame in clip.frames) / len(clips) / 64
    with serving(tmp_path) as web:
        options: dict = {"num_shots": 8, "episodes_per_epoch": 16, "cache_dir": tmp_path / "cache"}
        data = module(f"{web.url}/set", **options)
        loader = data.train_dataloader()
        assert sum(len(batch.key) for batch in loader) == 16
        used = 16 * 9 * size
        assert used <= web.sent_of_shards() < 1.3 * used
        first = web.sent_of_shards()
        again = module(f"{web.url}/set", **options).train_dataloader()  # of another process
        again.position = lambda: (1, 0)
        assert sum(len(batch.key) for batch in again) == 16
        assert web.sent_of_shards() - first < used  # neither indices nor landmarks, and not every frame
        again.position = lambda: (0, 0)
        before = len(web.asked)
        assert sum(len(batch.key) for batch in again) == 16
        assert not [path for path, *_ in web.asked[before:] if path.endswith(".tar")]


def test_a_batch_takes_two_rounds_of_requests(web: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(f"{web.url}/set", episodes_per_epoch=16, batch_size=16)
    pool = data.train_dataloader().loader.dataset.pool
    for number in range(16):
        pool.clip(number)  # the indices
    rounds = []
    ask = ranges._ask
    monkeypatch.setattr(ranges, "_ask", lambda blocks: rounds.append(len(blocks)) or ask(blocks))
    loader = data.train_dataloader()
    loader.loader.dataset.pool = pool
    assert len(list(loader)) == 1
    assert len(rounds) == 2
    assert rounds[0] == 16  # description and landmarks lie side by side


def test_a_run_on_remote_data_goes_on_exactly(web: RangeServer, tmp_path: Path) -> None:
    data = {"cache_dir": tmp_path / "cache"}
    whole = fit(tmp_path / "set", tmp_path, 0)
    checkpoint = tmp_path / "stopped.ckpt"
    with pytest.raises(RuntimeError, match="power cut"):
        fit(f"{web.url}/set", tmp_path, 2, [Stop("on_train_batch_end", 1, 2, checkpoint)], data=data)
    assert fit(f"{web.url}/set", tmp_path, 1, ckpt=checkpoint, data=data).seen == whole.seen[8:]


def test_a_tar_without_an_index_is_walked_by_its_headers(web: RangeServer, tmp_path: Path) -> None:
    for shard in (tmp_path / "set").glob("train/*.tar"):
        with tarfile.open(shard) as tar:
            end = max(member.offset_data + member.size for member in tar.getmembers())
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1  # of the mark of the index
        shard.write_bytes(content)
        assert end < len(content)
    cache = DiskCache(tmp_path / "cache", 1e9)
    shards = load_info(f"{web.url}/set").splits["train"].shards
    pool = ShardPool(f"{web.url}/set", shards, cache=cache)
    near = ShardPool(str(tmp_path / "set"), shards)
    for number in range(16):
        assert pool.clip(number).key == near.clip(number).key
        assert pool.clip(number).read("003.jpg") == near.clip(number).read("003.jpg")
    sent, asked = web.sent_of_shards(), len(web.asked)
    assert sent < 0.5 * sum(shard.bytes for shard in shards)  # these frames are hardly larger than their headers
    again = ShardPool(f"{web.url}/set", shards, cache=cache)
    assert again.clip(5).read("003.jpg") == near.clip(5).read("003.jpg")
    assert len(web.asked) == asked


def test_pieces_come_back_in_the_order_asked_for(web: RangeServer, tmp_path: Path) -> None:
    url = f"{web.url}/set/train/000000.tar"
    content = (tmp_path / "set/train/000000.tar").read_bytes()
    bounds = [(900, 1000), (0, 10), (5, 20), (9000, 9000), (5000, 6000), (0, 10)]
    pieces = [Piece(url, "", *bound) for bound in bounds]
    assert fetch_pieces(pieces) == [content[start:stop] for start, stop in bounds]
    assert sorted(asked[1:] for asked in web.asked) == [(0, 999), (5000, 5999)]


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_file_systems_without_many_requests_at_once_are_read_alike(tmp_path: Path, scheme: str) -> None:
    write_data_set(tmp_path / "set", {"train": [[make_clip(n) for n in range(4)]]})
    location = f"{scheme}://{tmp_path}/set"
    if scheme == "memory":
        fsspec.filesystem("memory").put(f"{tmp_path}/set", f"{tmp_path}/set", recursive=True)
    assert episodes(location) == episodes(tmp_path / "set")


def test_a_server_without_ranges_gives_whole_shards(web: RangeServer) -> None:
    web.ranges = False
    data = module(f"{web.url}/set")
    with pytest.warns(UserWarning, match="does not serve ranges of bytes: every shard is fetched whole"):
        loader = data.train_dataloader()
    assert sum(len(batch.key) for batch in loader) == 16
    shards = [asked for asked in web.asked if asked[0].endswith(".tar")]
    assert len(shards) == 4
    assert {first for _, first, _ in shards} == {0}


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str, **_: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(remote, "url_to_fs", missing)
    with pytest.raises(DataFault, match=r"Install s3fs to access S3.*talkinghead\[remote\]"):
        load_info("s3://bucket/set")


def test_what_was_read_ahead_is_bounded(web: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MOST_AHEAD", 250)
    reader = RangeReader()
    pieces = [Piece(f"{web.url}/set/train/000000.tar", "", n, n + 100) for n in (0, 2000, 4000)]
    reader.read_ahead(pieces)
    asked = len(web.asked)
    reader.read(pieces[1:])
    assert len(web.asked) == asked
    reader.read(pieces[:1])
    assert len(web.asked) == asked + 1


# ---- faults


@pytest.mark.parametrize("mood", ["drop", 503, 429, "cut", "short"])
def test_what_passes_is_tried_again(web: RangeServer, tmp_path: Path, mood: object) -> None:
    web.moods[:] = [mood, "well"] * 12
    assert episodes(f"{web.url}/set", epochs=1) == episodes(tmp_path / "set", epochs=1)
    assert not web.moods


@pytest.mark.parametrize("mood", ["drop", 503, "cut", "short"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_network_that_stays_away_ends_the_run_in_one_line(web: RangeServer, mood: object, num_workers: int) -> None:
    data = module(f"{web.url}/set", num_workers=num_workers)
    loader = data.train_dataloader()
    web.always = mood
    with pytest.raises(DataFault, match=r"^http.*\.tar cannot be read, tried 4 times .*ckpt_path=<last\.ckpt>") as told:
        list(loader)
    assert "\n" not in str(told.value)
    assert not data.skipped


def test_a_fault_in_the_middle_leaves_a_checkpoint(web: RangeServer, tmp_path: Path) -> None:
    class Cut(L.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            web.always = 503

    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[Cut(), LastCheckpoint(tmp_path / "run")], logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    learner, data = Recorder(), module(f"{web.url}/set", episodes_per_epoch=16, batch_size=1, val_episodes=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataFault, match="tried 4 times"):
            trainer.fit(learner, data)
    saved = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] == 3 * len(learner.seen) < 3 * 16


@pytest.mark.parametrize("code", [401, 403])
def test_no_access_is_not_tried_again(web: RangeServer, code: int) -> None:
    data = module(f"{web.url}/set")
    loader = data.train_dataloader()
    web.always = code
    with pytest.raises(DataFault, match=rf"HTTP {code}\); check your access$"):
        list(loader)
    assert len([path for path, *_ in web.asked if path.endswith(".tar")]) == 1


def test_a_shard_that_is_gone_is_skipped_and_counted(web: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "set/train/000002.tar").unlink()
    data = module(f"{web.url}/set")
    with pytest.warns(UserWarning, match=r"unreadable shard.*000002\.tar"):
        assert sum(len(batch.key) for batch in data.train_dataloader()) == 16
    assert data.skipped["unreadable shard"] >= 4


def test_no_clip_of_a_shard_that_was_cut_on_the_server_is_made_up(web: RangeServer, tmp_path: Path) -> None:
    shard = tmp_path / "set/train/000001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    data = module(f"{web.url}/set")
    with pytest.warns(UserWarning, match=r"unreadable shard.*000001\.tar"):
        keys = {key for batch in data.train_dataloader() for key in batch.key}
    assert keys.isdisjoint({f"clip{n:03d}" for n in range(4, 8)})
