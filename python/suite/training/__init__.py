"""A run: its config, its loop, its checkpoints."""
