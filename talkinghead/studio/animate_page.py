"""The page "Animate": portraits and a driver in, previews on the way, a video out."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, no_type_check

import av
import gradio as gr

from talkinghead.reenactment.animation import Look
from talkinghead.studio.animator import AnimateRequest, Animator, Video
from talkinghead.studio.job import Stopped
from talkinghead.studio.job_queue import JobQueue
from talkinghead.studio.messages import UNEXPECTED, explain, translate
from talkinghead.studio.uploads import Refused, check_picture, check_video, playable, write_preview
from talkinghead.studio.view import draw_message, draw_state

OWN = "my own"
PREVIEW = "preview_"  # begins the names of such copies
STOPPED = "Stopped. Nothing was kept."
WAITING = "Waiting for the one before you …"
QUICK: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
CONSENT = (
    "Animate your own face, a face whose owner has agreed, or a work of art. Do not let people appear to do or say "
    "what they did not. Every result says, in a way machines can read, that it was generated."
)


@dataclass(frozen=True)
class Examples:
    """The portraits and drivers that the page offers to try, by name."""

    portraits: dict[str, Path]
    drivers: dict[str, Path]


class AnimatePage:
    """What the page's buttons do, without Gradio's components, so that it can be tested without a browser.

    `run` and `stop` return updates of the outputs: panel, video, contact sheet, a download of each, and two buttons.
    """

    def __init__(self, animator: Animator, queue: JobQueue, examples: Examples) -> None:
        self.animator, self.queue, self.examples = animator, queue, examples

    def enter(self, visitor: str) -> str:
        """Put the visitor into the queue, and return the turn to wait for; an earlier turn is given up."""
        return self.queue.enter(visitor)

    def run(self, turn: str, asked: AnimateRequest) -> Iterator[tuple[Any, ...]]:
        """Run the job of this turn, and yield its progress and result; yields nothing if the turn was given up."""
        names: dict[Path, str] = {}
        job = self.queue.begin(turn, lambda reports, folder: self.animator(asked, names, reports, folder))
        try:
            for state in job.states() if job else ():
                notes = [told for note in state.notes if (told := translate(note, names))]
                if not state.over:
                    yield answer(draw_state(state, notes), busy=True)
                elif state.error is None:
                    yield answer(draw_state(state, notes), state.result)
                elif isinstance(state.error, Stopped):
                    yield answer(draw_message(STOPPED))
                else:
                    yield answer(draw_message(explain(state.error, names), wrong=True))
        finally:
            self.queue.end(turn)

    def stop(self, visitor: str) -> tuple[Any, ...]:
        """Stop the visitor's job, whether it runs or waits."""
        self.queue.stop(visitor)
        return answer(draw_message(STOPPED))

    def look_at_portraits(self, given: Sequence[Path]) -> tuple[str, list[str]]:
        """Check new portraits: the message if one is unusable, and the files without the example shown before."""
        names = {path.name for path in self.examples.portraits.values()}
        own = [path for path in given if path.name not in names] or given
        return self._look_at(own, check_picture), [str(path) for path in own]

    def look_at_driver(self, given: Path) -> tuple[str, Path | None]:
        """Check a new driver: the message if it is unusable, and a copy to show where browsers cannot play the file."""
        told = self._look_at([given], check_video)
        preview = given.with_name(f"{PREVIEW}{secrets.token_hex(8)}.mp4")
        try:
            return told, None if told != draw_message("") or playable(given) else write_preview(given, preview)
        except (av.FFmpegError, OSError, ValueError):  # what is wrong with it is told when it is used
            return told, None

    def take_driver(self, given: str) -> tuple[Any, ...]:
        """Handle an upload: the message, the choice "my own", the video to show, and {copy: original}."""
        told, preview = self.look_at_driver(Path(given))
        return told, OWN, str(preview or given), {} if preview is None else {preview.name: given}

    def _look_at(self, given: Sequence[Path], check: Callable[..., str]) -> str:
        try:
            for path in given:
                check(path, self.animator.limits)
        except Refused as error:
            return draw_message(str(error), wrong=True)
        return draw_message("")


