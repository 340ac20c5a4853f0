"""Commands that make the files which ship with the package."""
