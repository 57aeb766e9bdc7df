"""What accuracy costs: a metric over compute, and over memory."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clkd.compare.comparison import Comparison, Metric
from clkd.compare.group import Group

COSTS = {
    "compute.training_macs": "multiply-accumulates of training",
    "compute.memory_bytes": "bytes of memory (replay)",
}


def plot(comparison: Comparison) -> Figure:
    """The first metric of each group, mean ± standard deviation over seeds, above what it cost; one panel a cost."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    first = comparison.metrics[0]
    for axes, (cost, words) in zip(figure.subplots(1, len(COSTS), sharey=True), COSTS.items(), strict=True):
        _panel(axes, comparison, first, cost)
        axes.set(xlabel=words)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"{first.name}, %" if first.percent else first.name)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3))
    return figure


def _panel(axes: Axes, comparison: Comparison, metric: Metric, cost: str) -> None:
    """Costs that span more than a decade, all above 0, are shown by their logarithm."""
    places = [_mean(group, cost) for group in comparison.groups]
    for i, (group, at) in enumerate(zip(comparison.groups, places, strict=True)):
        cell = comparison.cells[i][metric.name]
        if at is None or cell.mean is None:
            continue
        spread = None if cell.sd is None else metric.scale * cell.sd
        label = group.label + (f" ({group.data})" if len({each.data for each in comparison.groups}) > 1 else "")
        axes.errorbar(at, metric.scale * cell.mean, yerr=spread, fmt="o", capsize=3, color=f"C{i % 10}", label=label)
    known = [at for at in places if at is not None]
    if known and min(known) > 0 and max(known) > 10 * min(known):
        axes.set_xscale("log")


def _mean(group: Group, cost: str) -> float | None:
    values = group.values(cost)
    return sum(values) / len(values) if values else None
