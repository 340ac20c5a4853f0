"""The studio: its pages in one Gradio app that contacts no other server and deletes uploads and results."""

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from talkinghead.studio import view
from talkinghead.studio.animate_page import Examples, build_animate
from talkinghead.studio.animator import Animator
from talkinghead.studio.guard import Guard
from talkinghead.studio.job_queue import JobQueue
from talkinghead.study.page import build_study
from talkinghead.study.study import Study

CSS = (
    view.STYLE
    + """
footer { display: none !important; }
main.contain, .gradio-container { max-width: 1400px !important; margin: 0 auto; }
.heading p { color: var(--body-text-color-subdued); }
.heading strong { color: var(--body-text-color); margin-right: 0.5rem; }
#portraits .thumbnail-item { aspect-ratio: 1; }
#example-portraits { border: none !important; background: none; min-height: 0; }
#example-portraits .grid-wrap { padding: 0; }
#example-portraits .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 0.5rem; }
#example-portraits .caption-label { display: none; }
#example-portraits .thumbnail-item { cursor: pointer; aspect-ratio: 1; }
#driver [aria-label^=Trim], #driver [aria-label^=Reset] { display: none; }
#portraits [data-testid=block-label] { display: none; }
#panel .html-container { padding: 0 !important; }
[data-testid=status-tracker] { display: none !important; }
#consent { font-size: 0.85rem; opacity: 0.85; }
#result video { max-height: 480px; }
"""
)


def build_app(
    animator: Animator, queue: JobQueue, examples: Examples, about_model: str, folder: Path, *,
    keep: float | int = 3600, study: Study | None = None,
) -> gr.Blocks:  # fmt: skip
    """Build the Gradio app with the page "Animate" and, if there is a study, the page of the study.

    Args:
        animator: makes the videos
        queue: assigns turns to visitors
        examples: portraits and drivers to try
        about_model: Markdown about the model, shown at the top
        folder: for uploads and results
        keep: seconds after which uploads and results are deleted
        study: a user study, shown at /study; None: no such page
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio asks for it when components are made
    every = max(1, round(keep / 6))
    app = gr.Blocks(
        title="talkinghead studio", analytics_enabled=False, delete_cache=(every, max(1, round(keep))),
    )  # fmt: skip
    with app:
        if study is not None:
            gr.Navbar(main_page_name="Animate")
        build_animate(app, animator, queue, examples, about_model)
    if study is not None:
        with app.route("User study", "/study") as page:
            build_study(page, study)
    app.queue(max_size=20, api_open=False)
    return app


def launch(
    app: gr.Blocks, host: str, port: int | None, megabytes: float | int, names: Sequence[str] = (), **more: Any
) -> str:
    """Serve the app; returns its URL. Raises OSError if the port is in use."""
    plain = ["ui-sans-serif", "system-ui", "sans-serif"]  # fonts of the visitor's system: none is fetched
    theme = gr.themes.Default(primary_hue="orange", font=plain, font_mono=["ui-monospace", "monospace"])
    if port is not None and not is_free(host, port):
        raise OSError(f"port={port} is taken: choose another, or port=null for the first that is free")
    for name in ("NO_PROXY", "no_proxy"):  # Gradio requests its own page to see whether it is up; not through a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), host, "localhost", "127.0.0.1"]))
    guard = Middleware(Guard, host=host, functions=app.fns.keys, names=names)
    _, url, _ = app.launch(
        app_kwargs={"middleware": [guard]},
        server_name=host, server_port=port, share=False, max_file_size=round(megabytes * 1e6), theme=theme, css=CSS,
        footer_links=[], ssr_mode=False, quiet=True, show_error=False, run_history=False, mcp_server=False,
        enable_monitoring=False, **more,
    )  # fmt: skip
    return url


def is_free(host: str, port: int) -> bool:
    """Whether this address and port can be bound."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError:
            return False
    return True
