"""The command line: a file for each verb, with flags, call and printed text."""

from secateur.cli.main import command

__all__ = ["command"]
