"""Curves, pictures and settings of a run in TensorBoard, Weights & Biases and trackio, beside metrics.jsonl."""
