"""Pages in the browser: a portrait to life, and the user study."""

import os

# Gradio and what it brings tell nobody that they are used. They read this when they are imported.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
