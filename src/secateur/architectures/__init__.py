"""Tables of axes, one file for each group of Hugging Face architectures."""
