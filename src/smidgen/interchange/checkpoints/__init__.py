"""Checkpoints of other trainers: `.pt` files, opened without running any code that they may hold."""
