"""LightningModules: one training stage per file."""
