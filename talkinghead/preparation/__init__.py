"""Raw video to shards: sources, face detectors, and the runner."""
