"""Other programs' formats, in and out: Hugging Face folders, GGUF, and checkpoints of other trainers."""
