"""Faults of network, disk and access are no bad clips; what strangers put into shards costs a clip and no more."""

import contextlib
import dataclasses
import errno
import functools
import http.server
import io
import json
import os
import re
import struct
import tarfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch

from talkinghead.callbacks.last_checkpoint import LastCheckpoint
from talkinghead.data import remote
from talkinghead.data.datasets import Skipped
from talkinghead.data.loader import SkipReport
from talkinghead.data.reader import ShardPool, ShardReader, UnusableClip, find_clips, scan_tar
from talkinghead.data.remote import DataFault, fetch
from talkinghead.data.shards import DatasetInfo
from tests.data.test_resume import Recorder
from tests.helpers.data_sets import end_workers, make_clip, module, write_data_set


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "RETRY_DELAYS_S", (0.0, 0.0, 0.0))
    yield
    end_workers()


class Moody(http.server.SimpleHTTPRequestHandler):
    """Serves files, but does what the server's `moods` say first, one for each request of a shard."""

    protocol_version = "HTTP/1.0"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        moods = self.server.moods  # type: ignore[attr-defined]
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        mood = moods.pop(0) if moods and self.path.endswith(".tar") else "well"
        if mood == "well":
            super().do_GET()
        elif isinstance(mood, int):
            self.send_error(mood)
        elif mood == "cut":  # half of what it promises
            content = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
        elif mood == "other":
            content = bytearray(Path(self.translate_path(self.path)).read_bytes())
            content[700] ^= 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(content)
        else:  # drop
            self.connection.close()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server on this machine with a data set of four training shards of two clips, and as many to validate on."""
    clips = [make_clip(n) for n in range(16)]
    groups = [clips[n : n + 2] for n in range(0, 16, 2)]
    write_data_set(tmp_path / "set", {"train": groups[:4], "val": groups[4:]})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Moody, directory=str(tmp_path)))
    server.moods, server.asked = [], []  # type: ignore[attr-defined]
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def address(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/set"


@pytest.mark.parametrize("mood", ["drop", 503, 429, "cut", "other"])
def test_what_passes_is_tried_again(web: http.server.ThreadingHTTPServer, mood: object) -> None:
    data = module(address(web))
    data.prepare_data()
    web.moods[:] = [mood, mood, "well"]
    keys = [key for batch in data.train_dataloader() for key in batch.key]
    assert len(set(keys)) == 8
    assert not data.skipped


@pytest.mark.parametrize("mood", ["drop", 503, "cut"])
def test_a_network_that_stays_away_ends_the_run(web: http.server.ThreadingHTTPServer, mood: object) -> None:
    data = module(address(web), episodes_per_epoch=8, batch_size=1)
    data.prepare_data()
    web.moods[:] = [mood] * 4  # of the first shard that is wanted: all tries
    with pytest.raises(DataFault, match="tried 4 times"):
        list(data.train_dataloader())
    assert not data.skipped


def test_a_remote_shard_that_is_mended_is_used_again(web: http.server.ThreadingHTTPServer) -> None:
    data = module(address(web), episodes_per_epoch=8, batch_size=1)
    data.prepare_data()
    web.moods[:] = ["other"] * 4  # of the first shard that is wanted: all tries
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = {batch.key[0] for batch in data.train_dataloader()}
    assert data.skipped == {"unreadable shard": 1}
    assert len(first) >= 7
    loader = data.train_dataloader()
    loader.position = lambda: (1, 0)
    assert len({batch.key[0] for batch in loader}) == 8
    assert data.skipped == {"unreadable shard": 1}


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_access_ends_the_run_in_one_line(web: http.server.ThreadingHTTPServer, code: int, num_workers: int) -> None:
    data = module(address(web), num_workers=num_workers)
    data.prepare_data()
    web.moods[:] = [code] * 99
    with pytest.raises(DataFault, match=rf"^http.*HTTP {code}\); check your access$"):
        list(data.train_dataloader())
    assert not data.skipped


def test_what_is_gone_for_good_is_asked_for_once(web: http.server.ThreadingHTTPServer) -> None:
    web.moods[:] = [404] * 9
    with pytest.raises(OSError, match="404"):
        fetch(f"{address(web)}/train/000000.tar")
    assert len(web.asked) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_temporary_disk_is_no_bad_clip(
    web: http.server.ThreadingHTTPServer, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, content: object) -> int:
            raise OSError(code, os.strerror(code))

    data = module(address(web))
    data.prepare_data()
    monkeypatch.setattr(remote.tempfile, "TemporaryFile", Full)
    with pytest.raises(DataFault, match="TMPDIR"):
        list(data.train_dataloader())
    assert not data.skipped


def test_a_shard_without_permission_is_no_bad_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_data_set(tmp_path, {"train": [[make_clip(n) for n in range(4)]]})

    def refuse(path: str, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("talkinghead.data.reader.open_local", refuse)
    with pytest.raises(DataFault, match="permissions"):
        list(module(tmp_path).train_dataloader())


def test_starting_fetches_each_shard_to_validate_on_once(web: http.server.ThreadingHTTPServer) -> None:
    data = module(address(web), window=1, val_episodes=8)  # two shards stay open, four are needed
    data.val_dataloader()
    asked = [path for path in web.asked if "/val/" in path]
    assert len(asked) == len(set(asked)) == 4


# ---- too much was skipped


def holed(tmp_path: Path) -> Path:
    clips = [make_clip(n, 12) for n in range(12)]
    holes = [dataclasses.replace(c, frames=[b"no picture"] * 12) if n % 4 == 3 else c for n, c in enumerate(clips)]
    return write_data_set(tmp_path / "holed", {"train": [holes], "val": [clips[:2]]})


def fit(path: Path, folder: Path, **options: object) -> Recorder:
    learner = Recorder()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, callbacks=[LastCheckpoint(folder)], logger=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    data = module(path, episodes_per_epoch=12, batch_size=1, val_episodes=1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(learner, data)
    return learner


def test_a_run_that_loses_too_much_saves_and_ends(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match=r"more than 10\.0% of an epoch's 12 episodes.*corrupt JPEG: 2.*max_skipped"):
        fit(holed(tmp_path), tmp_path / "run", max_skipped=0.1)
    saved = torch.load(tmp_path / "run/last.ckpt", weights_only=True)
    assert 0 < saved["global_step"] < 12 * 3
    assert len(fit(holed(tmp_path), tmp_path / "other", max_skipped=0.5).seen) == 12
    assert len(fit(holed(tmp_path), tmp_path / "any", max_skipped=None).seen) == 12


def test_the_cap_counts_an_epoch_and_names_the_most_frequent_cause() -> None:
    report = SkipReport(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):  # each epoch may lose its share
            report.start_epoch(300)
            report.add([Skipped("unreadable shard", "b.tar (404)"), *[Skipped("corrupt JPEG", "frame 3 of a.tar")] * 2])
            assert report.fault is None
        report.add([Skipped("corrupt JPEG", "frame 5 of c.tar")])
    assert report.fault is not None
    told = r"1\.0% of an epoch's 300 episodes.*: 3, unreadable shard: 1\), mostly for corrupt JPEG, as frame 5 of c.tar"
    assert re.search(told, report.fault)
    assert report.counts == {"corrupt JPEG": 5, "unreadable shard": 2}


def test_a_fault_in_the_middle_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, asked = ShardPool.clip, []

    def breaking(pool: ShardPool, number: int) -> object:
        asked.append(number)
        if len(asked) > 8:
            raise DataFault("the disk is full")
        return clip(pool, number)

    monkeypatch.setattr(ShardPool, "clip", breaking)
    with pytest.raises(DataFault, match="the disk is full"):
        fit(holed(tmp_path), tmp_path / "run")
    assert torch.load(tmp_path / "run/last.ckpt", weights_only=True)["global_step"] > 0


# ---- strangers' shards


def tar_of(*members: tuple[str, bytes], size: str | None = None) -> bytes:
    """A tar of these members, without index; the size of the first may be claimed otherwise."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    content = bytearray(buffer.getvalue())
    if size is not None:
        content[124:136] = size.encode().ljust(12, b"\0")
    return bytes(content)


