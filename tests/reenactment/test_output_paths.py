"""What an animation may write over, and what killed runs leave."""

import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from talkinghead.models.person_file import FORMAT
from talkinghead.reenactment.output_paths import check_targets, sweep
from talkinghead.reenactment.side_by_side import write_sheet


@pytest.fixture
def portrait(tmp_path: Path) -> Path:
    path = tmp_path / "anna.png"
    cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    return path


def test_the_contact_sheet_does_not_overwrite_the_portrait(portrait: Path) -> None:
    output = portrait.with_suffix(".mp4")
    with pytest.raises(ValueError, match=r"anna\.png .*contact sheet.*would be overwritten"):
        check_targets([portrait], output, sheet=True)
    with pytest.raises(ValueError, match="would be overwritten"):
        check_targets([portrait.parent], output, sheet=True)  # a folder of pictures
    check_targets([portrait], output, sheet=False)
    with pytest.raises(ValueError, match="would become a source"):
        check_targets([portrait.parent], portrait.with_name("x.mp4"), sheet=True)


def test_what_another_has_made_stays(portrait: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"anna\.png.* not made by this program"):
        check_targets([], portrait.with_suffix(".mp4"), sheet=True)
    (tmp_path / "holiday.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    with pytest.raises(ValueError, match=r"holiday\.mp4 is there and was not made"):
        check_targets([], tmp_path / "holiday.mp4", sheet=True)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        check_targets([], tmp_path / "folder.mp4", sheet=True)
    write_sheet(portrait, None, [])  # made here: may be made again
    check_targets([], portrait.with_suffix(".mp4"), sheet=True)


def test_a_person_is_written_over_persons_only(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text(json.dumps({"todo": "shopping"}))
    with pytest.raises(ValueError, match=r"save_person=.*notes\.json is there and is no person"):
        check_targets([], tmp_path / "x.mp4", sheet=False, person=f"{tmp_path}/notes")
    (tmp_path / "net.safetensors").write_bytes(b"weights of another")
    with pytest.raises(ValueError, match=r"net\.safetensors is there"):
        check_targets([], tmp_path / "x.mp4", sheet=False, person=f"{tmp_path}/net")
    (tmp_path / "her.json").write_text(json.dumps({"format": FORMAT}))
    check_targets([], tmp_path / "x.mp4", sheet=False, person=f"{tmp_path}/her")


def test_only_old_leftovers_of_ours_are_swept(tmp_path: Path) -> None:
    ours = [".x.mp4.0123abcd.tmp", "..x.mp4.0123abcd.tmp.89abcdef.tmp", ".x.png.0123abcd.tmp"]
    others = [".x.mp4.tmp", "x.mp4.0123abcd.tmp", ".notes.txt.0123abcd.tmp", ".x.mp4.0123ABCD.tmp", "x.mp4"]
    for name in (*ours, *others, ".new.mp4.0123abcd.tmp"):
        (tmp_path / name).touch()
        if name != ".new.mp4.0123abcd.tmp":
            os.utime(tmp_path / name, (time.time() - 7200,) * 2)
    assert {path.name for path in sweep(tmp_path)} == set(ours)
    assert {path.name for path in tmp_path.iterdir()} == {*others, ".new.mp4.0123abcd.tmp"}
    assert sweep(tmp_path / "none") == []
