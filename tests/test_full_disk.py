"""Disks without room: a run ends with one line that names the file, leaves nothing half-written, and goes on later."""

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as L
import torch

from talkinghead.callbacks.checkpoint_writing import save_whole
from talkinghead.storage import check_writable, in_one_line, write_atomic
from talkinghead.video.writer import VideoWriter
from tests.helpers.preparation_videos import make_runner, write_clip
from tests.helpers.small_disk import enlarge, small_disk


def test_a_file_that_finds_no_room_is_named_and_what_was_there_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        write_atomic(disk / "a.bin", b"old")
        with pytest.raises(OSError, match="No space") as caught:
            write_atomic(disk / "a.bin", os.urandom(2**16))
        assert in_one_line(caught.value) == f"{disk}/a.bin cannot be written: the disk is full; make room there"
        assert [(path.name, path.read_bytes()) for path in disk.iterdir()] == [("a.bin", b"old")]


def test_a_video_that_finds_no_room_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 256, 256, 3), np.uint8)

    def write(disk: Path) -> None:
        with VideoWriter(disk / "a.mp4", 256, 256, Fraction(25), Fraction(1, 25)) as writer:
            for n, image in enumerate(noise):
                writer.write(image, n)

    with small_disk(tmp_path / "disk", 64) as disk:
        with pytest.raises(OSError, match="No space") as caught:
            write(disk)
        assert in_one_line(caught.value) == f"{disk}/a.mp4 cannot be written: the disk is full; make room there"
        assert list(disk.iterdir()) == []


class Large(L.LightningModule):
    """A megabyte of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(512, 512)


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(Large())
    with small_disk(tmp_path / "disk", 512) as disk:
        (disk / "last.ckpt").write_bytes(b"old")
        with pytest.raises(OSError, match="No space") as caught:
            save_whole(trainer, disk / "last.ckpt")
        assert in_one_line(caught.value).startswith(f"{disk}/last.ckpt cannot be written: the disk is full")
        assert [(path.name, path.read_bytes()) for path in disk.iterdir()] == [("last.ckpt", b"old")]
        enlarge(disk, 4096)
        save_whole(trainer, disk / "last.ckpt")
        assert torch.load(disk / "last.ckpt", weights_only=True)["state_dict"]["layer.weight"].shape == (512, 512)


def test_a_preparation_goes_on_when_there_is_room_again(tmp_path: Path) -> None:
    for n in range(4):
        write_clip(tmp_path / f"videos/p{n}/a.mp4", num_frames=10)
    make_runner(tmp_path / "videos", tmp_path / "undisturbed").run()
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "undisturbed").rglob("*.tar")}
    with small_disk(tmp_path / "disk", 32) as disk:
        with pytest.raises(OSError, match="No space") as caught:
            make_runner(tmp_path / "videos", disk / "data").run()
        assert "cannot be written: the disk is full; make room there" in in_one_line(caught.value)
        enlarge(disk, 4096)
        assert make_runner(tmp_path / "videos", disk / "data").run().splits["train"].clips == 4
        assert {path.name: path.read_bytes() for path in (disk / "data").rglob("*.tar")} == wanted


def test_folders_are_tried_before_any_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=rf"^{tmp_path}/file/a/b cannot be a folder, for {tmp_path}/file is a file"):
        check_writable(tmp_path / "file" / "a" / "b")
    with small_disk(tmp_path / "disk", 4) as disk:
        (disk / "a").write_bytes(bytes(4096))
        with pytest.raises(ValueError, match=rf"^nothing can be written to {disk} \(the disk is full\): make room"):
            check_writable(disk / "run")
        assert [path.name for path in disk.iterdir()] == ["a"]
