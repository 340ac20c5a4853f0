"""How a method is judged: the protocol, its tasks, what is kept of it."""
