"""Tuning: conversations, preferences and what else a model is taught after pretraining, by the one training loop."""
