"""One accelerator's process: it registers itself, takes attempts from the owner of its pool, and makes media with its engine."""
