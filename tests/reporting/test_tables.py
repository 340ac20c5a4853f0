"""Tables and plots of experiments/: means over people, set-level rows, the paper's marks, bold, blocks of a README."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from talkinghead.evaluation.results import ResultKey, Results, name_clips
from talkinghead.reporting.paired import (
    Claim,
    Orderings,
    Side,
    build_orderings,
    find_gain,
    find_rows,
    judge,
)
from talkinghead.reporting.plots import draw
from talkinghead.reporting.summary import Estimate, Method, Table, estimate, find_metric, measure, merge, publish
from talkinghead.reporting.tables import build_latex, build_markdown, build_readme, fill_block, write_tables

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("experiments/*/table.py") if "TABLES" in path.read_text())
ROWS = sorted(ROOT.glob("experiments/*/row/*.yaml"))
OURS, NEAREST = Method("ours", "ours", "FT", paper="ours"), Method("nearest frame", "nearest")
TABLE = Table("made_up", "set/test", (OURS, NEAREST), ("ssim", "nme", "fid"), ("fid", "csim"))


def row(method: str, shots: int, person: str, **numbers: object) -> dict[str, str]:
    variant = {"ours": "FT"}.get(method, "-")
    kept = {name: "" if value is None else str(value) for name, value in numbers.items()}
    return {"data": "set/test", "method": method, "variant": variant, "T": str(shots), "clip": person, **kept}


def made_up() -> list[dict[str, str]]:
    """Two people, two methods, T = 1 and 8; nobody measured anything here."""
    return [
        row("ours", 1, "a", ssim=0.5, nme=0.10, fid=None),
        row("ours", 1, "b", ssim=0.7, nme="nan", fid=None),
        row("ours", 1, "*", ssim=None, nme=None, fid=40.0),
        row("nearest", 1, "a", ssim=0.4, nme=0.30, fid=None),
        row("nearest", 1, "b", ssim=0.5, nme=0.20, fid=None),
        row("nearest", 1, "*", ssim=None, nme=None, fid=44.04),
        row("ours", 8, "a", ssim=0.8, nme=0.05, fid=None),
        row("ours", 8, "b", ssim=0.9, nme=0.06, fid=None),
        row("x2face", 8, "a", ssim=0.99, nme=0.01, fid=None),  # no line of this table
        {**row("ours", 8, "a", ssim=0.01, nme=9.0), "data": "other/test"},
    ]


PAPER = [
    {"method": "ours", "T": "1", "fid": "43.0", "csim": "0.15", "fid_verified": "yes"},
    {"method": "nobody", "T": "1", "fid": "1.0", "csim": "0.99", "fid_verified": "yes"},
]


def test_means_over_people_and_sets() -> None:
    lines = measure(TABLE, made_up())
    assert set(lines) == {(1, "ours"), (1, "nearest frame"), (8, "ours")}
    ssim = lines[1, "ours"]["measured", "ssim"]
    assert ssim.mean == pytest.approx(0.6)
    assert ssim.people == 2
    low, high = ssim.interval or (0.0, 0.0)
    assert (low < 0.5, high) == (True, 1.0), "two people say little: Student's t is far wider than what was seen"
    nme = lines[1, "ours"]["measured", "nme"]
    assert (nme.mean, nme.interval, nme.people) == (0.10, None, 1)  # b has none: no face was found
    assert lines[1, "ours"]["measured", "fid"] == Estimate(40.0, seeds=("-",))  # of the set, not a mean over people
    assert lines[1, "ours"]["measured", "ssim"].splits == ("mixed",)  # rows of before there was a choice
    assert ("measured", "fid") not in lines[8, "ours"]
    assert estimate([row("ours", 1, "a", nme="nan")], "nme") is None


def test_a_person_counts_once() -> None:
    with pytest.raises(ValueError, match=r"set/test, ours, T=1: several rows of \['a'\]"):
        measure(TABLE, [*made_up(), row("ours", 1, "a", ssim=0.6)])


def test_rows_of_an_ablation_are_told_apart_by_config() -> None:
    rows = [{**row("ours", 1, "a", ssim=value), "config": name} for name, value in [("default", 0.6), ("no_fm", 0.4)]]
    table = Table("t", "set/test", [Method(name, "ours", "FT", name) for name in ("default", "no_fm")], ("ssim",))
    lines = measure(table, rows)
    assert lines[1, "default"]["measured", "ssim"].mean == 0.6
    assert lines[1, "no_fm"]["measured", "ssim"].mean == 0.4


def test_the_papers_numbers_keep_their_mark() -> None:
    lines = publish(TABLE, PAPER)
    assert lines == {
        (1, "ours"): {
            ("paper", "fid"): Estimate(43.0, printed="43.0"),
            ("paper", "csim"): Estimate(0.15, printed="0.15", verified=False),
        }
    }
    text = build_markdown(TABLE, lines)
    assert "| 1 | ours | 43.0 | 0.15† |" in text
    assert "†: the paper's number from memory, not verified." in text
    assert "$^\\dagger$" in build_latex(TABLE, lines)


def test_markdown_has_the_best_in_bold_beside_the_paper() -> None:
    text = build_markdown(TABLE, merge(publish(TABLE, PAPER), measure(TABLE, made_up())))
    header, _, ours, nearest, ours_8, *_ = text.splitlines()
    assert header == "| T | method | SSIM ↑ | NME ↓ | FID ↓ | paper: FID ↓ | paper: CSIM ↑ |"
    cells = [cell.strip() for cell in ours.split("|")[1:-1]]
    assert cells[:2] == ["1", "ours"]
    assert cells[2].startswith("**0.600** (-0.6")
    assert cells[3:] == ["**0.100**", "**40.0**", "43.0", "0.15†"]
    assert "**" not in nearest
    assert "**" not in ours_8  # alone at T = 8
    assert "2 identities" in text
    assert "frame_choice.split=mixed" in text


def test_ties_as_printed_are_all_bold() -> None:
    rows = [row("ours", 1, "a", ssim=0.6001), row("nearest", 1, "a", ssim=0.6004)]
    assert build_markdown(TABLE, measure(TABLE, rows)).count("**0.600**") == 2


def test_latex_has_one_rule_between_shot_counts() -> None:
    text = build_latex(TABLE, measure(TABLE, made_up()))
    assert text.startswith("\\begin{tabular}{rlrrr}\n\\toprule\n")
    assert text.count("\\midrule") == 2
    assert text.count(" \\\\\n") == 4
    assert "\\textbf{0.600}" in text
    table = Table("t", "set/test", (OURS,), ("fd_facenet_synthetic",))
    latex = build_latex(table, measure(table, [row("ours", 1, "*", fd_facenet_synthetic=3.0)]))
    assert "facenet\\_synthetic" in latex


def test_names_of_metrics() -> None:
    assert find_metric("fd_mobilenetv2").title == "Frechet distance (mobilenetv2)"
    assert find_metric("pd_facenet_synthetic").higher_is_better is False
    with pytest.raises(ValueError, match="no metric 'ssmi'"):
        find_metric("ssmi")


def test_plot_shows_means_and_intervals_over_shots() -> None:
    figure = draw(TABLE, measure(TABLE, made_up()))
    assert figure is not None
    ssim, nme, fid = figure.axes
    assert [axis.get_title() for axis in (ssim, nme, fid)] == ["SSIM ↑", "NME ↓", "FID ↓"]
    ours = ssim.containers[0]
    assert ours.lines[0].get_ydata().tolist() == pytest.approx([0.6, 0.85])
    (bars,) = ours.lines[2]
    (_, low), (_, high) = bars.get_segments()[0]
    assert low < 0.6 < high
    assert draw(TABLE, publish(TABLE, PAPER)) is None  # nothing was measured


def compared(count: int, seeds: tuple[str, ...], gain: float = 0.02) -> list[dict[str, str]]:
    """Two methods on the same people, who differ far more than the methods."""
    rows = []
    for number in range(count):
        hard, luck = 0.05 * number, 0.001 * (-1) ** number
        for seed in seeds:
            one = {"seed": seed, "ssim": 0.9 - hard + luck}
            rows += [row("ours", 8, f"p{number}", **one, nme=0.1)]
            rows += [row("nearest", 8, f"p{number}", **one | {"ssim": 0.9 - gain - hard})]
    return rows


def holds(rows: list[dict[str, str]], *claims: Claim) -> list[str]:
    text = build_orderings(Orderings("orderings", "set/test", claims), rows)
    return [line.split("|")[-2].strip() for line in text.splitlines()[2:] if line.startswith("|")]


CLAIM = Claim(Side(OURS, 8), Side(NEAREST, 8), ("ssim", "nme"))


def test_orderings_compare_the_same_people() -> None:
    rows = compared(8, ("0", "1"))
    rows += [row("ours", 8, "alone", ssim=0.0), row("ours", 8, "*", ssim=None, fid=3.0)]
    assert len(find_rows(rows, "set/test", Side(NEAREST, 8), "ssim")) == 16
    text = build_orderings(Orderings("o", "set/test", [CLAIM, Claim(CLAIM.worse, CLAIM.better, ("ssim",))]), rows)
    assert "| ours (T = 8) | nearest frame (T = 8) | SSIM | +0.020 (+0.019 to +0.021) | 8 | 2 | < 0.001 | yes |" in text
    assert "| -0.020 (-0.021 to -0.019) | 8 | 2 | < 0.001 | **no** |" in text
    assert "NME" not in text.split("\n\n")[0]  # the copy has none
    lower = [row("ours", 1, name, nme=0.1) for name in "ab"] + [row("nearest", 1, name, nme=0.3) for name in "ab"]
    gain = find_gain(lower, "set/test", Claim(Side(OURS, 1), Side(NEAREST, 1), ()), "nme")
    assert gain is not None
    assert gain.interval.mean == pytest.approx(0.2)  # less is better


def test_a_claim_needs_identities_seeds_and_the_same_sign() -> None:
    assert holds(compared(8, ("0", "1")), CLAIM) == ["yes"]
    assert holds(compared(7, ("0", "1")), CLAIM) == ["not clear"], "too few identities"
    assert holds(compared(8, ("0",)), CLAIM) == ["not clear"], "one seed"
    old = [{name: value for name, value in one.items() if name != "seed"} for one in compared(8, ("0",))]
    assert holds(old, CLAIM) == ["not clear"], "rows that do not say their seed are of one"
    clips = [{**one, "identity": f"id{int(one['clip'][1:]) // 2}"} for one in compared(8, ("0", "1"))]
    assert holds(clips, CLAIM) == ["not clear"], "two clips of each: four identities"
    mixed = compared(8, ("0",), 0.5) + compared(8, ("1",), -0.01)
    assert holds(mixed, CLAIM) == ["not clear"], "another sign with another seed"


def test_many_claims_are_judged_together() -> None:
    rows = compared(8, ("0", "1"))
    for number, one in enumerate(rows):
        one["nme"] = str(0.1 + 0.01 * (number * 7 % 5))
    gain = find_gain(rows, "set/test", CLAIM, "ssim")
    assert gain is not None
    assert judge(gain, 0.04) == "yes"
    assert judge(gain, 0.06) == "not clear"
    noise = [Claim(CLAIM.better, CLAIM.worse, ("nme",))] * 400
    one = compared(8, ("0", "1"), 0.0)
    for entry in one:
        if entry["method"] == "ours":
            entry["ssim"] = str(float(entry["ssim"]) + 0.0015)
        entry["nme"] = "0.1" if entry["clip"] == "p0" else "0.2"
    alone, among = holds(one, Claim(*CLAIM[:2], ("ssim",))), holds(one, *noise, Claim(*CLAIM[:2], ("ssim",)))
    assert alone == ["yes"]
    assert among[-1] == "not clear"


def test_seeds_and_clips_of_an_identity_count_as_one() -> None:
    rows = [
        row("ours", 1, f"id{n}_{clip}", ssim=0.1 * n + 0.02 * clip + 0.01 * seed, identity=f"id{n}", seed=seed)
        for n in range(3)
        for clip in range(2)
        for seed in range(2)
    ]
    one = estimate(rows, "ssim")
    assert one is not None
    assert (one.people, one.seeds) == (3, ("0", "1"))
    assert one.mean == pytest.approx(0.1 + 0.01 + 0.005)
    lines = measure(Table("t", "set/test", (OURS,), ("ssim",), counts=True), rows)
    text = build_markdown(Table("t", "set/test", (OURS,), ("ssim",), counts=True), lines)
    assert text.startswith("| T | method | seeds | identities | SSIM ↑ |\n")
    assert "| 1 | ours | 0, 1 | 3 | 0.115" in text


def test_a_metric_of_the_set_is_of_the_people_of_the_table() -> None:
    rows = [row("ours", 1, name, ssim=0.5) for name in "ab"]
    rows += [
        {**row("ours", 1, "*", fid=value, num_targets=count), "clips": people}
        for value, count, people in ((9.0, 320, name_clips("abcd")), (4.0, 64, name_clips("ab")), (7.0, 640, "-"))
    ]
    assert estimate(rows, "fid").mean == 4.0
    assert estimate(rows[1:], "fid").mean == 7.0, "no such set: the largest"


def test_blocks_of_a_readme() -> None:
    text = "a\n<!-- table: x -->\nold\n<!-- end of table -->\nb\n<!-- table: y -->\nkeep\n<!-- end of table -->\n"
    filled = fill_block(text, "x", "new \\1\n")
    assert filled == text.replace("old\n", "new \\1\n")
    assert fill_block(filled, "x", "new \\1\n") == filled
    with pytest.raises(ValueError, match="table: z"):
        fill_block(text, "z", "new\n")


def test_a_folder_is_written(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.csv")
    for entry in made_up()[:9]:
        names = ("data", "method", "variant", "clip")
        values = {name: value for name, value in entry.items() if name not in (*names, "T")}
        results.add(ResultKey(**{name: entry[name] for name in names}, T=int(entry["T"])), values)
    (tmp_path / "paper.csv").write_text("method,T,fid,csim,fid_verified\nours,1,43.0,0.15,yes\n")
    (tmp_path / "README.md").write_text("# x\n<!-- table: made_up -->\n<!-- end of table -->\n")
    write_tables(tmp_path, [TABLE], [results.path])
    text = (tmp_path / "README.md").read_text()
    assert "| 1 | ours | **0.600** (-0.6" in text
    assert "| 43.0 | 0.15† |" in text
    assert build_readme(tmp_path, [TABLE], [results.path]) == text  # building it again changes nothing
    assert "toprule" in (tmp_path / "made_up.tex").read_text()
    assert (tmp_path / "made_up.png").read_bytes().startswith(b"\x89PNG")


def test_rows_of_another_data_set_do_not_take_the_place_of_those_there(tmp_path: Path) -> None:
    """A block with numbers is not emptied by a results.csv of something else."""
    results = Results(tmp_path / "results.csv")
    for data in ("set/test", "other/test"):
        results.path.unlink(missing_ok=True)
        results.add(ResultKey(data, "ours", "FT", 1, "a"), {"ssim": 0.5})
        if data == "set/test":
            (tmp_path / "README.md").write_text("<!-- table: made_up -->\n<!-- end of table -->\n")
            write_tables(tmp_path, [TABLE], [results.path])
    before = (tmp_path / "README.md").read_text()
    with pytest.raises(ValueError, match=r"made_up has SSIM ↑ of set/test.*beside results\.csv, not over it"):
        write_tables(tmp_path, [TABLE], [results.path])
    assert (tmp_path / "README.md").read_text() == before
    for folder in ("table1_voxceleb1", "table1_voxceleb2", "ablations"):
        text = (ROOT / "experiments" / folder / "README.md").read_text()
        assert not re.search(r"cp outputs/\S+/results\.csv experiments/\w+/\n(?=.*\n*.*<!-- table: voxceleb)", text)
        (copied,) = set(re.findall(r"cp \S+ experiments/\w+/(voxceleb\d\.csv)", text))
        script = runpy.run_path(str(ROOT / "experiments" / folder / "table.py"))
        assert copied in {path.name for path in script["RESULTS"]}


def test_before_the_first_run_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("<!-- table: made_up -->\n<!-- end of table -->\n")
    write_tables(tmp_path, [TABLE], [tmp_path / "results.csv"])
    assert "Not run yet" in (tmp_path / "README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"README.md"}


# The experiments themselves.


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_committed_tables_are_those_of_the_rows(folder: Path) -> None:
    """Nothing in a README's table is typed by hand."""
    script = runpy.run_path(str(folder / "table.py"))
    assert build_readme(folder, script["TABLES"], script["RESULTS"]) == (folder / "README.md").read_text()


