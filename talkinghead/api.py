"""The Python API: load a model, learn a person, animate the person. The verbs and the studio call the same functions.

>>> import talkinghead
>>> from pathlib import Path
>>> shipped = Path(talkinghead.__file__).parent / "reenactment/shipped"
>>> model = talkinghead.load("fsth_64", settings=talkinghead.Settings(max_frames=2))
>>> person = model.learn([shipped / "portraits/anna.jpg"])
>>> len([frame.shape for frame in person.frames(shipped / "drivers/calm.mp4")])
2
>>> model.learn("nobody.jpg")
Traceback (most recent call last):
    ...
talkinghead.options.InputError: source=nobody.jpg: there is no such file or folder
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast, final

import av
import numpy as np
import torch
from jaxtyping import UInt8
from PIL.Image import Image

from talkinghead.faces.crop import Framing
from talkinghead.faces.detectors import Detector, Dlib
from talkinghead.learners.finetune import FeedForward, FineTuner, PersonReenactor
from talkinghead.learners.load import LoadedCheckpoint, Loss
from talkinghead.models.person_file import files as files_of_person
from talkinghead.models.person_file import load_person
from talkinghead.options import InputError, Range, check_numbers
from talkinghead.progress import Counter, Reporter
from talkinghead.provenance import Signer, find_signer
from talkinghead.reenactment.animation import Look
from talkinghead.reenactment.inputs import MODELS, check_output, find_model, is_person
from talkinghead.reenactment.output_paths import check_person, check_targets
from talkinghead.reenactment.pipeline import AnimationResult, KnownPerson, NewPerson, Pipeline, Settings, find_device
from talkinghead.reenactment.source import Portrait, points_of
from talkinghead.storage import check_file, in_one_line

Source = str | Path | np.ndarray | Image  # a name, or a picture; arrays are uint8 [H, W, 3]
Sources = Source | Sequence[Source]
FINETUNE: Mapping[str, Any] = {  # conf/finetune/small.yaml; None: as measured for the kind of generator
    "lr_generator": None, "epochs": None, "batch_size": None, "num_discriminator_steps": 1,
    "weights": {"cnt": 1.0, "adv": 1.0, "fm": 10.0, "motion": None},
}  # fmt: skip


@contextmanager
def mendable() -> Iterator[None]:
    """Turns the errors for which a verb prints one line and exits into `InputError`; the cause is kept."""
    try:
        yield
    except InputError:
        raise
    except (ValueError, OSError, ImportError, av.FFmpegError) as error:
        raise InputError(in_one_line(error)) from error


class Options(NamedTuple):
    """How faces are found and people are learned and drawn; a model shares its options with all its people."""

    settings: Settings = Settings()
    framing: Framing | None = None  # None: as the model's people were cropped
    detector: Detector | None = None  # None: dlib
    device: str | int = "auto"
    signer: Signer | None = None  # of the statement of origin in results; None: plain metadata
    progress: Reporter | None = None  # None: silent

    def pipeline(self, crop: Mapping[str, float] | None = None) -> Pipeline:
        """All phases of an animation, with these options."""
        framing = self.framing or (Framing(**crop) if crop else Framing(margin=1.8, down=0.0))
        return Pipeline(
            self.detector or Dlib(), framing.checked(), self.settings, self.progress or Silent(),
            find_device(self.device), self.signer,
        )  # fmt: skip


@mendable()
def load(
    model: str | Path = "warp_256", *, settings: Settings | None = None, framing: Framing | None = None,
    detector: Detector | None = None, device: str | int = "auto", provenance: str = "auto",
    certificate: Path | None = None, finetune: Mapping[str, Any] = FINETUNE, loss: Loss | None = None,
    progress: Reporter | None = None,
) -> "Model | Person":  # fmt: skip
    """Load a model that ships, a checkpoint of your own, or a saved person.

    Args:
        model: `warp_256` or `fsth_64`, which ship; a checkpoint of `train.py`; a person model that `Person.save` wrote.
        settings: how faces are found and followed, and how the driver moves the person.
        framing: the crop around a face, as in the model's training data.
        detector: finds faces and their 68 landmarks; None: dlib, which needs `pip install 'talkinghead[offline]'`.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or its number …
        provenance: how results state that they are generated: `c2pa` (signed), `metadata` (plain), `auto` (signed
            where c2pa-python is installed).
        certificate: for c2pa, a PEM file with a private key and its certificates; None: self-signed.
        finetune: numbers of `FineTuner`, for `Model.learn` with steps; those not given are as in `FINETUNE`.
        loss: L_CNT and loss weights of fine-tuning; None: those of the checkpoint.
        progress: receives the phases and their progress; None: silent.

    Returns:
        A `Person` for a person file, else a `Model`.

    Raises:
        InputError: there is no such model, the file does not belong to this project, or an option is out of its range.
    """
    if unknown := [name for name in finetune if name not in inspect.signature(FineTuner).parameters]:
        raise ValueError(f"finetune: FineTuner has no {', '.join(unknown)}")
    path = find_model(model)
    if not is_person(path):
        check_file("model", path, f"; {' and '.join(MODELS)} ship with the project")
    signer = find_signer(provenance, certificate)
    options = Options(settings or Settings(), framing, detector, device, signer, progress)
    if signer is None and provenance == "auto" and progress:
        progress.tell("the statement of origin is plain; to have it signed: pip install 'talkinghead[provenance]'")
    if is_person(path):
        return Person.load(path, options)
    return Model(LoadedCheckpoint(path, {**FINETUNE, **finetune}, loss, find_device(device)), options)


@final
class Model:
    """Meta-learned E, G and D, from which people never seen before are learned."""

    def __init__(self, checkpoint: LoadedCheckpoint, options: Options) -> None:
        self.checkpoint, self.options = checkpoint, options
        self.pipeline = options.pipeline()

    @property
    def image_size(self) -> int:
        """Side of the pictures that the networks draw, pixels."""
        return self.checkpoint.size

    @property
    def usual_steps(self) -> int:
        """Fine-tuning steps measured best for this kind of generator (experiments/finetune_options)."""
        return self.checkpoint.steps

    def method(self, steps: int = 0) -> FeedForward | FineTuner:
        """The few-shot method alone: feed-forward for 0 steps, else fine-tuning (Sec. 3.3)."""
        check_numbers({"steps": steps}, {"steps": Range(0)})
        return self.checkpoint.method(steps)

    @mendable()
    def learn(
        self, images: Sources, steps: int = 0, *, watch: Callable[[Any, Any], None] = lambda state, driving: None
    ) -> "Person":
        """Learn a person from pictures.

        Args:
            images: names of pictures, folders and videos, or pictures (PIL's, or uint8 [H, W, 3]); one or several.
            steps: fine-tuning steps; 0: feed-forward.
            watch: called after every step with its `finetune.Progress` and an empty array of driving points.

        Raises:
            InputError: a file is missing, no face is found, or the pictures show different people; the message names
                the picture.
        """
        if not (given := listed(images)):
            raise ValueError("no picture to learn from: give a picture, several, a folder of pictures, or a video")
        learner, points = self.learner(steps, watch=watch), np.zeros((0, 68, 2))
        portraits = self.pipeline.find_portraits(given)
        with self.pipeline.in_precision():
            torch.manual_seed(self.options.settings.seed)
            reenactor = learner.meet(portraits, points, self.pipeline.device, self.pipeline.progress)
        assert isinstance(reenactor, PersonReenactor)
        return Person(reenactor, self.image_size, portraits, self.about(steps, portraits), self.options)

    @mendable()
    def animate(
        self, images: Sources, driving: str | Path | int, output: str | Path, steps: int = 0, *,
        look: Look | None = None, save: str | Path | None = None,
        watch: Callable[[Any, Any], None] = lambda state, driving: None,
    ) -> AnimationResult:  # fmt: skip
        """`learn` and `Person.animate` in one call: the driving video is checked before minutes go into fine-tuning.

        Args:
            images: as for `learn`.
            driving: a video, or the number of a camera.
            output: an .mp4; the contact sheet is written beside it.
            steps: fine-tuning steps; 0: feed-forward.
            look: what the video shows.
            save: file in which the person is saved as well.
            watch: called after every step with its `finetune.Progress` and the landmarks that will move the person.

        Raises:
            InputError: as `learn` and `Person.animate`; then no file is left behind.
        """

        def keep(person: PersonReenactor, portraits: Sequence[Portrait]) -> None:
            if save:
                person.save(save, self.about(steps, portraits))
                self.pipeline.progress.tell(f"the person: {files_of_person(save)[0]}")

        given, driver, target, shown = listed(images), as_driving(driving), check_output(output), look or Look()
        check_targets(paths_of([*given, driver]), target, shown.sheet > 0, save)
        return self.pipeline(given, driver, self.learner(steps, keep, watch), shown, target)

    def learner(
        self, steps: int, keep: Any = lambda person, portraits: None, watch: Any = lambda *_: None
    ) -> NewPerson:
        """What the pipeline needs to learn a person in so many steps."""
        return NewPerson("ft" if steps else "ff", self.method(steps), self.image_size, keep, watch)

    def about(self, steps: int, portraits: Sequence[Portrait]) -> dict[str, Any]:
        """The description that goes into a person file."""
        crop = {name: float(value) for name, value in self.pipeline.framing._asdict().items()}
        return self.checkpoint.about(steps, len(portraits), points_of(portraits[0], self.image_size), crop)


@final
class Person:
    """A learned person: G', and the portraits it was learned from."""

    def __init__(
        self, reenactor: PersonReenactor, image_size: int, portraits: Sequence[Portrait], about: Mapping[str, Any],
        options: Options,
    ) -> None:  # fmt: skip
        self.reenactor, self.image_size, self.portraits = reenactor, image_size, list(portraits)
        self.about, self.options = dict(about), options
        points = self.about.get("source_points")
        self._known = KnownPerson(reenactor, image_size, None if points is None else np.array(points, float))
        self.pipeline = options.pipeline(self.about.get("crop"))

    @classmethod
    def load(cls, path: Path, options: Options) -> "Person":
        """Read a person file, which also says how the face was cropped."""
        generator, about = load_person(path)
        reenactor = PersonReenactor(generator.to(find_device(options.device)))
        return cls(reenactor, about["preset"]["image_size"], [], about, options)

    @mendable()
    def animate(
        self, driving: str | Path | int, output: str | Path, *, look: Look | None = None, images: Sources = ()
    ) -> AnimationResult:
        """Write a video of the person moving as the driver does; the file states that it was generated.

        Args:
            driving: a video, or the number of a camera.
            output: an .mp4; the contact sheet is written beside it.
            look: what the video shows; `paste` needs a portrait, so for a person from a file it needs `images`.
            images: portraits to use in place of those that the person was learned from, for place and background.

        Returns:
            The paths of the video and of the contact sheet.

        Raises:
            InputError: a file is missing, no face is found in the driver, or `output` would overwrite what is read or
                what this project has not made, for example; then no file is left behind.
        """
        driver, target, shown = as_driving(driving), check_output(output), look or Look()
        check_targets(paths_of([*listed(images), driver]), target, shown.sheet > 0)
        return self.pipeline.animate(self._shown(images), driver, self._known, shown, target)

    def frames(self, driving: str | Path | int) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
        """The generated pictures, one for each driving frame, `image_size` pixels square; nothing is written.

        They carry no statement of origin: say it yourself wherever you show them.

        Raises:
            InputError: at once if the driver is missing; with the first frame if it shows no face.
        """
        with mendable():
            return self._frames(as_driving(driving))

    def _frames(self, driving: Path | int) -> Iterator[UInt8[np.ndarray, "S S 3"]]:
        with mendable():
            yield from self.pipeline.frames(self.portraits, driving, self._known)

    @mendable()
    def save(self, path: str | Path) -> Path:
        """Write the person, `<path>.safetensors` and `<path>.json`, for `load`; returns the former.

        Raises:
            InputError: the file cannot be written, or is there and is no person's.
        """
        check_person(path)
        self.reenactor.save(path, {key: value for key, value in self.about.items() if key != "preset"})
        return files_of_person(path)[0]

    def _shown(self, images: Sources) -> list[Portrait]:
        given = listed(images)
        return self.pipeline.find_portraits(given) if given else self.portraits


class Silent:
    """A `Reporter` that discards everything."""

    def tell(self, text: str) -> None: ...

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Counter]:
        """A context whose counter does nothing."""
        return nullcontext(_Uncounted())


