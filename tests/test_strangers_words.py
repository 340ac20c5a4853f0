"""What strangers' files say is shown as words: no codes for terminals, no kinds that the reader does not expect."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from talkinghead.evaluation.results import ResultKey
from talkinghead.provenance import __main__ as provenance
from talkinghead.study.study import TRIPLETS_FILE, Study, Triplet, load_study, save_study


def test_statements_of_origin_hold_no_codes_for_terminals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    about = {"method": "\x1b[2J\x9b31m\u202egpj.exe", "name": "\udcff Анна"}
    monkeypatch.setattr(provenance, "read", lambda content: [{"kind": "metadata", "generated": True, "about": about}])
    (path := tmp_path / "a.jpg").write_bytes(b"")
    assert provenance.main([str(path)]) == 0
    line = capsys.readouterr().out.removesuffix("\n")
    assert line.isprintable()
    assert "Анна" in line
    assert json.loads(line)["about"] == about


@pytest.fixture
def study(tmp_path: Path) -> Study:
    triplet = Triplet("0123456789ab", ResultKey("set/test", "ours", "FF", 1, "anna"), ("anna",) * 3, (0, 5, 9), 2)
    made = Study("study-1", tmp_path / "study", (triplet,))
    save_study(made, {triplet.id: np.zeros(8).tobytes()})
    return made


@pytest.mark.parametrize(("place", "value"), [
    (("id",), ["a"]), (("id",), 7), (("position",), 4), (("position",), "2"), (("position",), True),
    (("clips",), ["anna"]), (("clips",), [["anna"]] * 3), (("frames",), [0, 1.5, 2]), (("frames",), {"a": 1}),
    (("key", "person"), ["anna"]), (("key", "T"), "8"), (("key", "method"), {"a": 1}), (("key", "data"), None),
])  # fmt: skip
def test_a_list_of_triplets_of_other_kinds_is_refused(study: Study, place: tuple[str, ...], value: Any) -> None:
    assert load_study(study.folder) == study
    content = json.loads((path := study.folder / TRIPLETS_FILE).read_text())
    part = content["triplets"][0]
    for name in place[:-1]:
        part = part[name]
    part[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"triplets\.json is not what save_study writes .*make the study again"):
        load_study(study.folder)


def test_one_id_is_one_triplet(study: Study) -> None:
    content = json.loads((path := study.folder / TRIPLETS_FILE).read_text())
    path.write_text(json.dumps({**content, "triplets": content["triplets"] * 2}))
    with pytest.raises(ValueError, match="two triplets of one id"):
        load_study(study.folder)
