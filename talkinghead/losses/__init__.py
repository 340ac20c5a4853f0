"""Loss terms, each a pure function unless it owns weights."""