class _Uncounted:
    def __call__(self) -> None: ...

    def of(self, total: int) -> "_Uncounted":
        return self


def listed(images: Sources) -> list[Path | np.ndarray]:
    """One source or several, as a list."""
    one = isinstance(images, str | np.ndarray) or not isinstance(images, Iterable)
    return [as_source(image) for image in cast(Iterable[Any], [images] if one else images)]


def as_source(one: Any) -> Path | np.ndarray:
    """A name, or a picture in memory. Raises InputError for anything else."""
    if isinstance(one, Image):
        return np.asarray(one.convert("RGB"))
    if not isinstance(one, str | Path | np.ndarray):
        kind = type(one).__name__
        raise InputError(f"images: a name, a PIL picture or an array uint8 [H, W, 3] is wanted, not {kind}")
    return Path(one) if isinstance(one, str) else one


def paths_of(given: Sequence[Any]) -> list[Path]:
    """Those that are files or folders, and neither pictures in memory nor cameras."""
    return [one for one in given if isinstance(one, Path)]


def as_driving(driving: str | Path | int) -> Path | int:
    """A video that is there, or the number of a camera. Raises InputError for anything else."""
    if isinstance(driving, int) and not isinstance(driving, bool):
        return driving
    if not isinstance(driving, str | Path):
        raise InputError(f"driving: the name of a video, or a camera's number, is wanted, not {type(driving).__name__}")
    return check_file("driving", driving)
