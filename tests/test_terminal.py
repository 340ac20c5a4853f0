"""Tables are printed whole on any terminal."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from talkinghead.terminal import print_table

NAMES = ["ssim", "psnr", "pd_vgg16", "csim_dlib", "lip_correlation", "ms_per_frame"]


def printed(width: int, terminal: bool) -> str:
    table = Table("T", "method", *NAMES, title="real/test")
    for shots in (1, 8):
        table.add_row(str(shots), "warped", *(f"0.{shots}{n}{n}\n0.{n}23 … 0.{n}45" for n in range(len(NAMES))))
        table.add_section()
    file = io.StringIO()
    print_table(table, 2, Console(file=file, width=width, force_terminal=terminal, color_system=None))
    return file.getvalue()


@pytest.mark.parametrize(("width", "terminal"), [(40, True), (80, True), (300, True), (80, False)])
def test_no_cell_is_cut(width: int, terminal: bool) -> None:
    text = printed(width, terminal)
    assert "…" not in text.replace(" … ", "")
    assert all(name in text for name in NAMES)
    assert all(f"0.{shots}{n}{n}" in text for shots in (1, 8) for n in range(len(NAMES)))
    if terminal:
        assert max(map(len, text.splitlines())) <= width


def test_each_part_of_a_table_names_its_rows() -> None:
    text = printed(40, True)
    assert text.count("method") == text.count("real/test") > 1
    assert text.count("warped") == 2 * text.count("method")
    assert printed(300, True).count("method") == 1
