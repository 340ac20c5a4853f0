"""A folder of videos as a data set that is prepared on first use."""

from pathlib import Path

from talkinghead.faces.detectors import Detector
from talkinghead.preparation.clip import Settings
from talkinghead.preparation.runner import Runner
from talkinghead.preparation.sources import Source


class PreparedVideos:
    """The `build` of a data module: prepares a source into the path it is called with.

    Args:
        workers: as of `Runner`
    """

    def __init__(self, source: Source, detector: Detector, settings: Settings, workers: int | None = None) -> None:
        self.source, self.detector, self.settings, self.workers = source, detector, settings, workers

    def __call__(self, path: Path) -> None:
        """Raises ValueError if no clip could be kept; after an interruption, the next call continues."""
        Runner(self.source, self.detector, self.settings, str(path), self.workers).run()
