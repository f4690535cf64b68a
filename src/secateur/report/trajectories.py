"""Trajectories: what metrics.jsonl says, one chart per group of figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.report.charts import Chart, Curve, curves
from secateur.report.gates import KINDS
from secateur.report.record import Point
from secateur.report.scores import Score

#: Figures that belong into one chart of losses, and what each is called there.
_LOSSES = {
    "loss": "total",
    "distill": "hidden states",
    "distillation": "distillation",
    "logits": "logits",
    "task": "task",
}


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """The charts of one phase: those with a place of their own, and the rest."""

    phase: str
    charts: tuple[Chart, ...]
    others: tuple[Chart, ...]


def trajectories(points: Sequence[Point], scores: Sequence[Score] = ()) -> list[Trajectory]:
    """One for each phase, in the order in which the metrics name them; `scores` are those of the task."""
    phases = dict.fromkeys(point.phase for point in points)
    found = [_phase(phase, [point for point in points if point.phase == phase], scores) for phase in phases]
    return [trajectory for trajectory in found if trajectory.charts or trajectory.others]


def _phase(phase: str, points: Sequence[Point], scores: Sequence[Score]) -> Trajectory:
    series: dict[str, list[tuple[float, float]]] = {}
    for point in points:
        for name, value in point.values.items():
            series.setdefault(name, []).append((float(point.step), value))
    draw = _Drawer(phase=phase, series=series)
    charts = [
        draw.losses(),
        draw.scores(scores),
        draw.kept(),
        draw.multipliers(),
        draw.group("open/", "Open share by kind", percent=True),
        draw.only("undecided", "Undecided share of the gates", percent=True),
        draw.only("validation/cosine", "Cosine to the teacher, held out", style="dots"),
    ]
    groups = dict.fromkeys(name.partition("/")[0] for name in series)
    others = [draw.rest(group) for group in groups]
    return Trajectory(
        phase=phase,
        charts=tuple(chart for chart in charts if chart),
        others=tuple(chart for chart in others if chart),
    )


@dataclass(frozen=True, kw_only=True)
class _Drawer:
    """Takes series out of the phase's figures, chart by chart, until what is left has no place of its own."""

    phase: str
    series: dict[str, list[tuple[float, float]]]

    def losses(self) -> Chart | None:
        """Losses while training, and on the held-out set as dots."""
        found: list[Curve] = []
        if any(self.series.get(name) == self.series.get("loss") for name in _LOSSES if name != "loss"):
            self.series.pop("loss", None)  # a part that is all there is: one line, not two on top of each other
        for name, words in _LOSSES.items():
            if points := self.series.pop(name, None):
                found.append(Curve(name=words, points=tuple(points), colour=len(found)))
        if points := self.series.pop("validation/loss", None):
            found.append(Curve(name="held out", points=tuple(points), colour=max(3, len(found)), style="dots"))
        return self._chart(found, "loss", "Loss")

    def scores(self, scores: Sequence[Score]) -> Chart | None:
        """What the task is judged by, on the held-out set."""
        found = [
            Curve(name=score.title, points=tuple(points), colour=colour, style="dots")
            for colour, score in enumerate(scores)
            if score.is_share and (points := self.series.pop(f"validation/{score.name}", None))
        ]
        directions = dict.fromkeys(score.direction for score in scores if score.direction)
        note = f"{next(iter(directions)).capitalize()}." if len(directions) == 1 else ""
        title = found[0].name if len(found) == 1 else "Scores"
        return self._chart(found, "scores", f"{title}, held out", percent=True, note=note)

    def kept(self) -> Chart | None:
        """Kept share against target, each constraint in one colour."""
        names = [name.partition("/")[2] for name in self.series if name.startswith("kept/")]
        found = []
        for colour, name in enumerate(names):
            kept = tuple(self.series.pop(f"kept/{name}"))
            found.append(Curve(name=f"{name}: expected", points=kept, colour=colour))
            if target := self.series.pop(f"target/{name}", None):
                found.append(Curve(name=f"{name}: target", points=tuple(target), colour=colour, style="dashed"))
        return self._chart(found, "kept", "Kept share against target", percent=True)

    def group(self, prefix: str, title: str, *, percent: bool = False) -> Chart | None:
        """All series whose names begin so."""
        names = [name for name in self.series if name.startswith(prefix)]
        found = [
            Curve(
                name=KINDS.get(word := name.removeprefix(prefix), word),
                points=tuple(self.series.pop(name)),
                colour=colour,
            )
            for colour, name in enumerate(names)
        ]
        return self._chart(found, prefix.strip("/"), title, percent=percent)

    def multipliers(self) -> Chart | None:
        """Both multipliers of each constraint in its colour, the first one dashed."""
        names = [name for name in self.series if name.startswith("lambda")]
        colours = {name: i for i, name in enumerate(dict.fromkeys(n.partition("/")[2] for n in names))}
        found = []
        for name in sorted(names, key=lambda name: colours[name.partition("/")[2]]):
            which, _, constraint = name.partition("/")
            sign = "\u03bb" + which.removeprefix("lambda").translate(str.maketrans("12", "\u2081\u2082"))
            points, style = tuple(self.series.pop(name)), "dashed" if which.endswith("1") else "solid"
            found.append(Curve(name=f"{constraint} {sign}", points=points, colour=colours[constraint], style=style))
        return self._chart(found, "lambda", "Multipliers")

    def only(self, name: str, title: str, *, percent: bool = False, style: str = "solid") -> Chart | None:
        """One series."""
        points = self.series.pop(name, None)
        found = [Curve(name=name, points=tuple(points), style=style)] if points else []
        return self._chart(found, name, title, percent=percent)

    def rest(self, group: str) -> Chart | None:
        """What is left of a group, or the single series of that name."""
        names = [name for name in self.series if name.partition("/")[0] == group]
        found = [
            Curve(name=name.partition("/")[2] or name, points=tuple(self.series.pop(name)), colour=colour)
            for colour, name in enumerate(names)
        ]
        return self._chart(found, f"other-{group}", group.replace("_", " "))

    def _chart(
        self, found: Sequence[Curve], name: str, title: str, *, percent: bool = False, note: str = ""
    ) -> Chart | None:
        if not found:
            return None
        slug = "".join(letter if letter.isalnum() else "-" for letter in f"{self.phase}-{name}")
        return curves(found, name=slug, title=title, percent=percent, note=note)
