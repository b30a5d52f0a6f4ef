"""Generated plans of every shape that the report knows, with rows and log points: seeded, not results."""

from dataclasses import replace

import numpy as np
import pandas as pd
from analysis_rows import make_plan, make_runs, make_steps, spoil

from lmexp.plan import Analysis, Confirmation, Hypothesis, Metric
from lmexp.results import STEP_SCHEMA
from lmexp.stages import choose

COVERAGE, SIZES = ("none", "step", "all"), ("tiny", "small")
BASE = {"tiny": 80.0, "small": 20.0}
FASTER = {("step", "tiny"): 0.9, ("all", "tiny"): 0.8, ("step", "small"): 1.25, ("all", "small"): 1.5}
OPTIMIZERS, RATES = ("adamw", "sgd", "lion"), ("1e-4", "3e-4", "1e-3", "3e-3")
FRESH = (10, 11, 12, 13, 14)


def timing_plan(**changes):
    """Two crossed factors, a speed that decides, a rule that cuts the warm-up off."""
    hypotheses = (
        Hypothesis(
            "H1", "Compiling pays at small", "ratio(all-small, none-small) > 1.2", "ratio(all-small, none-small) < 1.1"
        ),
        Hypothesis(
            "H2",
            "The first step waits",
            "diff(all-small, none-small, metric=time_to_first_step_seconds) > 1",
            "diff(all-small, none-small, metric=time_to_first_step_seconds) < 0.2",
        ),
    )
    fields = {
        "name": "compile_coverage",
        "question": "How does the speed-up grow as more is compiled?",
        "arms": {f"{level}-{size}": () for level in COVERAGE for size in SIZES},
        "factors": {"coverage": COVERAGE, "size": SIZES},
        "control": "none-small",
        "hypotheses": hypotheses,
        "secondary": ("time_to_first_step_seconds", "peak_memory_bytes"),
        "primary": Metric("steps_per_second", "higher", "steps/s", 0.05),
        "analysis": Analysis(0.05, "two_way_blocked", "none", "d_z", None, "change_point"),
    }
    return make_plan(**{**fields, **changes})


def timing_rows(plan, unsettled=()):
    """Rows and log points of launches that settle after a few windows; those of ``unsettled`` cells never do."""
    generator = np.random.Generator(np.random.PCG64(3))
    rows, steps = [], {}
    for row in make_runs(plan).to_dict("records"):
        level, size = row["arm"].split("-")
        speed = BASE[size] * FASTER.get((level, size), 1.0) * (1 + generator.normal(0, 0.01))
        times = _step_times(generator, speed, never_settles=(row["arm"], row["seed"]) in unsettled)
        table = _launch(row["run_id"], times, round(speed / 4))
        first = {"none": 1.0, "step": 3.0, "all": 4.0}[level] * (1 + generator.normal(0, 0.03))
        row |= {"steps_per_second": speed, "tokens_per_second": 1024 * speed, "time_to_first_step_seconds": first}
        rows.append(row | {"steps": int(table["step"].iloc[-1]), "train_seconds": float(table["seconds"].iloc[-1])})
        steps[row["run_id"]] = table
    return pd.DataFrame(rows), steps


def _step_times(generator, speed, never_settles, n=120):
    times = (1 + 0.02 * generator.standard_normal(n)) / speed
    return times * np.linspace(1, 2, n) if never_settles else times * (1 + 0.6 * np.exp(-np.arange(n) / 4))


def _launch(run_id, times, per_window):
    seconds = np.concatenate([[0.0], np.cumsum(times * per_window)])
    points = {"run_id": run_id, "step": np.arange(len(seconds)) * per_window, "seconds": seconds}
    return pd.DataFrame(points).reindex(columns=STEP_SCHEMA.names)


def sweep_plan(**changes):
    """A sweep of three optimizers at four rates, a fourth that explores, and a confirmation at fresh seeds."""
    arms = [f"{name}-{rate}" for name in OPTIMIZERS for rate in RATES] + ["muon-1e-3", "muon-3e-3"]
    fields = {
        "name": "optimizer_sweep",
        "question": "Which optimizer wins?",
        "arms": dict.fromkeys(arms, ()),
        "factors": {"optimizer": OPTIMIZERS, "rate": RATES},
        "confirmation": Confirmation({name: tuple(f"{name}-{rate}" for rate in RATES) for name in OPTIMIZERS}, FRESH),
        "control": "adamw",
        "exploratory": ("muon-1e-3", "muon-3e-3"),
        "hypotheses": (Hypothesis("H1", "AdamW wins", "diff(adamw, sgd) < 0", "diff(adamw, sgd) > 0"),),
        "secondary": (),
        "analysis": Analysis(0.05, "blocked_anova", "dunnett_blocked", "hedges_g", None),
        "references": ("A paper with figures of its own.",),
    }
    return make_plan(**{**fields, **changes})


def sweep_rows(plan):
    """Rows of both stages: adamw is best inside the grid, sgd at its end, lion diverged at the highest rate."""
    best = {"adamw": (2, 2.10), "sgd": (3, 2.40), "lion": (1, 2.12), "muon": (2, 2.05)}
    generator = np.random.Generator(np.random.PCG64(5))

    def loss(arm, seed):
        name, _, rate = arm.partition("-")
        place, low = best[name]
        return low + 0.04 * (RATES.index(rate) - place) ** 2 + 0.03 * np.sin(7.1 * seed) + generator.normal(0, 0.01)

    def rows(part):
        made = make_runs(part)
        return made.assign(val_bpb=[loss(*cell) for cell in zip(made["arm"], made["seed"], strict=True)])

    swept = rows(replace(plan, confirmation=None))
    for seed in (1, 2):
        swept = spoil(swept, "lion-3e-3", seed, "diverged", "the loss became NaN")
    chosen = choose(plan, swept[swept["status"].isin(["ok", "diverged"])].to_dict("records")).chosen
    fresh = rows(replace(plan, confirmation=None, seeds=FRESH, arms=dict.fromkeys(chosen.values(), ())))
    later = fresh["started_at"].str.replace("2026-11-02", "2026-11-04")
    fresh = fresh.assign(run_id="fresh-" + fresh["run_id"], started_at=later)
    both = pd.concat([swept, fresh], ignore_index=True)
    return both, make_steps(both, 12, 6)
