"""The scheduler's nouns: `generation` is what a caller asked for and what became of it, `fleet` is who may run it."""
