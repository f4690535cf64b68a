"""Entry point of ``python -m secateur``."""

import sys

from secateur.cli import command

sys.exit(command())
