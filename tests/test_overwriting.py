"""Commands that write a file never write over what another program, or training, has made."""

import io
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from talkinghead.learners.export import main, shrink
from talkinghead.reenactment.inputs import SHIPPED
from talkinghead.tools import convert_vggface
from talkinghead.tools.render_examples import write_all

SMALL = next(SHIPPED.parent.glob("*_64.ckpt"))


def training_checkpoint() -> bytes:
    """What only training has: states of optimizers."""
    content = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(1)}, "config": {}, "optimizer_states": [], "loops": {}}, content)
    return content.getvalue()


@pytest.mark.parametrize(("content", "reason"), [
    (b"my notes", "was not made by this command"), (b"", "was not made by this command"),
    (training_checkpoint(), "that training can go on with"),
])  # fmt: skip
def test_a_small_checkpoint_is_written_over_none_but_small_ones(content: bytes, reason: str, tmp_path: Path) -> None:
    (other := tmp_path / "other.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"other\.ckpt is there and .*{reason}"):
        shrink(SMALL, other)
    assert other.read_bytes() == content
    with pytest.raises(SystemExit, match=r"portable: .*give another name"):
        main([str(SMALL), str(other)])


def test_a_small_checkpoint_can_be_made_again(tmp_path: Path) -> None:
    small = tmp_path / "small.ckpt"
    assert shrink(SMALL, small) == shrink(SMALL, small) == small.stat().st_size
    with pytest.raises(ValueError, match="is a folder"):
        shrink(SMALL, tmp_path)


def test_converted_weights_are_written_over_none_but_converted_ones(tmp_path: Path) -> None:
    (notes := tmp_path / "notes.safetensors").write_bytes(b"my notes")
    save_file({"w": torch.zeros(1)}, tmp_path / "other.safetensors")
    for path in (notes, tmp_path / "other.safetensors"):
        before = path.read_bytes()
        with pytest.raises(ValueError, match="is there and was not made by this command"):
            convert_vggface.convert(tmp_path / "VGG_FACE.caffemodel", path)
        assert path.read_bytes() == before
    save_file({"w": torch.zeros(1)}, tmp_path / "made.safetensors", {"sha256_of_source": "0"})
    convert_vggface.keep_others(tmp_path / "made.safetensors")
    convert_vggface.keep_others(tmp_path / "none.safetensors")


def test_examples_are_written_over_examples_only(tmp_path: Path) -> None:
    (mine := tmp_path / "portraits" / "anna.jpg").parent.mkdir()
    mine.write_bytes(b"\xff\xd8\xff my sister Anna")
    with pytest.raises(ValueError, match=r"anna\.jpg is there and was not made by this program"):
        write_all(tmp_path)
    assert mine.read_bytes() == b"\xff\xd8\xff my sister Anna"
    assert not (tmp_path / "drivers").exists()
