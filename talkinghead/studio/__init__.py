"""Pages in the browser: a portrait to life, and the user study."""
