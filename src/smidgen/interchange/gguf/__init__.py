"""GGUF, the file format of llama.cpp: llama, gemma3, deepseek2 and bitnet, both ways."""