def answer(panel: str, result: Video | None = None, *, busy: bool = False) -> tuple[Any, ...]:
    """Updates of the page's outputs for a panel and, when the job is done, its result."""
    video, sheet = (None, None) if result is None else (str(result.video), str(result.sheet) if result.sheet else None)
    return (
        panel, gr.Video(video, visible=video is not None), gr.Image(sheet, visible=sheet is not None),
        gr.DownloadButton(value=video, visible=video is not None),
        gr.DownloadButton(value=sheet, visible=sheet is not None),
        gr.Button(interactive=not busy), gr.Button(interactive=busy),
    )  # fmt: skip


def build_animate(page: gr.Blocks, animator: Animator, queue: JobQueue, examples: Examples, about_model: str) -> None:
    """Build the page's components; call it inside `with page:`."""
    gr.Markdown(f"# Bring a portrait to life\n{about_model}", elem_id="intro")
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=420):
            with gr.Row(equal_height=False):
                portraits = build_portraits(examples)
                driver, chosen = build_drivers(animator, examples)
            options = build_options(animator)
            with gr.Row():
                go = gr.Button("Animate", variant="primary", elem_id="go", scale=3)
                stop = gr.Button("Stop", variant="stop", elem_id="stop", interactive=False, scale=1)
            gr.Markdown(CONSENT, elem_id="consent")
        with gr.Column(scale=5, min_width=420):
            outputs = [*build_results(), go, stop]
    connect(page, AnimatePage(animator, queue, examples), [portraits, driver, *options], outputs, chosen)


def build_portraits(examples: Examples) -> gr.Gallery:
    """Build the gallery for portraits, and the examples below it."""
    paths = [str(path) for path in examples.portraits.values()]
    with gr.Column(min_width=220):
        gr.Markdown("**Portraits** one, or several of the same person", elem_classes="heading")
        portraits = gr.Gallery(
            label="Portraits", file_types=["image"], columns=2, height=240, fit_columns=False, interactive=True,
            elem_id="portraits", buttons=[], allow_preview=False, show_label=False,
        )  # fmt: skip
        faces = gr.Gallery(
            list(zip(paths, examples.portraits, strict=True)), label="Examples", columns=4, height=104,
            allow_preview=False, interactive=False, elem_id="example-portraits", buttons=[], show_label=False,
            visible=bool(paths),
        )  # fmt: skip

    def choose(event: gr.SelectData) -> list[str]:
        return [paths[int(event.index)]]

    faces.select(choose, None, portraits, **QUICK)
    return portraits


def build_drivers(animator: Animator, examples: Examples) -> tuple[gr.Video, gr.Radio]:
    """Build the video component for the driver, and the choice of examples below it."""
    names = list(examples.drivers)
    with gr.Column(min_width=220):
        gr.Markdown(f"**Driver** a video of a face, up to {animator.limits.seconds:g} s", elem_classes="heading")
        driver = gr.Video(
            str(examples.drivers[names[0]]) if names else None, sources=["upload"], height=240, elem_id="driver",
            label="Driver", buttons=[], include_audio=True, show_label=False,
        )  # fmt: skip
        chosen = gr.Radio(
            [*names, OWN],
            value=names[0] if names else OWN,
            show_label=False,
            elem_id="example-drivers",
            container=False,
        )
    chosen.input(lambda name: str(examples.drivers[name]) if name in names else None, chosen, driver, **QUICK)
    return driver, chosen


