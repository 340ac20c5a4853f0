"""The studio with a job at work: python -m tests.helpers.busy_studio [options of the studio] PORTRAIT DRIVER."""

import sys
import threading
from pathlib import Path
from typing import Any

from talkinghead.cli import studio as command
from talkinghead.cli.launch import VERBS
from talkinghead.reenactment.inputs import file_arguments
from talkinghead.studio.animator import AnimateRequest, Animator
from talkinghead.studio.job_queue import JobQueue

PORTRAIT, DRIVER = map(Path, sys.argv[-2:])
sys.argv[1:] = file_arguments(sys.argv[1:-2], VERBS["studio"].files)


def work(animator: Animator, queue: JobQueue) -> None:
    """Learn for as long as it is let, and say so once it has begun."""
    asked = AnimateRequest((PORTRAIT,), DRIVER, steps=animator.limits.steps)
    job = queue.begin(queue.enter("a visitor"), lambda reports, folder: animator(asked, {}, reports, folder))
    assert job is not None
    for state in job.states():
        if state.preview is not None:
            print("the job is at work", flush=True)
            break


if __name__ == "__main__":
    made: dict[str, Any] = {}
    build, plain = command.build_animator, command.JobQueue
    command.build_animator = lambda cfg: made.setdefault("animator", build(cfg))

    class Busy(plain):
        """Begins as soon as it is there."""

        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            threading.Thread(target=work, args=(made["animator"], self), daemon=True).start()

    command.JobQueue = Busy
    command.main()
