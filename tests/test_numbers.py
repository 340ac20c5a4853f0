"""Numbers that are none, or out of all bounds, are told before any work: the studio's, the harness's, any option's."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from talkinghead.cli import evaluate
from talkinghead.cli.checking import fits
from talkinghead.cli.studio import NUMBERS
from talkinghead.options import check_numbers
from talkinghead.studio.uploads import NUMBERS as LIMITS
from talkinghead.studio.uploads import Limits

CONF = Path(__file__).parents[1] / "conf"


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 0, True, "many", None, [1]])
@pytest.mark.parametrize("name", ["megabytes", "megapixels", "pictures", "seconds", "steps"])
def test_limits_of_visitors_are_limits(name: str, value: Any) -> None:
    if name == "steps" and value == 0:  # feed-forward only
        value = 0.5
    with pytest.raises(ValueError, match=rf"^limits\.{name}=.*: a (whole )?number from"):
        check_numbers({**asdict(Limits()), name: value}, LIMITS, "limits.")


def test_limits_are_checked_where_they_are_made() -> None:
    assert Limits(megabytes=0.5, seconds=0.2, megapixels=1.5, steps=0).seconds == 0.2
    with pytest.raises(ValueError, match=r"limits\.seconds=nan"):
        Limits(seconds=math.nan)


@pytest.mark.parametrize(
    "given", [{"port": 0}, {"port": 70_000}, {"port": "abc"}, {"keep_minutes": math.nan}, {"keep_minutes": "abc"}]
)
def test_the_studio_tells_a_port_or_a_time_that_is_none(given: dict[str, Any]) -> None:
    check_numbers(OmegaConf.create({"port": None, "keep_minutes": 0.5}), NUMBERS)
    with pytest.raises(ValueError, match=f"^{next(iter(given))}="):
        check_numbers(OmegaConf.create({"port": 7860, "keep_minutes": 60, **given}), NUMBERS)


@pytest.mark.parametrize(
    "override",
    ["shots=true", "shots=[.nan]", "shots=[]", "shots=0", "shots=[1,2.5]", "preview_every=-1",
     "preview_every=1.5", "people.num_people=0", "people.num_people=-1", "keep_frames=7"],
)  # fmt: skip
def test_the_harness_is_checked_before_data_is_made(override: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        evaluate.check_harness(compose("evaluate", ["shots=8"]))
        with pytest.raises(ValueError, match=f"^{override.partition('=')[0]}="):
            evaluate.check_harness(compose("evaluate", [override]))


def test_an_option_is_a_finite_number() -> None:
    assert fits(0.5, float)
    assert fits(1, float | None)
    for value in (math.nan, math.inf, -math.inf):
        assert not fits(value, float)
        assert not fits(value, float | int | None)
        assert not fits([0.5, value], list[float])
