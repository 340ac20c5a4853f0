"""The user study: made from an evaluation, sat in the browser, counted."""
