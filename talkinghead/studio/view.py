"""HTML of the panel that shows a running job: phases with their time left, a preview, messages."""

import base64
import time
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from jaxtyping import UInt8

from talkinghead.provenance import OriginStatement, marked
from talkinghead.studio.job import Phase, State

TITLES = {
    "looking at the source": "Looking at the portrait",
    "following the driver": "Following the driver",
    "learning the person": "Learning the person",
    "drawing": "Drawing the video",
}

STYLE = """
.panel { border: 1px solid var(--border-color-primary); border-radius: var(--radius-lg); padding: 1rem 1.2rem;
  background: var(--background-fill-secondary); font-size: 1rem; line-height: 1.5; }
.panel p { margin: 0.2rem 0; }
.panel.wrong { border-color: #dc2626; border-left-width: 6px; }
.panel .row { display: grid; grid-template-columns: 1.6rem 1fr auto; align-items: baseline; padding: 0.15rem 0; }
.panel .row.todo { opacity: 0.45; }
.panel .row .time { font-variant-numeric: tabular-nums; opacity: 0.8; }
.panel .bar { height: 0.45rem; border-radius: 0.3rem; background: var(--border-color-primary); overflow: hidden;
  margin: 0.1rem 0 0.5rem 1.6rem; }
.panel .bar div { height: 100%; background: #f97316; transition: width 0.3s; }
.panel .bar.endless div { width: 30%; animation: wander 1.4s infinite alternate ease-in-out; }
@keyframes wander { from { margin-left: 0; } to { margin-left: 70%; } }
.panel img { width: 100%; border-radius: var(--radius-md); margin-top: 0.6rem; }
.panel .note { opacity: 0.8; font-size: 0.9rem; margin-top: 0.5rem; }
"""


def draw_message(text: str, *, wrong: bool = False) -> str:
    """A panel with one message, in which `**bold**` is allowed; nothing for an empty message."""
    if not text:
        return ""
    parts = escape(text).split("**")
    words = "".join(f"<b>{part}</b>" if n % 2 else part for n, part in enumerate(parts))
    role = "alert" if wrong else "status"
    return f'<div class="panel{" wrong" if wrong else ""}" role="{role}"><p>{words}</p></div>'


def draw_state(state: State, notes: Sequence[str]) -> str:
    """The panel of a running job: a row per phase, the preview, and the notes."""
    now = time.monotonic()
    begun = [phase.name for phase in state.phases]
    rows = [draw_phase(phase, now, state.over) for phase in state.phases]
    rows += [draw_row("todo", "○", title, "") for name, title in TITLES.items() if name not in begun and not state.over]
    parts = ['<div class="panel" role="status" aria-live="polite">', *rows]
    if state.preview is not None and not state.over:
        parts.append(f'<img alt="Preview: the person so far, as the driver" src="{picture_url(state.preview)}">')
    parts += [f'<p class="note">{escape(note)}</p>' for note in notes]
    return "".join([*parts, "</div>"])


def draw_phase(phase: Phase, now: float, over: bool) -> str:
    """The row of a phase, with a progress bar below it while the phase runs."""
    title = TITLES.get(phase.name, phase.name.capitalize())
    if phase.end is not None or over:
        return draw_row("done", "✓", title, f"{(phase.end or now) - phase.start:.1f} s")
    left = phase.left(now)
    numbers = f"{phase.done} of {phase.total}" if phase.total else ""
    time_left = "" if left is None else f", about {max(1, round(left))} s left"
    row = draw_row("now", "▸", title, numbers + time_left)
    if not phase.total:
        return row + '<div class="bar endless"><div></div></div>'
    percent = 100 * phase.done / phase.total
    return (
        f'{row}<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:.0f}" '
        f'aria-label="{escape(title)}"><div style="width: {percent:.1f}%"></div></div>'
    )


def draw_row(kind: str, mark: str, title: str, right: str) -> str:
    """A row: mark, title, and the text at the right."""
    return (
        f'<div class="row {kind}"><span aria-hidden="true">{mark}</span><span>{escape(title)}</span>'
        f'<span class="time">{escape(right)}</span></div>'
    )


def picture_url(picture: UInt8[np.ndarray, "H W 3"]) -> str:
    """The picture as a data URL, so that no file is written; the JPEG states that it was generated."""
    _, content = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 90])
    return "data:image/jpeg;base64," + base64.b64encode(marked(content.tobytes(), OriginStatement())).decode()
