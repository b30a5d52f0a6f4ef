"""Whether the machine kept its pace: the probe before and after each run, in order of their start."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

TOLERANCE = 0.05  # a run this much slower than the fastest run's machine is named


@dataclass(frozen=True)
class Probe:
    """A run's two probes as fractions of the fastest run's pace (1 is full speed); None where not measured."""

    run_id: str
    arm: str
    seed: int
    before: float | None
    after: float | None

    @property
    def pace(self) -> float | None:
        """The mean of the two: the machine's pace around this run."""
        known = [rate for rate in (self.before, self.after) if rate is not None]
        return sum(known) / len(known) if known else None


@dataclass(frozen=True)
class Drift:
    """The machine's pace over an experiment: every run's probes, those of slow runs, and all of it in words."""

    probes: tuple[Probe, ...]
    slow: tuple[Probe, ...]
    sentence: str


def drift_of(used: pd.DataFrame) -> Drift:
    """Return the machine's pace over the runs that count.

    Args:
        used: rows indexed by (arm, seed) with ``probe_before``, ``probe_after`` (probe units/s) and ``started_at``.
    """
    columns = ["run_id", "arm", "seed", "probe_before", "probe_after"]
    rows = used.reset_index().sort_values(["started_at", "run_id"]).reindex(columns=columns)
    probes = _relative([_probe(*row) for row in rows.itertuples(index=False)])
    paced = [(probe, probe.pace) for probe in probes if probe.pace is not None]
    if not paced:
        return Drift(tuple(probes), (), "The machine's pace was not measured.")
    slowest, slowdown = min(paced, key=lambda item: item[1])[0], 1 - min(pace for _, pace in paced)
    slow = tuple(probe for probe, pace in paced if pace < 1 - TOLERANCE)
    arms = {
        arm: float(np.mean([pace for probe, pace in paced if probe.arm == arm])) for arm in {p.arm: 0 for p, _ in paced}
    }
    return Drift(tuple(probes), slow, _sentence(slowdown, slowest, slow, len(paced), arms))


def _probe(run_id: str, arm: str, seed: int, before: float | None, after: float | None) -> Probe:
    rates = [float(rate) if rate is not None and np.isfinite(rate) else None for rate in (before, after)]
    return Probe(str(run_id), str(arm), int(seed), rates[0], rates[1])


def _relative(probes: list[Probe]) -> list[Probe]:
    fastest = max((pace for probe in probes if (pace := probe.pace) is not None), default=1.0)

    def scaled(rate: float | None) -> float | None:
        return None if rate is None else rate / fastest

    return [Probe(p.run_id, p.arm, p.seed, scaled(p.before), scaled(p.after)) for p in probes]


def _sentence(slowdown: float, slowest: Probe, slow: tuple[Probe, ...], n_runs: int, arms: dict[str, float]) -> str:
    if n_runs < 2:
        return "One run: its probes cannot tell whether the machine kept its pace."
    if not slow:
        return f"The machine kept its pace: the slowest of {n_runs} runs had {slowdown:.1%} less than the fastest."
    text = (
        f"The machine slowed: during {len(slow)} of {n_runs} runs it was more than {TOLERANCE:.0%} slower than at its "
        f"fastest; during {slowest.arm} seed {slowest.seed}, {slowdown:.1%} slower."
    )
    if len(arms) == 1:
        return text
    (best, high), (worst, low) = (pick(arms.items(), key=lambda item: item[1]) for pick in (max, min))
    return f"{text} The arms' mean pace ranges from {low:.1%} ({worst}) to {high:.1%} ({best})."
