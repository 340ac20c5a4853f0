"""Names out of strangers' files: no path leaves its folder, no shell runs them, no spreadsheet computes them."""

import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from talkinghead.data.reader import ShardReader, UnusableClip, join
from talkinghead.data.shards import DatasetInfo, clip_members
from talkinghead.evaluation.outputs import FrameStore, folder_of
from talkinghead.evaluation.results import ResultKey, Results
from talkinghead.names import as_cell, as_line, as_lines, as_path_part, is_name, of_cell
from talkinghead.preparation.clip import Drop
from talkinghead.preparation.report import tell, write_report
from talkinghead.reporting.tables import main as print_tables
from tests.helpers.data_sets import make_clip, write_data_set

HOSTILE = [
    "/tmp/outside", "../../outside", "..", ".", ".hidden", "a/b", "a\\b", "*", "?", "nul\0", "line\nend", "\x1b[2J",
    "~",
    "C:evil", " ", "end.", "x" * 300, "\udce9", "-rf", "$(id)", "; id", "a_b-3754d6cb3a38", "",
]  # fmt: skip


@pytest.mark.parametrize("name", ["id10270_5r0dWxy17C8", "Anna Maria (2)", "портрет", "a=b", "clip.2", "x" * 150])
def test_plain_names_stay_as_they_are(name: str) -> None:
    assert as_path_part(name) == name


def test_a_name_is_one_part_of_a_path_and_no_two_are_the_same(tmp_path: Path) -> None:
    parts = [as_path_part(name) for name in HOSTILE]
    assert len(set(parts)) == len(HOSTILE)
    for part in parts:
        assert (tmp_path / part).resolve().parent == tmp_path.resolve()
        assert len(part.encode()) <= 150
        (tmp_path / f"{part}.png").write_bytes(b"")
    assert as_path_part(as_path_part("../../etc/passwd")) != as_path_part("../../etc/passwd"), (
        "nor by choosing a digest"
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_kept_pictures_lie_in_their_folder(name: str, tmp_path: Path) -> None:
    kept, key = FrameStore(tmp_path / "frames"), ResultKey("set/test", "ours", "FF", 1, "anna")
    for field in ("data", "method", "variant", "clip", "config", "protocol", "seed"):
        hostile = replace(key, **{field: name})
        for path in (kept.path(hostile), kept.target_path(hostile), folder_of(tmp_path / "frames", hostile) / "x"):
            assert path.resolve().is_relative_to((tmp_path / "frames").resolve())
            assert ".." not in path.parts


@pytest.mark.parametrize("value", ["", "x" * 201, "a\nb", "\x1b[31m", "nul\0", "\udce9", ["anna"], {"a": 1}, None, 7])
def test_what_is_no_name_costs_its_clip(value: object, tmp_path: Path) -> None:
    assert not is_name(value)
    good, bad = make_clip(0), make_clip(1)
    write_data_set(tmp_path, {"test": [[good, replace(bad, meta={**bad.meta, "identity": value})]]})
    reader = ShardReader(str(tmp_path / "test/000000.tar"))
    assert reader.clip(0).meta()["identity"] == "person0"
    with pytest.raises(UnusableClip, match="identity is"):
        reader.clip(1).meta()


def test_a_key_with_codes_for_terminals_costs_its_clip(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for suffix, content in clip_members(make_clip(0)):
            member = tarfile.TarInfo(f"a\x1b[2Jb.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(UnusableClip, match="clip 0 of") as refused:
        ShardReader(str(path)).clip(0)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", [
    "train/000000.tar; id -un > F; #", "../0.tar", "/etc/passwd", "train/../../0.tar", "$(id)", "`id`", "a b.tar",
    "pipe:id",
    "http://host/0.tar", "-o", "", "train//0.tar", "a\nb",
])  # fmt: skip
def test_names_of_shards_are_plain(name: str, tmp_path: Path) -> None:
    write_data_set(tmp_path, {"train": [[make_clip(0)]]})
    path = tmp_path / "dataset.json"
    described = json.loads(path.read_text())
    described["splits"]["train"]["shards"][0]["file"] = name
    path.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="no name of a shard below the data set's folder"):
        DatasetInfo.load(tmp_path)


def test_a_shell_gets_a_name_as_one_word() -> None:
    assert join("pipe:cat B/{}", "train/0.tar; id") == "pipe:cat B/'train/0.tar; id'"
    assert join("pipe:cat B", "$(id)") == "pipe:cat B/'$(id)'"
    assert join("pipe:aws s3 cp s3://b/{} -", "train/0.tar") == "pipe:aws s3 cp s3://b/train/0.tar -"
    assert join("/data/set", "train/0.tar") == "/data/set/train/0.tar"


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd", "-cmd|' /C calc'!A0", "@SUM(1)", "'quoted", "''", "plain", "-", "-0.5", "nan", ""]
)
def test_cells_compute_nothing_and_come_back(text: str, tmp_path: Path) -> None:
    assert of_cell(as_cell(text)) == text
    results = Results(tmp_path / "results.csv")
    key = ResultKey("set/test", "ours", "FF", 1, text)
    results.add(key, {"ssim": -0.5})
    assert [row["clip"] for row in results.rows()] == [text]
    assert results.find(key) is not None
    cell = (tmp_path / "results.csv").read_text().splitlines()[1].split(",")[5].strip('"')
    assert not cell.startswith(("=", "+", "@")), cell
    assert ",-0.5," in (tmp_path / "results.csv").read_text()


def test_a_line_shows_what_would_be_a_code() -> None:
    assert as_line("a\x1b[2Jb\n") == r"a\x1b[2Jb\n"
    assert as_line("x" * 300, 10) == "x" * 10 + "…"
    assert as_line(np.float32(0.5)) == "0.5"


def test_tables_of_strangers_rows_hold_no_codes_for_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Results(tmp_path / "results.csv").add(ResultKey("set\x1b[2J/test", "ours\x9b", "FF", 1, "anna"), {"ssim": 0.5})
    print_tables([str(tmp_path / "results.csv")])
    shown = capsys.readouterr().out
    assert r"set\x1b[2J/test" in shown
    assert shown == as_lines(shown)
    assert all(line.isprintable() for line in shown.split("\n"))


def test_a_report_computes_nothing(tmp_path: Path) -> None:
    info = DatasetInfo.load(write_data_set(tmp_path, {"train": [[make_clip(0)]]}))
    write_report(tmp_path, info, [("train", drop := Drop("=cmd|' /C calc'!A0\x1b[2J", "no face", "+1+1"))])
    line = (tmp_path / "report.csv").read_text().splitlines()[1]
    assert line.split(",")[1].startswith("'=")
    assert line.endswith(",'+1+1")
    assert tell([("train", drop)]).isprintable()
