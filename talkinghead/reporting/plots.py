"""The plots of experiments/: each metric over the shot count T."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from talkinghead.reporting.summary import Column, Lines, Table, find_metric


def draw(table: Table, lines: Lines) -> Figure | None:
    """A plot of each measured metric over T, with 95 % intervals over identities. None if nothing was measured."""
    names = [name for name in table.metrics if any(("measured", name) in line for line in lines.values())]
    if not names:
        return None
    across = min(3, len(names))
    down = -(-len(names) // across)
    figure = Figure(figsize=(3.8 * across, 3.0 * down), layout="constrained")
    axes = [figure.add_subplot(down, across, number + 1) for number in range(len(names))]
    for name, axis in zip(names, axes, strict=True):
        for number, method in enumerate(table.methods):
            draw_line(axis, lines, ("measured", name), method.label, number)
        metric = find_metric(name)
        shots = sorted({number for number, _ in lines})
        axis.set_xscale("log", base=2)
        axis.set_xticks(shots, [str(number) for number in shots])
        axis.set(xlabel="T", title=f"{metric.title} {'↑' if metric.higher_is_better else '↓'}")
        axis.grid(alpha=0.3)
    handles, labels = zip(*{label: handle for axis in axes for handle, label in
                            zip(*axis.get_legend_handles_labels(), strict=True)}.items(), strict=True)  # fmt: skip
    figure.legend(labels, handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False)
    return figure


def draw_line(axis: Axes, lines: Lines, column: Column, label: str, number: int) -> None:
    """Draw one method, slightly shifted so that its intervals do not cover another method's."""
    points = sorted((shots, line[column]) for (shots, name), line in lines.items() if name == label and column in line)
    if not points:
        return
    apart = 1.05 ** (number - 2)
    bounds = [value.interval or (value.mean, value.mean) for _, value in points]
    below = [max(0.0, value.mean - low) for (_, value), (low, _) in zip(points, bounds, strict=True)]
    above = [max(0.0, high - value.mean) for (_, value), (_, high) in zip(points, bounds, strict=True)]
    axis.errorbar(
        [shots * apart for shots, _ in points], [value.mean for _, value in points], yerr=[below, above], label=label,
        color=f"C{number}", marker="os^Dv<>P"[number % 8], markersize=4, capsize=2, linewidth=1.2,
    )  # fmt: skip
