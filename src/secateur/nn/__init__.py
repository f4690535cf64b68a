"""Modules of our own, where stock classes cannot express the shape: attention, norms, and the Hugging Face classes."""
