"""The user study without a browser: triplets, participants, answers, intervals, the column USER."""

import csv
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest

from talkinghead.evaluation.results import ResultKey, Results
from talkinghead.provenance.reading import read
from talkinghead.reporting.intervals import wilson_interval
from talkinghead.reporting.summary import Method, Table
from talkinghead.reporting.tables import build_markdown, summarize
from talkinghead.study.answers import COLUMNS, Answers
from talkinghead.study.build import make_study
from talkinghead.study.session import Session
from talkinghead.study.study import TRIPLETS_FILE, Study, load_study
from talkinghead.study.user_score import Accuracy, accuracy, condition_of, fill
from tests.helpers.evaluation_pictures import FAKE, REAL, write_evaluation


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation(tmp_path_factory.mktemp("evaluation"))


@pytest.fixture
def study(evaluation: Path, tmp_path: Path) -> Study:
    return make_study(evaluation, tmp_path / "study", per_condition=7)


def parts(study: Study) -> dict[str, list[float]]:
    """Mean grey of the three pictures of each triplet, in [-1, 1]."""
    pictures = {triplet.id: cv2.imread(str(study.picture(triplet))) for triplet in study.triplets}
    return {name: [one.mean() / 127.5 - 1 for one in np.split(picture, 3, 1)] for name, picture in pictures.items()}


# Triplets.


def test_triplets_are_balanced_over_methods_shots_people_and_position(study: Study) -> None:
    conditions = Counter(condition_of(triplet.key) for triplet in study.triplets)
    assert {(key.method, key.variant, key.T) for key in conditions} == {
        ("ours", variant, shots) for variant in ("FF", "FT") for shots in (1, 8)
    }, "copied frames are no fakes"
    assert set(conditions.values()) == {7}
    for condition in conditions:
        mine = [triplet for triplet in study.triplets if condition_of(triplet.key) == condition]
        positions = Counter(triplet.position for triplet in mine)
        people = Counter(triplet.key.clip for triplet in mine)
        assert sorted(positions.values()) == [2, 2, 3]
        assert sorted(people.values()) == [1, 2, 2, 2]


