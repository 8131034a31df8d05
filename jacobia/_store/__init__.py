"""Keys, and what is known of a block: arrays and numbers. Knows no derivative."""
