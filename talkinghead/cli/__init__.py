"""What the commands at the root share: help, the check of options before any work, what a run says when it ends."""
