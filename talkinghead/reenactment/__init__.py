"""A portrait that moves: landmark adaptation, portrait crop and paste-back, the video pipeline."""
