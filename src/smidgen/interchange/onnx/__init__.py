"""Models as ONNX graphs, in the folders that transformers.js and onnxruntime-genai read."""