def test_the_fake_is_where_the_list_says_and_frames_are_far_apart(study: Study) -> None:
    shown = parts(study)
    for triplet in study.triplets:
        expected = [FAKE if place == triplet.position else REAL for place in (1, 2, 3)]
        assert shown[triplet.id] == pytest.approx(expected, abs=0.02)
        assert triplet.clips == (triplet.key.clip,) * 3
        assert sorted(frame // 4 for frame in triplet.frames) == [0, 1, 2], "one of each third of the 12 frames"
    assert len({triplet.frames.index(min(triplet.frames)) for triplet in study.triplets}) == 3, "in no order of time"


def test_real_frames_can_be_of_other_videos_of_the_same_person(tmp_path: Path) -> None:
    names = [f"id{who}_video{clip}_0" for who in range(2) for clip in range(3)] + ["id9_video0_0"]
    root = write_evaluation(tmp_path / "evaluation", shots=(8,), names=names)
    study = make_study(root, tmp_path / "study", videos=True)
    shown = parts(study)
    assert len(study.triplets) == 2 * 6, "of the third person there is one video only"
    for triplet in study.triplets:
        assert len(set(triplet.clips)) == 3
        assert {clip.split("_")[0] for clip in triplet.clips} == {triplet.key.clip.split("_")[0]}
        assert triplet.clips[triplet.position - 1] == triplet.key.clip
        expected = [FAKE if place == triplet.position else REAL for place in (1, 2, 3)]
        assert shown[triplet.id] == pytest.approx(expected, abs=0.02)
    with pytest.raises(ValueError, match="nobody has three clips"):
        make_study(write_evaluation(tmp_path / "other", people=2), tmp_path / "none", videos=True)


def test_files_tell_nothing(study: Study) -> None:
    files = sorted(path.name for path in (study.folder / "pictures").iterdir())
    assert files == sorted(f"{triplet.id}.jpg" for triplet in study.triplets)
    assert [triplet.id for triplet in study.triplets] == sorted(triplet.id for triplet in study.triplets)
    content = study.picture(study.triplets[0]).read_bytes()
    assert cv2.imdecode(np.frombuffer(content, np.uint8), -1).shape == (256, 768, 3)
    (statement,) = read(content)
    assert statement["generated"]
    assert "compositeWithTrained" in str(statement)
    assert not [word for word in (b"ours", b"person0", b"position", b"frames") if word in content]


def test_the_same_seed_makes_the_same_study_and_another_another(evaluation: Path, tmp_path: Path) -> None:
    first, second = (make_study(evaluation, tmp_path / place / "study") for place in "ab")
    other = make_study(evaluation, tmp_path / "c/study", seed=1)
    assert first.triplets == second.triplets
    assert first.name == second.name == load_study(tmp_path / "a/study").name
    assert load_study(first.folder) == first
    assert other.name != first.name
    assert not {triplet.id for triplet in first.triplets} & {triplet.id for triplet in other.triplets}


def test_methods_and_shots_can_be_chosen_and_mistakes_are_said(evaluation: Path, tmp_path: Path) -> None:
    study = make_study(evaluation, tmp_path / "one", methods=["ours/FT", "nearest"], shots=[8])
    assert {(t.key.method, t.key.variant, t.key.T) for t in study.triplets} == {("ours", "FT", 8), ("nearest", "-", 8)}
    with pytest.raises(ValueError, match=r"no outputs of methods=\['x2face'\].*keep_frames=true"):
        make_study(evaluation, tmp_path / "two", methods=["x2face"])
    with pytest.raises(ValueError, match="no outputs"):
        make_study(tmp_path, tmp_path / "two")
    with pytest.raises(FileNotFoundError, match=r"python -m talkinghead\.study\.build"):
        load_study(tmp_path / "two")
    triplets = study.folder / TRIPLETS_FILE
    triplets.write_text(json.dumps({"name": "x", "triplets": [{"id": "1"}]}))
    with pytest.raises(ValueError, match="make the study again"):
        load_study(study.folder)


def test_outputs_of_two_checkpoints_are_not_mixed(tmp_path: Path) -> None:
    root = write_evaluation(tmp_path / "evaluation", people=1, shots=(1,))
    results = root / "results.csv"
    results.write_text(
        results.read_text().replace("0123456789ab", "ba9876543210") + results.read_text().split("\n", 1)[1]
    )
    first = root / "frames/tiny/test/ours_FF_0123456789ab_default"
    first.rename(first.with_name("ours_FF_ba9876543210_default"))
    assert make_study(root, tmp_path / "study").triplets, "the pictures of one are not there"
    (root / "frames/tiny/test/ours_FT_ba9876543210_default").mkdir()
    old = root / "frames/tiny/test/ours_FT_0123456789ab_default/T=1/person0.png"
    new = root / "frames/tiny/test/ours_FT_ba9876543210_default/T=1/person0.png"
    new.parent.mkdir()
    new.write_bytes(old.read_bytes())
    with pytest.raises(ValueError, match="two settings"):
        make_study(root, tmp_path / "study")


# Participants.


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_participant_sees_each_condition_as_often(study: Study) -> None:
    orders = [study.choose(f"{n:016x}", 12) for n in range(20)]
    for order in orders:
        assert set(Counter(condition_of(triplet.key) for triplet in order).values()) == {3}
        assert max(Counter(triplet.key.clip for triplet in order).values()) <= 4
        assert len({triplet.id for triplet in order}) == 12
    assert orders[0] == study.choose(f"{0:016x}", 12)
    assert len({tuple(triplet.id for triplet in order) for order in orders}) == 20
    assert len(study.choose("0", 1000)) == len(study.triplets)


def test_answers_are_written_as_they_are_given(study: Study) -> None:
    clock = Clock()
    sitting = Session(study, 5, clock)
    me = sitting.begin()
    for number in range(1, 6):
        turn = sitting.show(me)
        assert (turn.number, turn.total) == (number, 5)
        clock.now += number
        assert turn.triplet is not None
        right = number != 2
        choice = turn.triplet.position if right else turn.triplet.position % 3 + 1
        assert sitting.answer(me, number, choice)
    assert sitting.show(me).triplet is None
    rows = list(csv.DictReader((study.folder / "answers.csv").open()))
    assert tuple(rows[0]) == COLUMNS
    assert [row["seconds"] for row in rows] == ["1.00", "2.00", "3.00", "4.00", "5.00"]
    assert [row["correct"] for row in rows] == ["1", "0", "1", "1", "1"]
    assert {row["study"] for row in rows} == {study.name}
    assert {row["participant"] for row in rows} == {me}
    by_id = {triplet.id: triplet for triplet in study.triplets}
    for row in rows:
        triplet = by_id[row["triplet"]]
        told = (row["method"], row["variant"], row["T"], row["clip"], row["position"])
        assert told == ("ours", triplet.key.variant, str(triplet.key.T), triplet.key.clip, str(triplet.position))


def test_neither_reload_nor_a_second_key_or_window_gives_another_try(study: Study) -> None:
    clock = Clock()
    sitting = Session(study, 3, clock)
    me = sitting.begin()
    first = sitting.show(me)
    clock.now += 10
    assert sitting.show(me) == first, "a reload shows the same"
    clock.now += 1
    assert sitting.answer(me, 1, 2)
    assert not sitting.answer(me, 1, 3), "a second press"
    assert not sitting.answer(me, 2, 3), "the second has not been shown"
    assert sitting.show(me).number == 2
    assert not sitting.answer(me, 1, 3), "another window that still shows the first"
    assert not sitting.answer(me, 2, 4)
    (row,) = sitting.rows(me)
    assert (row["answer"], row["seconds"]) == ("2", "11.00")
    again = Session(study, 3, clock)
    assert again.show(me).number == 2, "after a restart of the server it goes on"
    assert not Answers(study.folder / "answers.csv").add(study.name, me, first.triplet, 1, 0.0)
    assert not sitting.knows(None)
    assert not sitting.knows("../../etc/passwd")
    assert sitting.knows(me)


def test_participants_at_once_do_not_mix(study: Study) -> None:
    sitting = Session(study, 6)
    people = [sitting.begin() for _ in range(8)]

    def take(me: str) -> None:
        for number in range(1, 7):
            turn = sitting.show(me)
            assert turn.number == number
            assert sitting.answer(me, number, people.index(me) % 3 + 1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take, people))
    rows = Answers(study.folder / "answers.csv").rows()
    assert Counter(row["participant"] for row in rows) == dict.fromkeys(people, 6)
    assert {(row["participant"], row["answer"]) for row in rows} == {
        (me, str(n % 3 + 1)) for n, me in enumerate(people)
    }


