"""Section on trajectories: charts of the metrics of each phase over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.records.metrics import MetricsPoint
from secateur.report.charts import Chart, ChartCurve, line_chart
from secateur.report.gates import UNIT_KIND_LABELS
from secateur.report.task_scores import Score

#: Metrics in the chart of losses, and the label of each curve.
_LOSS_LABELS = {
    "loss": "total",
    "distill": "hidden states",
    "distillation": "distillation",
    "logits": "logits",
    "task": "task",
}


@dataclass(frozen=True, kw_only=True)
class PhaseTrajectory:
    """Charts of a phase: main charts, and further charts of all remaining metrics."""

    phase: str
    charts: tuple[Chart, ...]
    other_charts: tuple[Chart, ...]


def build_trajectories(points: Sequence[MetricsPoint], scores: Sequence[Score] = ()) -> list[PhaseTrajectory]:
    """Build the charts of each phase, in the order of the metrics file; `scores` are the scores of the task."""
    phases = dict.fromkeys(point.phase for point in points)
    phase_charts = [
        _phase_trajectory(phase, [point for point in points if point.phase == phase], scores) for phase in phases
    ]
    return [trajectory for trajectory in phase_charts if trajectory.charts or trajectory.other_charts]


def _phase_trajectory(phase: str, points: Sequence[MetricsPoint], scores: Sequence[Score]) -> PhaseTrajectory:
    # Metric name -> points (step, value): {"kept/macs": [(0, 1.0), (100, 0.97)]}
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        for name, value in point.values.items():
            series.setdefault(name, []).append((float(point.step), value))
    drawer = _ChartBuilder(phase=phase, series=series)
    charts = [
        drawer.losses_chart(),
        drawer.scores_chart(scores),
        drawer.kept_share_chart(),
        drawer.multipliers_chart(),
        drawer.group_chart("open/", "Open share by kind", is_percent=True),
        drawer.single_chart("undecided", "Undecided share of the gates", is_percent=True),
        drawer.single_chart("validation/cosine", "Cosine to the teacher, held out", style="dots"),
    ]
    # Series that no main chart removed, by the part before the slash: "norm/weights" is in "norm".
    groups = dict.fromkeys(name.partition("/")[0] for name in series)
    other_charts = [drawer.remaining_chart(group) for group in groups]
    return PhaseTrajectory(
        phase=phase,
        charts=tuple(chart for chart in charts if chart),
        other_charts=tuple(chart for chart in other_charts if chart),
    )


@dataclass(frozen=True, kw_only=True)
class _ChartBuilder:
    """Builder that removes the series of each main chart from `series`; the rest goes into further charts."""

    phase: str
    series: dict[str, list[tuple[float, float]]]

    def losses_chart(self) -> Chart | None:
        """Draw the training losses as lines and the held-out loss as dots."""
        curves: list[ChartCurve] = []
        if any(self.series.get(name) == self.series.get("loss") for name in _LOSS_LABELS if name != "loss"):
            self.series.pop("loss", None)  # the only part of the loss equals the total: draw a single line
        for name, label in _LOSS_LABELS.items():
            if points := self.series.pop(name, None):
                curves.append(ChartCurve(name=label, points=tuple(points), color=len(curves)))
        if points := self.series.pop("validation/loss", None):
            curves.append(ChartCurve(name="held out", points=tuple(points), color=max(3, len(curves)), style="dots"))
        return self._chart(curves, "loss", "Loss")

    def scores_chart(self, scores: Sequence[Score]) -> Chart | None:
        """Draw the scores of the task on held-out audio."""
        curves = [
            ChartCurve(name=score.title, points=tuple(points), color=color_index, style="dots")
            for color_index, score in enumerate(scores)
            if score.is_share and (points := self.series.pop(f"validation/{score.name}", None))
        ]
        directions = dict.fromkeys(score.direction_text for score in scores if score.direction_text)
        note = f"{next(iter(directions)).capitalize()}." if len(directions) == 1 else ""
        title = curves[0].name if len(curves) == 1 else "Scores"
        return self._chart(curves, "scores", f"{title}, held out", is_percent=True, note=note)

    def kept_share_chart(self) -> Chart | None:
        """Draw the expected kept share and the target, a color per constraint."""
        names = [name.partition("/")[2] for name in self.series if name.startswith("kept/")]
        curves = []
        for color_index, name in enumerate(names):
            expected_points = tuple(self.series.pop(f"kept/{name}"))
            curves.append(ChartCurve(name=f"{name}: expected", points=expected_points, color=color_index))
            if target_points := self.series.pop(f"target/{name}", None):
                curves.append(
                    ChartCurve(name=f"{name}: target", points=tuple(target_points), color=color_index, style="dashed")
                )
        return self._chart(curves, "kept", "Kept share against target", is_percent=True)

    def group_chart(self, prefix: str, title: str, *, is_percent: bool = False) -> Chart | None:
        """Draw all series with a name prefix in a chart."""
        names = [name for name in self.series if name.startswith(prefix)]
        curves = [
            ChartCurve(
                name=UNIT_KIND_LABELS.get(kind := name.removeprefix(prefix), kind),
                points=tuple(self.series.pop(name)),
                color=color_index,
            )
            for color_index, name in enumerate(names)
        ]
        return self._chart(curves, prefix.strip("/"), title, is_percent=is_percent)

    def multipliers_chart(self) -> Chart | None:
        """Draw the two Lagrange multipliers of each constraint in the same color, the first dashed."""
        names = [name for name in self.series if name.startswith("lambda")]
        colors = {name: i for i, name in enumerate(dict.fromkeys(n.partition("/")[2] for n in names))}
        curves = []
        for name in sorted(names, key=lambda name: colors[name.partition("/")[2]]):
            multiplier, _, constraint = name.partition("/")
            # "lambda1/macs" -> "macs λ₁"
            symbol = "\u03bb" + multiplier.removeprefix("lambda").translate(str.maketrans("12", "\u2081\u2082"))
            points, style = tuple(self.series.pop(name)), "dashed" if multiplier.endswith("1") else "solid"
            curves.append(
                ChartCurve(name=f"{constraint} {symbol}", points=points, color=colors[constraint], style=style)
            )
        return self._chart(curves, "lambda", "Multipliers")

    def single_chart(self, name: str, title: str, *, is_percent: bool = False, style: str = "solid") -> Chart | None:
        """Draw a single series."""
        points = self.series.pop(name, None)
        curves = [ChartCurve(name=name, points=tuple(points), style=style)] if points else []
        return self._chart(curves, name, title, is_percent=is_percent)

    def remaining_chart(self, group: str) -> Chart | None:
        """Draw the remaining series of a group such as ``validation/…``, or the series with the name of the group."""
        names = [name for name in self.series if name.partition("/")[0] == group]
        curves = [
            ChartCurve(name=name.partition("/")[2] or name, points=tuple(self.series.pop(name)), color=color_index)
            for color_index, name in enumerate(names)
        ]
        return self._chart(curves, f"other-{group}", group.replace("_", " "))

    def _chart(
        self, curves: Sequence[ChartCurve], name: str, title: str, *, is_percent: bool = False, note: str = ""
    ) -> Chart | None:
        if not curves:
            return None
        # "learn-validation/cosine" -> "learn-validation-cosine", part of an element id
        slug = "".join(letter if letter.isalnum() else "-" for letter in f"{self.phase}-{name}")
        return line_chart(curves, name=slug, title=title, is_percent=is_percent, note=note)
