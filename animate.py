"""Animate: `python animate.py source=portrait.jpg driving=clip.mp4 checkpoint=FILE`: a portrait moved by a video."""

from talkinghead.cli.launch import launch

if __name__ == "__main__":
    launch("animate")
