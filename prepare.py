"""Prepare videos for training: python prepare.py source=voxceleb2 source.root=DIR output=DIR [detector=dlib]."""

from talkinghead.cli.launch import launch

if __name__ == "__main__":
    launch("prepare")