@pytest.mark.parametrize("size", ["-0000001000", "-1000", "77777777777", "nonsense"])
def test_a_member_of_odd_size_ends_the_walk(size: str) -> None:
    assert scan_tar(tar_of(("a.json", b"{}"), ("b.json", b"{}"), size=size)) == []


@pytest.mark.parametrize("index", [
    [["a"], [10**9], [10**9, 10**9]], [["a"], [2], [-5, 5]], [["a"], [2], [10**30, 1]], [["a", "b"], [2], [1, 1]],
    [[1], [2], [1, 1]], [["a"], [2], [1.5, 1]], [["a"], [2], [True, 1]], [{}, 1, 2], [["a"], [2]], "text",
    [["a"], [0], []],    [["a"], [2], [5000, 5000]],
])  # fmt: skip
def test_an_index_that_cannot_be_is_not_believed(index: object) -> None:
    tar = tar_of(("a.json", b"{}"), ("a.landmarks.npy", b"x"), ("b.json", b"{}"))
    text = json.dumps(index).encode()
    clips = find_clips(tar + text + struct.pack("<Q8s", len(text), b"clipindx"))
    assert [clip.key for clip in clips] == ["a", "b"]


def test_a_pipe_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shard.tar")
    with pytest.raises(ValueError, match="is not a file"):
        ShardReader(str(tmp_path / "shard.tar"))


