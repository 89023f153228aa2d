"""The console table of a DepthProfile: what a person reads first, the closure on its first line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from termwise.expand import adding_up

if TYPE_CHECKING:
    from termwise.profile import DepthProfile

_BLOCKS = " ▏▎▍▌▋▊▉█"
_BAR = 18  # characters that the largest share takes


def profile_text(profile: DepthProfile) -> str:
    """Closure, one row per part, the mean path length, and what was not exact."""
    rows = profile.share.rows()
    heads = {row["depth"]: row for row in profile.truncated.rows()}
    largest = max(row["norm_share"] for row in rows) or 1.0
    lines = [headline(profile), "", _header(profile)]
    lines += [_row(row, heads.get(row["depth"]) if row["origin"] == "input" else None, largest) for row in rows]
    return "\n".join([*lines, "", *conclusions(profile)])


def headline(profile: DepthProfile) -> str:
    """What was measured, and how exactly."""
    quality = {
        "classification": f"accuracy {profile.accuracy:.3f}" if profile.accuracy is not None else "",
        "regression": f"squared error {profile.loss:.3g}",
        "agreement": "no targets: accuracies are agreement with the whole network",
    }[profile.task]
    return (
        f"closure {profile.closure:.1e}: {adding_up(profile.closure)} | unit: {profile.unit} | "
        f"{profile.samples:,} samples{_chunked(profile)} | {quality}"
    )


def _chunked(profile: DepthProfile) -> str:
    """How many samples at once, where these were not all."""
    chunks = [size for _, size in profile.chunk] if isinstance(profile.chunk, tuple) else [profile.chunk or 0]
    told = ", then ".join(str(size) for size in dict.fromkeys(chunks))
    return f", at most {told} at a time" if 0 < min(chunks) < profile.samples else ""


def _header(profile: DepthProfile) -> str:
    head = "acc <= k" if profile.effective_depth is not None else "loss <= k"
    alone = "acc alone" if profile.effective_depth is not None else "loss alone"
    return f"{'depth':>8} {'paths':>10}  {'norm share':<{_BAR + 24}} {'aligned':>8} {'margin':>8} {head:>9} {alone:>10}"


def _row(row: dict[str, Any], truncated: dict[str, Any] | None, largest: float) -> str:
    label = str(row["depth"]) if row["origin"] == "input" else row["origin"][:5]
    if row["origin"] != "input" and row["depth"] is not None:
        label += f" {row['depth']}"
    share = f"{bar(row['norm_share'] / largest):<{_BAR}} {row['norm_share']:6.1%} {interval(row, 'norm_share')}"
    signed = f"{row['aligned_share']:>8.1%} {row['margin_share']:>8.1%}"
    line = f"{label:>8} {short(row['paths']):>10}  {share:<{_BAR + 24}} {signed}"
    if truncated is None:
        return line
    name = "accuracy" if "head_accuracy" in truncated else "loss"
    return f"{line} {truncated[f'head_{name}']:>9.3f} {truncated[f'alone_{name}']:>10.3f}"


def bar(fraction: float) -> str:
    """A horizontal bar of eighths of a character."""
    eighths = round(max(0.0, min(1.0, fraction)) * _BAR * 8)
    return "█" * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")


def interval(row: dict[str, Any], name: str) -> str:
    """The 95 % interval of a share, in percent."""
    return f"[{100 * row[f'{name}_low']:.1f}, {100 * row[f'{name}_high']:.1f}]"


def short(count: str | None) -> str:
    """A path count that fits: in full up to seven digits, then as a power of ten."""
    if count is None:
        return ""
    return f"{int(count):,}" if len(count) <= 7 else f"{count[0]}.{count[1]}e{len(count) - 1}"


def conclusions(profile: DepthProfile) -> list[str]:
    """The numbers in words, with what they do not say."""
    longest = profile.depths[-1]
    if len(profile.depths) == 1:
        lines = [f"every path from the input has {longest} steps: there is one term, and nothing to split."]
    else:
        lines = [f"mean path length {profile.mean_depth} of {longest} (norm share of the input-born terms)"]
        aligned = "undefined (the shares cancel)" if profile.aligned_depth is None else str(profile.aligned_depth)
        lines.append(f"mean depth under the aligned share: {aligned}")
        if profile.effective_depth is not None:
            lines.append(
                f"effective depth {profile.effective_depth}: every longer truncation keeps 99 % of the accuracy"
            )
    lines.append(
        f"cancellation {profile.cancellation:.2f}: the terms' norms over the output's; "
        "above 1 they partly cancel, which norms cannot see"
    )
    return lines + [_uses(profile, kind) for kind in ("frozen", "linearised") if _uses(profile, kind)]


def _uses(profile: DepthProfile, kind: str) -> str:
    counts: dict[str, int] = {}
    for use in profile.operators:
        if use.kind == kind:
            counts[use.operator] = counts.get(use.operator, 0) + use.count
    return f"{kind}: " + ", ".join(f"{name} x{n}" for name, n in counts.items()) if counts else ""
