"""How a method is judged: the few-shot protocol, its tasks, outputs and result rows."""
