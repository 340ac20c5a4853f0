"""The types that cross package borders."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


class Episode(NamedTuple):
    """K shots and one target of one clip, batched (arXiv 1905.08233, Sec. 3.2).

    Images and landmark images are in [-1, 1]; landmark points are pixels of those images, x right, y down.
    The target frame is never among the shots.
    """

    shots: Float[Tensor, "B K 3 H W"]  # x_i(s_k)
    shots_landmarks: Float[Tensor, "B K 3 H W"]  # y_i(s_k)
    target: Float[Tensor, "B 3 H W"]  # x_i(t)
    target_landmarks: Float[Tensor, "B 3 H W"]  # y_i(t)
    shots_points: Float[Tensor, "B K 68 2"]
    target_points: Float[Tensor, "B 68 2"]
    video_index: Int[Tensor, " B"]  # i, the row of W; meaningless outside the training split
    key: list[str]  # which clip, for previews, reports and tables

    def take(self, num_shots: int) -> "Episode":
        """The same episodes with their first `num_shots` shots only."""
        available = self.shots.shape[1]
        if not 1 <= num_shots <= available:
            raise ValueError(f"asked for {num_shots} shots of episodes that hold {available}: raise data.val_shots")
        return self._replace(
            shots=self.shots[:, :num_shots],
            shots_landmarks=self.shots_landmarks[:, :num_shots],
            shots_points=self.shots_points[:, :num_shots],
        )

    def split(self, parts: int) -> list["Episode"]:
        """The same episodes in `parts` batches of nearly equal size. Raises ValueError if one would be empty."""
        if not 1 <= parts <= len(self.key):
            raise ValueError(f"{len(self.key)} episodes cannot be split into {parts} parts")
        size = len(self.key)
        pieces = [slice(size * n // parts, size * (n + 1) // parts) for n in range(parts)]
        return [Episode(*(value[piece] for value in cast(Any, self))) for piece in pieces]


class Frames(NamedTuple):
    """Frames of one clip with their landmarks; images and landmark images in [-1, 1], points in pixels of them."""

    images: Float[Tensor, "N 3 H W"]
    landmarks: Float[Tensor, "N 3 H W"]
    points: Float[Tensor, "N 68 2"]


class Person(NamedTuple):
    """One few-shot problem (arXiv 1905.08233, Sec. 3.3 and 4): a new person, and the frames to reproduce.

    In self-reenactment `target` is `driving`: hold-out frames of the same video, none of them among the shots. In
    cross-reenactment another person drives, and `target` is the ground truth: this person with the driver's motion.
    """

    key: str  # which clip, video or folder of pictures, for tables and reports
    shots: Frames  # T frames to learn from
    driving: Frames  # M frames that give pose and expression
    target: Frames  # M frames to reproduce
    identity: str = ""  # whose; several clips may be of one identity


Reenactor = Callable[[Frames], Float[Tensor, "M 3 H W"]]  # driving frames -> x_hat in [-1, 1]


@runtime_checkable
class FewShotMethod(Protocol):
    """What the few-shot protocol asks of a method, ours or a baseline; one that owns networks is an nn.Module."""

    def learn(self, shots: Frames) -> Reenactor:
        """Learn a person from T frames. The method itself does not change."""
        ...
