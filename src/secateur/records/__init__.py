"""Records of all commands: dataclasses that are written to JSON, read back and printed; without torch."""