def test_a_study_with_answers_is_not_made_anew(evaluation: Path, study: Study) -> None:
    sitting = Session(study, 1)
    me = sitting.begin()
    sitting.show(me)
    assert sitting.answer(me, 1, 1)
    with pytest.raises(ValueError, match="has answers already"):
        make_study(evaluation, study.folder)


# The column USER.


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 10), (33, 100), (1, 1), (617, 1600)])
def test_wilson_interval_agrees_with_scipy(successes: int, trials: int) -> None:
    for level in (0.9, 0.95):
        reference = binomtest(successes, trials).proportion_ci(level, method="wilson")
        assert wilson_interval(successes, trials, level) == pytest.approx((reference.low, reference.high), abs=1e-12)


def test_wilson_interval_at_its_borders() -> None:
    assert np.isnan(wilson_interval(0, 0)).all()
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(3, 2)


def answer_row(key: ResultKey, correct: bool, participant: str = "a") -> dict[str, str]:
    named = {name: str(value) for name, value in vars(key).items()}
    return {**named, "study": "s", "participant": participant, "triplet": "t", "correct": str(int(correct))}


def test_accuracy_counts_by_method_and_shots() -> None:
    ff, ft = (ResultKey("tiny/test", "ours", variant, 8, "person0", "0123456789ab") for variant in ("FF", "FT"))
    others = [answer_row(replace(ft, clip="person1"), True, "b"), answer_row(replace(ft, T=1), False)]
    found = accuracy([answer_row(ft, False), answer_row(ff, True), *others])
    told = {(key.variant, key.T, key.clip): one for key, one in found.items()}
    assert told == {("FF", 8, "*"): Accuracy(1, 1), ("FT", 1, "*"): Accuracy(0, 1), ("FT", 8, "*"): Accuracy(1, 2)}
    assert found[replace(ft, clip="*")].share == 0.5


