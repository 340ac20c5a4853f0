"""Pages in the browser: the page "Animate", and the user study."""

import os

# Turn off the telemetry of Gradio and its dependencies, which read these variables when they are imported.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
