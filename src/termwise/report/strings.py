"""Every sentence of the page, by key, in English.

A page in another language is another table with the same keys. Placeholders are filled by `say`; numbers
arrive formatted by the helpers below, so that no sentence formats one itself.
"""

from __future__ import annotations

import math

ENGLISH: dict[str, str] = {
    "language": "en",
    "eyebrow": "Termwise depth report",
    "and": " and ",
    "comma": ", ",
    "none": "none",
    "undefined": "undefined",
    "noscript": "The figures are drawn by scripts inside this file; without them only the text and the "
    "tables are shown.",
    # closure
    "closure.good": "The parts add up to the whole within {closure}.",
    "closure.bad": "The parts miss the whole by {closure}: do not trust the figures below.",
    "closure.note": "Relative error |c + Σ terms − output| / |output|, the worst of all records of "
    "{networks}. float32 should stay below {tolerance}.",
    "closure.tolerance": "float32 limit {tolerance}",
    "closure.label": "Closure on a logarithmic scale: {values}; limit {tolerance}.",
    # controls
    "control.step": "Recorded step",
    "control.table": "Show as table",
    "control.table.at": "Show as table, at the step chosen above",
    "control.csv": "Download the data (CSV)",
    "control.step.value": "step {step}",
    "failed": "This figure could not be drawn: {reason}",
    "chart": "chart",
    # spectrum
    "spectrum.title": "The middle 80 % of the input-born output lies {ranges}",
    "spectrum.range": "at depths {low} to {high} in {network}",
    "spectrum.range.one": "at depth {low} in {network}",
    "spectrum.title.plain": "Every path of {networks} from the input has one length: there is nothing to split",
    "spectrum.read": "Bars: the share of the output's norm that is born at the input and passes exactly "
    "that many layers; the whisker is its 95 % interval over samples. Constants (biases, shifts of norms) "
    "are drawn beside them on the same scale, in units of the input-born sum, and are not part of it. "
    "Behind: how many of the paths have that length. The title is about the last record.",
    "spectrum.alt": "{network}, {step}: {count} terms at depths {shortest} to {longest}; largest norm share "
    "{share} at depth {depth}; most paths ({paths}) at depth {mode}. {constants}",
    "spectrum.alt.constants": "Constants: {share} of the input-born sum.",
    "spectrum.axis": "share",
    "depth.axis": "depth (layers on the path)",
    "spectrum.constant": "const.",
    "spectrum.frozen": "frozen",
    "panel.paths": "{count}, {shortest} to {longest} layers long",
    "panel.paths.same": "{count}, {shortest} layers long",
    "panel.paths.count": "{paths} paths",
    "panel.paths.one": "1 path",
    "key.input": "input-born terms",
    "key.constant": "constants",
    "key.constant.off": "constants (off the scale: the number is the bar's height)",
    "key.paths": "share of all paths",
    # heat map
    "heat.title.move": "While the loss {loss}, the median depth {moves}",
    "heat.title.still": "While the loss {loss}, the median depth {moves}: nothing moves",
    "heat.title.one": "One record only: nothing to compare over training",
    "heat.title.none": "Which depths carry the output, and when",
    "heat.loss.falls": "falls",
    "heat.loss.rises": "rises",
    "heat.loss.mixed": "changes",
    "heat.move.falls": "falls {ends}",
    "heat.move.rises": "rises {ends}",
    "heat.move.stays": "stays at {ends}",
    "move.ends": "from {first} to {last} in {network}",
    "move.end": "{last} in {network}",
    "heat.read": "Each column is one record: how the norm of the input-born terms is spread over depth, in "
    "the colours of the key. Lines: the depths below which 10, 50 and 90 % of it lie. Above: the loss on "
    "the probe. The step axis is logarithmic; step 0 has a place of its own, left of the gap. A cell "
    "reaches half-way to the next record and to the next depth that some path has.",
    "heat.alt": "{network}: over steps {first} to {last} the loss goes from {loss_first} to {loss_last}; "
    "half of the norm lies at depth {p50_first} or below at the start and at depth {p50_last} or below at "
    "the end (10 to 90 %: {p10} to {p90}).",
    "heat.ramp": "norm share 0 to {most}",
    "key.median": "median",
    "key.quantiles": "10 % and 90 %",
    "heat.loss": "loss",
    "heat.depth": "depth",
    "step.axis": "training step (log)",
    # truncation
    "truncated.title": "99 % of the accuracy is kept {clauses}",
    "truncated.clause": "from depth {depth} on in {network}",
    "truncated.clause.all": "only with every term in {network}",
    "truncated.clause.none": "by no truncation of {network}",
    "truncated.title.none": "How accurate the network is when only short or only long paths are kept",
    "truncated.read": "The accuracy on the probe when only part of the expansion is used: constants and all "
    "terms up to a depth, all terms from a depth on, or one term alone; bands are 95 % intervals. The "
    "curves need not be monotone and are not smoothed. The title is about the last record.",
    "truncated.alt": "{network}, {step}: the whole network reaches {full}; terms up to depth {shortest} "
    "with the constants {head}, up to the middle depth {middle} {half}; the best single term, at depth "
    "{best_depth}, {best}. Chance is {chance}.",
    "truncated.axis": "accuracy",
    "truncated.axis.depth": "depth k",
    "key.head": "constants and terms up to k",
    "key.tail": "terms from k on",
    "key.alone": "the term k alone",
    "key.full": "whole network",
    "key.chance": "chance",
    # mean depth
    "mean.title": "The mean path length {moves}",
    "mean.falls": "falls {ends}",
    "mean.rises": "rises {ends}",
    "mean.stays": "does not measurably change from {ends}",
    "mean.shorter": "; {network} ends shorter",
    "mean.read": "The mean depth under the norm share of the input-born terms, with its 95 % interval over "
    "samples. Constants, where they are split by depth, are dashed: they are a different thing and never "
    "averaged in.",
    "mean.alt": "{network}: mean path length {first} at step {start} and {last} at step {end}.",
    "mean.alt.constants": "Constants: {first} and {last}.",
    "mean.axis": "mean depth (layers)",
    "key.constants.dashed": "constants, dashed",
    # degrees over training
    "degrees.title.move": "Of the output’s variance, the part of degree {degree} in the input {moves}",
    "degrees.title.still": "Of the output’s variance, the part of degree {degree} in the input {moves}: nothing moves",
    "degrees.title.none": "Of which degrees in the input the output is made",
    "degrees.falls": "falls {ends}",
    "degrees.rises": "rises {ends}",
    "degrees.stays": "does not measurably change from {ends}",
    "degrees.share": "{share}\u00a0% [{low},\u00a0{high}]",
    "degrees.read": "Each line is the share of the variance of the output, as a function of its input, that is of "
    "one polynomial degree, with its 95 % interval over circles of inputs. Inputs are Gaussian with the mean and "
    "covariance of the samples that batch-norm statistics are estimated on, and are the same at every record, so "
    "that records differ by the network alone. The degree is that of the whole network: it says nothing about "
    "depth. The share axis is a scale of square roots.",
    "degrees.warned": "At {count} of {all} records the estimator warns ({kinds}): trust the high degrees less there.",
    "degrees.mean": "mean degree {first} at the first record, {last} at the last",
    "degrees.mean.value": "{value} [{low}, {high}]",
    "degrees.mean.none": "mean degree not known at both ends",
    "degrees.alt": "{network}: shares of the output’s variance at step {start}: {first}; at step {end}: {last}.",
    "degrees.alt.share": "{share} of degree {degree}",
    "degrees.alt.none": "{network}: no shares; its output is constant at every record.",
    "degrees.axis": "share",
    "degree.range": "{low}–{high}",
    "degree.above": "{low}+",
    "key.degree": "degree {degree}",
    # table of networks
    "networks.title": "The networks, side by side",
    "networks.measure": "measure",
    "row.parameters": "Parameters",
    "row.accuracy": "Accuracy on the probe",
    "row.loss": "Loss on the probe (nats)",
    "row.effective": "Effective depth (99 % of the accuracy)",
    "row.mean.first": "Mean path length at the first record",
    "row.mean.last": "Mean path length at the last record",
    "row.shortest": "Shortest path (layers)",
    "row.longest": "Longest path (layers)",
    "row.closure": "Closure, worst record",
    "row.constant": "Constants, share of the output (aligned)",
    "row.frozen": "Frozen values, share of the output (aligned)",
    "row.cancellation": "Cancellation index, Σ|term| / |output|",
    "row.credit.closure": "Closure of the loss credit",
    "row.credit.drift": "Loss credit, largest move at half the records",
    "row.time": "Time in the recorder / training",
    "row.exact": "Operator calls with an exact rule",
    "row.inexact": "Frozen or linearised",
    "cell.interval": "{value} [{low}, {high}]",
    "cell.time": "{recording} / {training} ({share})",
    "cell.time.traced": "{recording} / trained elsewhere",
    "cell.credit.warn": "{value}: depends on how densely the run was recorded",
    "cell.effective.none": "no truncation keeps it",
    "cell.operator": "{operator} ×{count} ({kind})",
    "kind.frozen": "frozen",
    "kind.linearised": "linearised",
    # meaning
    "meaning.title": "What these numbers mean, and what they do not",
    "meaning.does": "They do mean",
    "meaning.doesnot": "They do not mean",
    "does.exact": "A term is the exact sum of all paths from the input through that many {unit}, with every "
    "gate (ReLU, norm statistics, max-pool choice) held at the value that it had in the real forward pass. "
    "Nothing is sampled; the closure above checks it.",
    "does.constants": "Constants are kept apart. Late biases sit on short paths, and counted together with "
    "the input’s they alone would fake “shallow first”.",
    "does.eval": "Networks are profiled in eval mode with batch-norm statistics re-estimated on a copy: "
    "early in training the running statistics lag behind, which alone can fake the same thing.",
    "asfound": "Networks are profiled in eval mode with the batch-norm statistics that they had: early in "
    "training these lag behind the weights, which alone can fake “shallow first”.",
    "doesnot.norm": "Norms ignore cancellation. Here the terms’ norms add up to {cancellation} the norm of "
    "the output, so a large share is not a large effect; the accuracies by depth are the check.",
    "doesnot.monotone": "Truncation is not monotone: adding a term can lower the accuracy, and a term that "
    "is poor alone can matter.",
    "doesnot.leak": "Gates come from the whole network. What short frozen paths reach is not what a shallow "
    "network would reach by itself.",
    "doesnot.paths": "The number of paths per depth is a fact about the wiring alone. It says nothing about "
    "what was learned.",
    "doesnot.seed": "This is one run with one seed. A verdict on a hypothesis needs several.",
    "cancellation.item": "{value} times ({network})",
    # methods
    "methods.title": "Methods and provenance",
    "methods.unit": "Unit of depth",
    "methods.unit.layers": "every convolution or matrix product by a parameter is one step",
    "methods.unit.blocks": "every residual branch, found from the flow of the data, is one step",
    "methods.unit.activations": "every nonlinearity is one step",
    "methods.unit.other": "{unit}",
    "methods.constants": "Constants",
    "methods.constants.pooled": "pooled into one part",
    "methods.constants.by_depth": "split by depth",
    "methods.intervals": "Intervals",
    "methods.intervals.text": "95 %, Poisson bootstrap over the probe’s samples, seeded",
    "methods.created": "Run",
    "methods.created.text": "{created}, seed {seed}, {threads}",
    "methods.created.traced": "{created}, from the checkpoints of a training, {threads}",
    "methods.skipped": "Left out",
    "methods.threads.one": "1 thread",
    "methods.threads.many": "{threads} threads",
    "methods.versions": "Versions",
    "methods.versions.text": "Termwise {termwise}, PyTorch {torch}, Python {python}",
    "methods.data": "Data",
    "methods.data.text": "{title}: {train} samples to train, {probe} in the probe, {classes} classes",
    "methods.attribution": "Attribution",
    "methods.hash": "Data sha256",
    "methods.records": "Records",
    "methods.records.text": "{count} steps from {first} to {last}; tables embedded to six significant "
    "digits, in full in tables/*.parquet",
    "licences.title": "Licences of the scripts inside this page",
    # columns of the tables
    "column.network": "network",
    "column.step": "step",
    "column.origin": "origin",
    "column.depth": "depth",
    "column.norm_share": "norm share",
    "column.low": "low",
    "column.high": "high",
    "column.path_share": "share of paths",
    "column.head_accuracy": "up to k",
    "column.tail_accuracy": "from k on",
    "column.alone_accuracy": "alone",
    "column.loss": "loss",
    "column.accuracy": "accuracy",
    "column.mean_depth": "mean depth",
    "column.mean_depth_constants": "constants",
    "column.depth_p10": "10 %",
    "column.depth_p50": "50 %",
    "column.depth_p90": "90 %",
    "column.paths": "paths",
    "column.degree": "degree",
    "column.share": "share",
    "column.mean_degree": "mean degree",
    "column.warnings": "warnings",
    # experiments
    "experiments.title": "Experiments",
    "experiments.eyebrow": "Termwise experiments",
    "experiments.eyebrow.one": "Termwise experiment {name}, {seeds}",
    "experiments.seeds.one": "1 seed",
    "experiments.seeds.many": "{count} seeds",
    "control.table.name": ": {name}",
    "yes": "yes",
    "no": "no",
    "infinite": "∞",
    "verdict.holds": "holds",
    "verdict.fails": "fails",
    "verdict.undecided": "undecided",
    "claims.title": "What was expected, and what was found",
    "claims.quantity": "quantity",
    "claims.found": "found",
    "claims.expected": "expected",
    "claims.verdict": "verdict",
    "claims.interval": "[{low}, {high}]",
    "claims.read": "Found is the mean over seeds, with its 95 % interval in brackets. An expectation holds where the "
    "whole interval lies within it, and fails where the whole interval lies outside, on one side; else it is "
    "undecided.",
    "claims.none": "Nothing was expected of what was measured.",
    "claims.single.holds": "What was expected holds.",
    "claims.single.fails": "What was expected fails.",
    "claims.single.undecided": "What was expected is undecided.",
    "claims.both.holds": "Both expectations hold.",
    "claims.both.fails": "Both expectations fail.",
    "claims.both.undecided": "Both expectations are undecided.",
    "claims.all.holds": "All {total} expectations hold.",
    "claims.all.fails": "All {total} expectations fail.",
    "claims.all.undecided": "All {total} expectations are undecided.",
    "claims.some": "Of {total} expectations {parts}.",
    "claims.holds.one": "1 holds",
    "claims.holds.many": "{count} hold",
    "claims.fails.one": "1 fails",
    "claims.fails.many": "{count} fail",
    "claims.undecided.one": "1 is undecided",
    "claims.undecided.many": "{count} are undecided",
    "claims.quick": "quick run: shows nothing",
    "claims.notice.quick": "{names}: a quick run, to see that it works. Its numbers and verdicts show nothing.",
    "claims.notice.few": "With fewer than {seeds} seeds nothing is decided.",
    "claims.others": "What else was measured",
    "claims.beside": "Side by side",
    "claims.beside.of": "Side by side: {name}",
    "methods.experiment": "How it was made",
    "semicolon": "; ",
    "methods.protocol": "Protocol",
    "methods.seeds": "Seeds",
    "methods.seeds.range": "{first} to {last}",
    "methods.setting": "{name} {value}",
    "methods.intervals.seeds": "95 %, Student’s t over seeds; with fewer than {seeds} seeds nothing is decided",
    "methods.command": "Command",
    "methods.file": "All tables",
    "methods.file.text": "{name}, seed by seed; tables embedded here have six significant digits",
    "plot.cut": "Intervals that leave the plot are cut; the table has them.",
    "plot.key.tones": "{value} {low} to {high}",
    "plot.key.number": "{name} {value}",
    "plot.alt.heading": "{heading}.",
    "plot.alt.axes": "{y}, by {x}.",
    "plot.alt.series": "{name}: {words}",
    "plot.alt.line": "first {first}, last {last}, least {least}, most {most}.",
    "plot.alt.all": "{values}.",
    "plot.alt.value": "{y} at {x}",
    "plot.alt.interval": "{y} ({low} to {high}) at {x}",
    "plot.alt.none": "no values.",
    "plot.alt.missing": "{count} missing.",
    "plot.alt.mark": "Line at {at}: {label}.",
    "plot.alt.tile": "{value} at {x}, {y}",
    "plot.alt.tiles": "{value}, by {x} and {y}: {count} tiles, least {least}, most {most}.",
    "plot.alt.tiles.none": "{value}, by {x} and {y}: no values.",
}


