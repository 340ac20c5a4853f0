"""The studio: `python -m talkinghead.studio [checkpoint=FILE] [port=7860] [host=127.0.0.1]`, pages in the browser."""

from talkinghead.cli.launch import launch

if __name__ == "__main__":
    launch("studio", "python -m talkinghead.studio")
