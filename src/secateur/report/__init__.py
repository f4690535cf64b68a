"""The report: one self-contained page, made from a run's records alone."""

from secateur.report.write import write_report

__all__ = ["write_report"]
