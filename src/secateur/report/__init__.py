"""The report: one self-contained page, made from the records of a run or a sweep alone."""

from secateur.report.write import write_report, write_sweep

__all__ = ["write_report", "write_sweep"]