def say(key: str, **values: object) -> str:
    """The sentence of that key, with its placeholders filled."""
    return ENGLISH[key].format(**values)


def listing(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    if len(items) < 2:
        return "".join(items)
    return say("comma").join(items[:-1]) + say("and") + items[-1]


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, without an exponent where it stays short."""
    if value is None or not math.isfinite(value):
        return say("undefined")
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")
    places = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{places}f}"


def fixed(value: float | None, places: int) -> str:
    """A number with so many decimals."""
    return say("undefined") if value is None or not math.isfinite(value) else f"{value:.{places}f}"


def percent(value: float | None) -> str:
    """A share in per cent, one decimal below ten."""
    if value is None or not math.isfinite(value):
        return say("undefined")
    return f"{100 * value:.{1 if 0 < abs(value) < 0.1 else 0}f} %".replace("-", "−")


def integer(value: int) -> str:
    """A whole number with its thousands apart; beyond fifteen digits as a power of ten."""
    return f"{value:,}" if abs(value) < 10**15 else f"{value:.2e}" if value < 10**300 else f"10^{len(str(value)) - 1}"


def seconds(value: float) -> str:
    """A duration."""
    return f"{value:.1f} s" if value < 60 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def signed(text: str) -> str:
    """A number as it is written, with a minus sign for a hyphen, and none before zero."""
    if not text.startswith("-"):
        return text
    return text[1:] if set(text[1:]) <= set("0.") else f"−{text[1:]}"
