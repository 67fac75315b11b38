"""pocket-image: its world, its recipe and its judge."""
