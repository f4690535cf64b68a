"""Writing of the pages: an HTML file per record, without references to further files."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import jinja2
from markupsafe import Markup

from secateur.errors import SecateurError
from secateur.records.bench_record import BenchRecord
from secateur.records.metrics import read_metrics
from secateur.records.run import RunRecord
from secateur.records.sweep_record import SweepRecord
from secateur.report.sweep_view import SweepView, build_sweep_view
from secateur.report.view import ReportView, build_view

#: File names in a run folder.
RECORD, METRICS, BENCH, REPORT = "record.json", "metrics.jsonl", "bench.json", "report.html"
#: File name of the record in the folder of a sweep.
SWEEP = "sweep.json"


def write_report(run: Path, out: Path | None = None) -> Path:
    """Write the report of a run from the record, the metrics and the benchmark; the last two are optional.

    Args:
        run: Run folder, or path of a record.
        out: Path of the page; by default ``report.html`` beside the record.

    Returns:
        Path of the page.

    Raises:
        SecateurError: There is no record, a file is not valid, or the page cannot be written.
    """
    run = Path(run)
    path = run if run.suffix == ".json" else run / RECORD
    bench_path = path.parent / BENCH
    bench = BenchRecord.read(bench_path) if bench_path.is_file() else None
    view = build_view(RunRecord.read(path), read_metrics(path.parent / METRICS), bench)
    return write_page(render_page(view), Path(out) if out is not None else path.parent / REPORT)


def write_sweep(folder: Path) -> Path:
    """Write the page of a sweep (``sweep.html``), with links to the reports of the runs.

    Args:
        folder: Folder with the record (``sweep.json``).

    Returns:
        Path of the page.

    Raises:
        SecateurError: There is no record, the record is not valid, or the page cannot be written.
    """
    folder = Path(folder)
    page = render_page(build_sweep_view(SweepRecord.read(folder / SWEEP)), "sweep.html")
    return write_page(page, folder / "sweep.html")


def write_page(page: str, out: Path) -> Path:
    """Write a page atomically, so that a reader never finds a part of a page.

    Raises:
        SecateurError: The page cannot be written to `out`.
    """
    # Same folder, so that `os.replace` stays on the file system and is atomic.
    temporary = out.with_name(f".{out.name}.partial")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SecateurError(
            f"{out}: the report could not be written ({error.strerror or error}); choose another path."
        ) from error
    return out


def render_page(page: ReportView | SweepView, template: str = "report.html") -> str:
    """Render a page as HTML; the templates and the functions for images escape all text."""
    # A file of this package without a closing tag, so that it is safe to insert unescaped.
    style = Markup(_read_resource("report.css"))
    return _templates().get_template(template).render(view=page, style=style)


@cache
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read_resource(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
