"""Tables of axes and cuts of Hugging Face architectures, in a file per group of similar architectures."""
