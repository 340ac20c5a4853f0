"""Lightning callbacks: previews, averaged weights, collapse guard."""
