"""Faces in pictures: detectors, tracking, crops, landmark images."""
