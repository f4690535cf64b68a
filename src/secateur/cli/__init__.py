"""The command line: one file for each verb, with its flags, its call and the text that people read."""

from secateur.cli.main import command

__all__ = ["command"]