def test_the_column_is_filled_and_printed_and_absent_without_answers(evaluation: Path, tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv")
    results.path.write_bytes((evaluation / "results.csv").read_bytes())
    methods = (Method("ours, FF", "ours", "FF"), Method("ours, FT", "ours", "FT"))
    table = Table("t", "tiny/test", methods, ("fid", "ssim", "user"))
    before = build_markdown(table, summarize(tmp_path, table, results.rows()))
    assert "USER" not in before

    ft = ResultKey("tiny/test", "ours", "FT", 1, "person0", "0123456789ab")
    answers = [answer_row(ft, n < 40) for n in range(100)] + [answer_row(replace(ft, T=8), True)] * 4
    fill(results, accuracy(answers))
    fill(results, accuracy(answers))
    row = results.find(replace(ft, clip="*"))
    assert row is not None
    low, high = wilson_interval(40, 100)
    assert [float(row[name]) for name in ("user", "user_low", "user_high")] == pytest.approx([0.4, low, high], abs=1e-5)
    assert (row["user_answers"], row["fid"], row["num_targets"], row["commit"]) == ("100", "30", "48", "c0ffee")
    assert len([one for one in results.rows() if one["clip"] == "*"]) == 4, "T = 8 has got one too, once"
    text = build_markdown(table, summarize(tmp_path, table, results.rows()))
    assert f"0.40 ({low:.2f} to {high:.2f})" in text
    assert "Wilson's 95 % interval of 4 to 100 answers" in text
    with pytest.raises(ValueError, match="no rows"):
        fill(results, accuracy([answer_row(replace(ft, method="x2face"), True)]))


def test_the_commands(evaluation: Path, tmp_path: Path) -> None:
    def run(*words: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])

    folder, results = tmp_path / "study", tmp_path / "results.csv"
    made = run("talkinghead.study.build", evaluation, folder, "--shots", 8, "--methods", "ours/FT")
    assert made.returncode == 0, made.stderr
    assert "4 triplets" in made.stdout
    sitting = Session(load_study(folder))
    me = sitting.begin()
    turn = sitting.show(me)
    assert turn.triplet is not None
    assert sitting.answer(me, 1, turn.triplet.position)
    results.write_bytes((evaluation / "results.csv").read_bytes())
    told = run("talkinghead.study.results", folder / "answers.csv", "--into", results)
    assert told.returncode == 0, told.stderr
    assert "| ours, FT | 8 | 1.00 | 0.21 to 1.00 | 1 |" in told.stdout
    assert "user_answers" in results.read_text()
    wrong = run("talkinghead.study.results", tmp_path / "none.csv")
    assert wrong.returncode == 1
    assert "no answers" in wrong.stderr
    assert "Traceback" not in wrong.stderr