def build_options(animator: Animator) -> list[Any]:
    """Build the controls: fine-tuning steps, kind of adaptation, contents of the video."""
    steps = gr.Slider(
        0, animator.limits.steps, value=min(animator.steps, animator.limits.steps), step=1, label="Steps of learning",
        elem_id="steps", info="0: at once, from a first impression of the person. More: slower, and more alike",
    )  # fmt: skip
    with gr.Row():
        adapt = gr.Radio(
            [("motion", "relative"), ("motion and pose", "absolute"), ("motion, pose and face shape", "raw")],
            value="relative", label="The driver gives …", elem_id="adapt",
        )  # fmt: skip
        shown = gr.CheckboxGroup(
            [("side by side", "side_by_side"), ("whole picture", "paste"), ("visible mark", "mark")],
            value=["side_by_side"], label="The video shows …", elem_id="shown",
        )  # fmt: skip
    return [steps, adapt, shown]


def build_results() -> list[Any]:
    """Build the outputs: panel, video, contact sheet, and a download button for each file."""
    panel = gr.HTML(draw_message("Drop a portrait or click an example, then press **Animate**."), elem_id="panel")
    video = gr.Video(
        label="Result",
        visible=False,
        show_label=False,
        autoplay=True,
        loop=True,
        interactive=False,
        elem_id="result",
        buttons=[],
    )
    sheet = gr.Image(
        label="Contact sheet",
        visible=False,
        show_label=False,
        interactive=False,
        elem_id="sheet",
        buttons=["fullscreen"],
    )
    with gr.Row():
        video_file = gr.DownloadButton("Download video", visible=False, elem_id="video-file")
        sheet_file = gr.DownloadButton("Download sheet", visible=False, elem_id="sheet-file")
    return [panel, video, sheet, video_file, sheet_file]


def connect(page: gr.Blocks, behind: AnimatePage, inputs: list[Any], outputs: list[Any], chosen: gr.Radio) -> None:
    """Connect the page's events to their handlers."""
    portraits, driver, *_ = inputs
    go, stop = outputs[-2:]

    turn, originals = gr.State(""), gr.State({})

    def wait(request: gr.Request) -> tuple[Any, ...]:
        return behind.enter(str(request.session_hash)), *answer(draw_message(WAITING), busy=True)

    @no_type_check  # Gradio must see that it is a generator, which it would not through a checking wrapper
    def run(turn, originals, portraits, driver, steps, adapt, shown):
        look = Look(**dict.fromkeys(shown, True))
        asked = AnimateRequest(tuple(files_of(portraits)), original_of(driver, originals), int(steps), adapt, look)
        yield from behind.run(turn, asked)

    def end(request: gr.Request) -> tuple[Any, ...]:
        return behind.stop(str(request.session_hash))

    def leave(request: gr.Request) -> None:
        behind.queue.stop(str(request.session_hash))

    quiet = {key: value for key, value in QUICK.items() if key != "queue"}
    running = go.click(wait, None, [turn, *outputs], **QUICK).then(
        run, [turn, originals, *inputs], outputs, concurrency_limit=1, trigger_mode="multiple", **quiet
    )
    running.failure(lambda: answer(draw_message(UNEXPECTED, wrong=True)), None, outputs, **QUICK)
    stop.click(end, None, outputs, **QUICK)
    page.unload(leave)
    portraits.upload(
        lambda given: behind.look_at_portraits(files_of(given)), portraits, [outputs[0], portraits], **QUICK
    )
    driver.upload(  # one copy is made at a time, whoever uploads: it decodes the video
        behind.take_driver, driver, [outputs[0], chosen, driver, originals], concurrency_limit=1,
        concurrency_id="previews", **quiet,
    )  # fmt: skip


def original_of(shown: str | None, originals: Mapping[str, str]) -> Path | None:
    """The uploaded file behind the video that is shown, which may be a copy."""
    return Path(originals.get(Path(shown).name, shown)) if shown else None


def files_of(given: Any) -> list[Path]:
    """The files in the value of a gallery."""
    return [Path(item[0]) for item in given or []]
