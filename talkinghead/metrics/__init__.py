"""Image metrics per shot count."""