@pytest.mark.parametrize("name", ["cross_reenactment", "matching", "finetune_start"])
def test_committed_blocks_of_a_scripts_own_are_those_of_its_files(name: str, tmp_path: Path) -> None:
    for folder in (f"experiments/{name}", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    script = tmp_path / "experiments" / name / ("measure.py" if name == "finetune_start" else "table.py")
    command = [sys.executable, str(script), *(["--table"] if name == "finetune_start" else [])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    for path in (f"experiments/{name}/README.md", "docs/adaptation.md"):
        assert (tmp_path / path).read_text() == (ROOT / path).read_text()


@pytest.mark.parametrize("path", ROWS, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_rows_are_deltas_that_compose(path: Path) -> None:
    """Each opens with its command, and changes something in what that command composes."""
    text = path.read_text()
    assert text.startswith("# @package _global_\n# ")
    command = re.search(rf"python (train|evaluate)\.py (.*\+row={path.stem}\b.*)", text)
    assert command is not None
    name = {"train": "config", "evaluate": "evaluate"}[command[1]]
    base = re.findall(r"(?:experiment|data)=\w+", command[2])
    search = f"hydra.searchpath=[file://{path.parents[1]}]"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        without, with_row = compose(name, [search, *base]), compose(name, [search, *base, f"+row={path.stem}"])
    assert (without != with_row) == bool(OmegaConf.load(path))
