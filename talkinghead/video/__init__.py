"""Reading video files as players show them, and writing them."""
