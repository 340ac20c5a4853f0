"""Commands that make files which ship with the package."""
