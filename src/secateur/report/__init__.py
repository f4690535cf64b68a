"""Report of a run or a sweep: a self-contained HTML page that is made from the records alone."""

from secateur.report.write import write_report, write_sweep

__all__ = ["write_report", "write_sweep"]
