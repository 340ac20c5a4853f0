"""From rows of results to tables, intervals and plots."""
