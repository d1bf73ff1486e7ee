"""Conversations: what sources hold them in, how they become tokens, and which of these the assistant said."""
