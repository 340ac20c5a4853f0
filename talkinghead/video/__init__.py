"""Video files: reading them as players show them, and writing them."""