def giant_jpeg(side: int) -> bytes:
    """A small picture whose header says that it is large."""
    jpeg = bytearray(make_clip(0, 1).frames[0])
    at = jpeg.find(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(jpeg)


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(("change", "cause"), [
    (lambda clip: dataclasses.replace(clip, frames=[giant_jpeg(65_500)] * 12), "frame too large"),
    (lambda clip: dataclasses.replace(clip, landmarks=clip.landmarks + 1e6), "no landmarks"),
    (lambda clip: dataclasses.replace(clip, meta={"video_index": 10**12}), "no video_index"),
    (lambda clip: dataclasses.replace(clip, meta={"video_index": 4}), "video_index outside W"),
    (lambda clip: dataclasses.replace(clip, meta={"video_index": "0"}), "no video_index"),
])  # fmt: skip
def test_odd_content_costs_the_clip(tmp_path: Path, change: Callable, cause: str) -> None:
    clips = [make_clip(n) for n in range(4)]
    write_data_set(tmp_path, {"train": [[*clips[:3], change(clips[3])]]})
    data = module(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        keys = {key for batch in data.train_dataloader() for key in batch.key}
    assert keys == {"clip000", "clip001", "clip002"}
    assert set(data.skipped) == {cause}


@pytest.mark.parametrize("header", [npy_header((10**9, 68, 2)), npy_header((12, 68, 2), "|O"), b"\x93NUMPY\x01", b""])
def test_landmarks_that_claim_too_much(tmp_path: Path, header: bytes) -> None:
    members = [("a.json", b'{"video_index": 0}'), ("a.landmarks.npy", header)]
    members += [(f"a.{n:03d}.jpg", b"x") for n in range(12)]
    (tmp_path / "s.tar").write_bytes(tar_of(*members))
    with pytest.raises(UnusableClip, match="landmarks"):
        ShardReader(str(tmp_path / "s.tar")).clip(0).landmarks()


@pytest.mark.parametrize("text", [b"[1]", b"7", b"[" * 100_000, b"{"])
def test_a_description_that_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "s.tar").write_bytes(tar_of(("a.json", text)))
    with pytest.raises(UnusableClip, match="unreadable json"):
        ShardReader(str(tmp_path / "s.tar")).clip(0).meta()


@pytest.mark.parametrize("change", [
    {"image_size": "64"}, {"image_size": 10**30}, {"image_size": None}, {"fps": "fast"}, {"name": 3}, {"splits": []},
    {"splits": {"train": 1}}, {"splits": {"train": {"shards": 5}}}, {"detector": 1}, {"frames_per_clip": True},
    {"format_version": [1]},
    {"splits": {"train": {"shards": [{"file": 1, "samples": 1, "bytes": 9999, "sha256": ""}]}}},
    {"splits": {"train": {"shards": [{"file": "a", "samples": 10**12, "bytes": 10, "sha256": ""}]}}},
    {"splits": {"train": {"shards": [{"file": "a", "samples": -1, "bytes": 10, "sha256": ""}]}}},
    {"splits": {"train": {"shards": [], "videos": 10**12}}}, {"splits": {"train": {"shards": [], "videos": "7"}}},
])  # fmt: skip
def test_a_dataset_json_of_wrong_types_is_one_line(tmp_path: Path, change: dict) -> None:
    write_data_set(tmp_path, {"train": [[make_clip(n) for n in range(4)]]})
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"is not a dataset\.json of this project|has format") as caught:
        DatasetInfo.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "[1]", "7", '"x"', "{}"])
def test_a_dataset_json_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match=r"is not a dataset\.json of this project"):
        DatasetInfo.load(tmp_path)


def miscount(folder: Path, samples: int, clips: int) -> None:
    """Let dataset.json say this of its only shard, and of the split."""
    path = folder / "dataset.json"
    info = json.loads(path.read_text())
    info["splits"]["train"]["clips"] = clips
    info["splits"]["train"]["shards"][0]["samples"] = samples
    path.write_text(json.dumps(info))


def test_clips_that_dataset_json_does_not_count_are_told(tmp_path: Path) -> None:
    write_data_set(tmp_path, {"train": [[make_clip(n) for n in range(4)]]})
    miscount(tmp_path, 3, 3)
    pool = ShardPool(str(tmp_path), DatasetInfo.load(tmp_path).splits["train"].shards)
    with pytest.raises(UnusableClip, match=r"000000\.tar \(4 clips, dataset\.json says 3; prepare the data again"):
        pool.clip(0)


def test_counts_of_a_split_and_of_its_shards_must_agree(tmp_path: Path) -> None:
    write_data_set(tmp_path, {"train": [[make_clip(n) for n in range(4)]]})
    miscount(tmp_path, 4, 3)
    with pytest.raises(ValueError, match=r"splits\.train\.clips is 3, its shards hold 4"):
        DatasetInfo.load(tmp_path)


def test_a_local_shard_of_another_length_is_told(tmp_path: Path) -> None:
    write_data_set(tmp_path, {"train": [[make_clip(n) for n in range(4)]]})
    with open(tmp_path / "train/000000.tar", "ab") as file:
        file.write(b"more")
    with contextlib.suppress(ValueError), pytest.warns(UserWarning, match=r"1 of 1 shards.*dataset\.json.*000000\.tar"):
        module(tmp_path).train_dataloader()
