"""Source frames of several people are refused, and the odd one is named."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from talkinghead.faces.crop import Crop, Framing
from talkinghead.faces.detectors import Dlib
from talkinghead.reenactment import pipeline
from talkinghead.reenactment.inputs import SHIPPED
from talkinghead.reenactment.same_person import check_one_person, find_recognizer
from talkinghead.reenactment.source import Portrait, read_source

PORTRAITS = SHIPPED.parent / "portraits"


def portrait(name: str, red: int) -> Portrait:
    return Portrait(name, np.full((8, 8, 3), (red, 0, 0), np.uint8), np.zeros((68, 2)), Crop(0, 0, 8))


def by_red(images: np.ndarray, points: np.ndarray) -> np.ndarray:
    """An embedding of one number."""
    return images[:, 0, 0, :1] / np.float32(100)


def test_the_odd_one_is_named() -> None:
    same = [portrait("a.jpg", 10), portrait("b.jpg", 20), portrait("c.jpg", 45)]
    check_one_person(same, by_red)
    with pytest.raises(ValueError, match=r"^x\.jpg: shows another person than [abc]\.jpg, .*one_person=false"):
        check_one_person([portrait("x.jpg", 240), *same], by_red)
    with pytest.raises(ValueError, match=r"^x\.jpg \(and one more\): "):
        check_one_person([*same, portrait("x.jpg", 240), portrait("y.jpg", 200)], by_red)
    assert check_one_person([portrait("x.jpg", 240), *same], None) is None
    assert check_one_person(same, by_red) is None
    doubt = check_one_person([portrait("a.jpg", 10), portrait("b.jpg", 65)], by_red)
    assert doubt == (
        "b.jpg may show another person than a.jpg (distance 0.55; above 0.6 it would be refused): if so, leave it out"
    )
    check_one_person(same[:1], by_red)


@pytest.mark.slow
def test_shipped_people_are_told_apart() -> None:
    pytest.importorskip("dlib")
    mira, dayo = read_source([PORTRAITS / "mira.jpg", PORTRAITS / "dayo.jpg"], Dlib(), Framing(1.8))
    with pytest.raises(ValueError, match=r"(dayo|mira)\.jpg: shows another person"):
        check_one_person([mira, dayo], find_recognizer())
    check_one_person([mira, mira], find_recognizer())
    four = read_source([PORTRAITS], Dlib(), Framing(1.8))
    with pytest.raises(ValueError, match="shows another person"):
        check_one_person(four, find_recognizer())
    check_one_person(
        read_source([PORTRAITS.parent / "drivers" / "lively.mp4"], Dlib(), Framing(1.8)), find_recognizer()
    )


class Told:
    """A reporter that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, text: str) -> None:
        self.lines.append(text)

    def phase(self, name: str, total: int | None = None) -> Any:
        return nullcontext(SimpleNamespace(of=None))


@pytest.mark.parametrize(("recognizer", "pictures", "lines"), [(None, 2, 1), (None, 1, 0), (by_red, 2, 0)])
def test_pictures_that_nobody_compares_are_told(
    monkeypatch: pytest.MonkeyPatch, recognizer: Any, pictures: int, lines: int
) -> None:
    monkeypatch.setattr(pipeline, "find_recognizer", lambda: recognizer)
    monkeypatch.setattr(pipeline, "read_source", lambda *_, **__: [portrait("a.jpg", 10)] * pictures)
    told = Told()
    one = pipeline.Pipeline(Dlib(), Framing(1.8), pipeline.Settings(), told)
    assert len(one.find_portraits([PORTRAITS / "anna.jpg"])) == pictures
    assert [line[:11] for line in told.lines] == ["not checked"] * lines
