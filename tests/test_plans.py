"""The plans that ship: what their criteria can and cannot say at once, what their arms differ in, what they claim."""

from dataclasses import fields

import numpy as np
import pytest

from lmexp import preregister
from lmexp.compose import cell_overrides, compose_run, value_of
from lmexp.config import SECTIONS
from lmexp.criteria import And, Comparison, comparisons, parse
from lmexp.lock import cell_key
from lmexp.model.count import named_parameters
from lmexp.plan import cells, confirmation_cells, read_plan
from lmexp.sweep import expand

HYPOTHESES = {
    "gpt_to_llama": ["H1", "H2", "H3", "H4"],
    "compile_coverage": ["H1", "H2", "H3"],
    "optimizer_sweep": ["H1", "H2", "H3"],
    "mla_kv_cache": ["H1", "H2", "H3"],
    "five_minutes": ["H1", "H2"],
}
# At most one of each group can be supported.
RIVALS = {
    "gpt_to_llama": ["H1", "H2", "H3", "H4"],
    "compile_coverage": ["H1", "H2"],
    "optimizer_sweep": ["H1", "H2"],
    "mla_kv_cache": ["H1", "H2"],
    "five_minutes": [],
}
SUPPORTED, FALSIFIED, NEITHER, BOTH = "supported", "falsified", "neither", "both"


class World:
    """A made-up truth: the mean of every metric in every arm, and from it the exact value of every term.

    An evaluator of its own, so that a mistake in the package's estimates cannot hide one in a plan.
    """

    def __init__(self, plan, means):
        self.plan, self.means = plan, means

    def mean(self, arm, metric):
        return self.means[metric or self.plan.primary.name][arm]

    def gain(self, arm, control, metric):
        lower = (metric or self.plan.primary.name) not in (
            "decode_tokens_per_second", "steps_per_second", "tokens_per_second"
        )  # fmt: skip
        gain = self.mean(control, metric) - self.mean(arm, metric)
        return gain if lower else -gain

    def value(self, term):
        arms, metric, control, full = term.arms, term.metric, self.plan.control, self.plan.analysis.full
        if term.name == "diff":
            return self.mean(arms[0], metric) - self.mean(arms[1], metric)
        if term.name == "ratio":
            return self.mean(arms[0], metric) / self.mean(arms[1], metric)
        if term.name == "improvement":
            return self.gain(arms[0], control, metric)
        if term.name == "share":
            arm, control, full = arms if len(arms) == 3 else (arms[0], control, full)
            return self.gain(arm, control, metric) / self.gain(full, control, metric)
        assert (term.name, arms) == ("interaction", ())
        singles = [arm for arm in self.plan.arms if arm not in (control, full)]
        return self.gain(full, control, metric) - sum(self.gain(arm, control, metric) for arm in singles)

    def holds(self, criterion):
        if isinstance(criterion, Comparison):
            value, bound = self.value(criterion.term), criterion.threshold
            return {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[
                criterion.operator
            ]
        return (all if isinstance(criterion, And) else any)(self.holds(part) for part in criterion.parts)

    def outcome(self, criteria):
        return {
            name: {(True, False): SUPPORTED, (False, True): FALSIFIED, (False, False): NEITHER, (True, True): BOTH}[
                self.holds(support), self.holds(falsify)
            ]
            for name, (support, falsify) in criteria.items()
        }


def criteria_of(plan):
    return {each.id: (parse(each.supported_if), parse(each.falsified_if)) for each in plan.hypotheses}


def outcome(plan, means):
    """Return what is said of every hypothesis, as one text: "H1 supported, H2 neither"."""
    found = World(plan, means).outcome(criteria_of(plan))
    return ", ".join(f"{name} {said}" for name, said in found.items())


# Worlds of each plan: from handy numbers (the shares, factors and improvements that its criteria speak of) to means.


def gpt_to_llama(shares, whole=-0.4):
    arms = ("gqa", "swiglu", "rmsnorm", "rope")
    single = {arm: 2.3 + share * whole for arm, share in zip(arms, shares, strict=True)}
    return {"val_bpb_best": {"baseline": 2.3, "llama": 2.3 + whole, **single}}


def compile_coverage(small, medium, lost=1.0, won=1.4):
    """Shares of the step at two sizes; at tiny: seconds that compiling costs, and how much faster steps then are."""
    seconds = {"none-tiny": 0.1, "step-tiny": 0.09, "step_eval-tiny": 0.08}
    for size, scale, share in (("small", 1.0, small), ("medium", 5.0, medium)):
        step = scale * (1 - 0.3 * share)
        seconds |= {f"none-{size}": scale, f"step-{size}": step, f"step_eval-{size}": 0.7 * scale}
    start = {"none-tiny": 2.0, "step-tiny": 2.0 + lost}
    train = {"none-tiny": 3.0, "step-tiny": 3.0 / won}
    return {"seconds_per_step_with_evaluation": seconds, "compile_seconds": start, "train_seconds": train}


def optimizer_sweep(sgd, adafactor, lion, speed=1.0):
    """Improvements on AdamW, and SGD's steps per second over AdamW's."""
    bpb = {"adamw": 2.0, "sgd": 2.0 - sgd, "adafactor": 2.0 - adafactor, "lion": 2.0 - lion}
    return {"val_bpb_best": bpb, "steps_per_second": {"adamw": 50.0, "sgd": 50.0 * speed}}


LENGTHS = ("512", "1k", "2k", "4k", "8k")


def mla_kv_cache(memory, speed, cache=0.1406, longest=3.0):
    """Ratios of MLA to MHA: memory and speed at the five lengths, bytes cached per token, the longest sequence."""

    def metric(base, ratios):
        pairs = list(zip(LENGTHS, np.broadcast_to(ratios, 5), strict=True))
        return {f"mha-{length}": base for length, _ in pairs} | {f"mla-{length}": base * r for length, r in pairs}

    return {
        "decode_tokens_per_second": metric(90.0, speed),
        "decode_peak_memory_bytes": metric(2e8, memory),
        "cache_bytes_per_token_per_layer": metric(4096.0, cache),
        "longest_length_tokens": metric(1e5, longest),
    }


def five_minutes(validation, test):
    return {
        "val_bpb_best": {"baseline": 2.9, "best": 2.9 - validation},
        "test_bpb": {"baseline": 2.95, "best": 2.95 - test},
    }


# Each threshold from both sides, by a hair: flip or move any comparison and a line here reads another way.
CASES = [
    # One feature dominates: more than a half, and more than the others.
    (gpt_to_llama, ([0.51, 0.1, 0.1, 0.1],), "H1 supported, H2 falsified, H3 falsified, H4 falsified"),
    (gpt_to_llama, ([0.1, 0.51, 0.1, 0.1],), "H1 falsified, H2 supported, H3 falsified, H4 falsified"),
    (gpt_to_llama, ([0.1, 0.1, 0.51, 0.1],), "H1 falsified, H2 falsified, H3 supported, H4 falsified"),
    (gpt_to_llama, ([0.49, 0.21, 0.19, 0.1],), "H1 neither, H2 neither, H3 falsified, H4 neither"),
    (gpt_to_llama, ([0.21, 0.49, 0.21, 0.1],), "H1 neither, H2 neither, H3 neither, H4 neither"),
    (gpt_to_llama, ([0.19, 0.1, 0.49, 0.1],), "H1 falsified, H2 falsified, H3 neither, H4 neither"),
    # Two above a half: the larger is the one that dominates, whichever the other is.
    (gpt_to_llama, ([0.6, 0.61, 0.3, 0.3],), "H1 neither, H2 supported, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.6, 0.3, 0.61, 0.3],), "H1 neither, H2 neither, H3 supported, H4 falsified"),
    (gpt_to_llama, ([0.6, 0.3, 0.3, 0.61],), "H1 neither, H2 neither, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.61, 0.6, 0.3, 0.3],), "H1 supported, H2 neither, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.3, 0.6, 0.61, 0.3],), "H1 neither, H2 neither, H3 supported, H4 falsified"),
    (gpt_to_llama, ([0.3, 0.6, 0.3, 0.61],), "H1 neither, H2 neither, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.61, 0.3, 0.6, 0.3],), "H1 supported, H2 neither, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.3, 0.61, 0.6, 0.3],), "H1 neither, H2 supported, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.3, 0.3, 0.6, 0.61],), "H1 neither, H2 neither, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.61, 0.3, 0.3, 0.6],), "H1 supported, H2 neither, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.3, 0.61, 0.3, 0.6],), "H1 neither, H2 supported, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.3, 0.3, 0.61, 0.6],), "H1 neither, H2 neither, H3 supported, H4 falsified"),
    # A feature that nobody named: H4 falls alone.
    (gpt_to_llama, ([0.3, 0.3, 0.3, 0.49],), "H1 neither, H2 neither, H3 neither, H4 neither"),
    (gpt_to_llama, ([0.3, 0.3, 0.3, 0.51],), "H1 neither, H2 neither, H3 neither, H4 falsified"),
    (gpt_to_llama, ([0.3, 0.3, 0.3, 0.9],), "H1 neither, H2 neither, H3 neither, H4 falsified"),
    # Interactions: every one below a fifth.
    (gpt_to_llama, ([0.19, 0.19, 0.19, 0.19],), "H1 falsified, H2 falsified, H3 falsified, H4 supported"),
    (gpt_to_llama, ([-0.2, 0.19, 0.1, 0.1],), "H1 falsified, H2 falsified, H3 falsified, H4 supported"),
    (gpt_to_llama, ([0.19, 0.19, 0.19, 0.21],), "H1 falsified, H2 falsified, H3 falsified, H4 neither"),
    (gpt_to_llama, ([0.21, 0.19, 0.19, 0.19],), "H1 neither, H2 falsified, H3 falsified, H4 neither"),
    (gpt_to_llama, ([0.19, 0.21, 0.19, 0.19],), "H1 falsified, H2 neither, H3 falsified, H4 neither"),
    (gpt_to_llama, ([0.19, 0.19, 0.21, 0.19],), "H1 falsified, H2 falsified, H3 neither, H4 neither"),
    # In proportion at both sizes, or not.
    (compile_coverage, (0.36, 0.64), "H1 supported, H2 falsified, H3 supported"),
    (compile_coverage, (0.64, 0.36), "H1 supported, H2 falsified, H3 supported"),
    (compile_coverage, (0.51, 0.51), "H1 supported, H2 neither, H3 supported"),
    (compile_coverage, (0.34, 0.51), "H1 falsified, H2 falsified, H3 supported"),
    (compile_coverage, (0.66, 0.51), "H1 falsified, H2 neither, H3 supported"),
    (compile_coverage, (0.51, 0.34), "H1 falsified, H2 falsified, H3 supported"),
    (compile_coverage, (0.51, 0.66), "H1 falsified, H2 neither, H3 supported"),
    # Diminishing at both sizes, or not.
    (compile_coverage, (0.76, 0.76), "H1 falsified, H2 supported, H3 supported"),
    (compile_coverage, (0.76, 1.2), "H1 falsified, H2 supported, H3 supported"),
    (compile_coverage, (0.76, 0.74), "H1 falsified, H2 neither, H3 supported"),
    (compile_coverage, (0.74, 0.76), "H1 falsified, H2 neither, H3 supported"),
    (compile_coverage, (0.9, 0.49), "H1 falsified, H2 falsified, H3 supported"),
    (compile_coverage, (0.49, 0.9), "H1 falsified, H2 falsified, H3 supported"),
    # A crossover needs something lost first and won back later.
    (compile_coverage, (0.51, 0.51, 0.01, 1.01), "H1 supported, H2 neither, H3 supported"),
    (compile_coverage, (0.51, 0.51, -0.01, 1.01), "H1 supported, H2 neither, H3 falsified"),
    (compile_coverage, (0.51, 0.51, 0.01, 0.99), "H1 supported, H2 neither, H3 falsified"),
    # AdamW against three rivals.
    (optimizer_sweep, (-0.01, -0.01, -0.01), "H1 supported, H2 falsified, H3 falsified"),
    (optimizer_sweep, (0.01, -0.01, -0.01), "H1 falsified, H2 falsified, H3 falsified"),
    (optimizer_sweep, (-0.01, 0.01, -0.01), "H1 falsified, H2 supported, H3 falsified"),
    (optimizer_sweep, (-0.01, -0.01, 0.01), "H1 falsified, H2 supported, H3 falsified"),
    (optimizer_sweep, (-0.01, -0.01, -0.01, 1.14), "H1 supported, H2 falsified, H3 falsified"),
    (optimizer_sweep, (-0.01, -0.01, 0.01, 1.16), "H1 falsified, H2 supported, H3 supported"),
    # Memory: 4,096 and 8,192 tokens, the longest sequence, and a cache that is truly latent.
    (mla_kv_cache, (0.79, 1.3), "H1 supported, H2 falsified, H3 supported"),
    (mla_kv_cache, ([1, 1, 1, 0.79, 0.79], 0.9), "H1 supported, H2 falsified, H3 falsified"),
    (mla_kv_cache, ([1, 1, 1, 0.81, 0.79], 0.9), "H1 neither, H2 supported, H3 falsified"),
    (mla_kv_cache, ([1, 1, 1, 0.79, 0.81], 0.9), "H1 falsified, H2 falsified, H3 falsified"),
    (mla_kv_cache, ([1, 1, 1, 0.79, 0.79], 0.9, 0.16), "H1 neither, H2 falsified, H3 falsified"),
    (mla_kv_cache, ([1, 1, 1, 0.79, 0.79], 0.9, 0.14, 1.26), "H1 supported, H2 falsified, H3 falsified"),
    (mla_kv_cache, ([1, 1, 1, 0.79, 0.79], 0.9, 0.14, 1.24), "H1 falsified, H2 falsified, H3 falsified"),
    # Below 8,192 tokens any one length is enough; at 8,192 nothing counts against H2.
    (mla_kv_cache, ([0.81] * 4 + [0.1], [1.24] * 4 + [9]), "H1 neither, H2 supported, H3 supported"),
    *((mla_kv_cache, (np.where(np.arange(5) == place, 0.79, 0.9), 1.1), "H1 falsified, H2 falsified, H3 supported")
      for place in range(4)),
    *((mla_kv_cache, (0.9, np.where(np.arange(5) == place, 1.26, 1.1)), "H1 falsified, H2 falsified, H3 supported")
      for place in range(4)),
    # Faster everywhere, or slower somewhere.
    (mla_kv_cache, (0.9, 1.01), "H1 falsified, H2 supported, H3 supported"),
    *((mla_kv_cache, (0.9, np.where(np.arange(5) == place, 0.99, 1.01)), "H1 falsified, H2 supported, H3 falsified")
      for place in range(5)),
    (five_minutes, (0.011, 0.011), "H1 supported, H2 supported"),
    (five_minutes, (0.011, 0.009), "H1 supported, H2 falsified"),
    (five_minutes, (0.009, 0.011), "H1 falsified, H2 supported"),
    (five_minutes, (-0.1, -0.1), "H1 falsified, H2 falsified"),
]  # fmt: skip


@pytest.mark.parametrize(("world", "numbers", "expected"), CASES)
def test_every_threshold_is_where_the_plan_says(world, numbers, expected):
    assert outcome(read_plan(world.__name__), world(*numbers)) == expected


# Random worlds: numbers around the thresholds and far from them, so that every region is met.


def some(rng, low, high, size):
    """Draw uniformly, or all nearly alike, which random draws of many numbers would hardly ever be."""
    return rng.uniform(low, high, size) if rng.random() < 0.6 else rng.uniform(low, high) + rng.normal(0, 0.02, size)


def random_world(name, rng):
    if name == "gpt_to_llama":
        return gpt_to_llama(some(rng, -0.3, 1.1, 4), whole=-rng.uniform(0.01, 0.9))
    if name == "compile_coverage":
        return compile_coverage(*some(rng, -0.2, 1.3, 2), lost=rng.normal(), won=rng.uniform(0.5, 2))
    if name == "optimizer_sweep":
        return optimizer_sweep(*some(rng, -0.2, 0.2, 3), speed=rng.uniform(0.8, 1.5))
    if name == "mla_kv_cache":
        memory, speed = some(rng, 0.6, 1.1, 5), some(rng, 0.8, 1.5, 5)
        return mla_kv_cache(memory, speed, rng.choice([0.14, 0.2]), rng.uniform(0.8, 3))
    return five_minutes(*some(rng, -0.05, 0.05, 2))


@pytest.fixture(scope="module", params=HYPOTHESES)
def readings(request):
    """What each of many random worlds says of each hypothesis of one plan."""
    plan = read_plan(request.param)
    criteria, rng = criteria_of(plan), np.random.Generator(np.random.PCG64(3))
    return plan, [World(plan, random_world(plan.name, rng)).outcome(criteria) for _ in range(1500)]


def test_no_result_supports_and_falsifies_a_hypothesis(readings):
    assert not any(BOTH in found.values() for found in readings[1])


def test_every_hypothesis_can_be_supported_and_falsified(readings):
    plan, found = readings
    assert [hypothesis.id for hypothesis in plan.hypotheses] == HYPOTHESES[plan.name]
    for name in HYPOTHESES[plan.name]:
        assert {SUPPORTED, FALSIFIED} <= {each[name] for each in found}, name


def test_rivals_are_never_supported_together_and_others_can_be(readings):
    plan, found = readings
    together = {frozenset(name for name, said in each.items() if said == SUPPORTED) for each in found}
    rivals = set(RIVALS[plan.name])
    assert not any(len(rivals & supported) > 1 for supported in together)
    for other in set(HYPOTHESES[plan.name]) - rivals:  # a claim on another matter stands beside each of the rivals
        assert all(any({rival, other} <= supported for supported in together) for rival in rivals), other


def test_interactions_are_only_supported_when_their_own_interval_says_so():
    """Of exact numbers, four shares below a fifth leave the rest to interactions; of intervals they need not."""
    support, _ = criteria_of(read_plan("gpt_to_llama"))["H4"]
    assert parse("interaction() > 0") in list(comparisons(support))


@pytest.fixture(scope="module")
def configs():
    """The config of every arm of every plan that can run, at its first seed."""

    def compose(name):
        plan = read_plan(name)
        return {arm: compose_run(cell_overrides(plan, arm, plan.seeds[0], [])).config for arm in plan.arms}

    return {name: compose(name) for name in HYPOTHESES}


@pytest.mark.parametrize("name", HYPOTHESES)
def test_a_plan_can_be_locked(name, configs, monkeypatch):
    plan = read_plan(name)
    frozen = {cell_key(arm, plan.seeds[0]): config for arm, config in configs[name].items()}
    monkeypatch.setattr(preregister, "frozen_cells", lambda plan: (frozen, {}))  # composed once for all tests
    assert preregister.problems(plan) == []
    assert len({config.sha256 for config in configs[name].values()}) == len(plan.arms)


def differing(config, other):
    """Return the keys in which two configs differ, as section.key."""
    return {
        f"{section}.{field.name}"
        for section in SECTIONS
        for field in fields(SECTIONS[section])
        if getattr(getattr(config, section), field.name) != getattr(getattr(other, section), field.name)
    }


def parameters(config, vocab_size):
    from lmexp.model.language_model import LanguageModel

    return LanguageModel(config.model, vocab_size, vocab_size, config.data.context_length).n_params


@pytest.mark.parametrize("short", ["gpt_to_llama_cpu", "gpt_to_llama_gpu"])
def test_a_shorter_gpt_to_llama_asks_the_same_of_the_same_features(short):
    there, here = read_plan("gpt_to_llama"), read_plan(short)
    assert here.hypotheses == there.hypotheses
    assert list(here.arms) == list(there.arms)
    assert here.analysis == there.analysis


@pytest.mark.parametrize("short", ["optimizer_sweep_cpu", "optimizer_sweep_gpu"])
def test_a_shorter_optimizer_sweep_has_the_same_arms_and_criteria(short):
    there, here = read_plan("optimizer_sweep"), read_plan(short)
    for mine, theirs in zip(here.hypotheses, there.hypotheses, strict=True):
        assert (mine.supported_if, mine.falsified_if) == (theirs.supported_if, theirs.falsified_if)
    assert here.arms == there.arms
    assert here.confirmation == there.confirmation
    assert here.analysis == there.analysis


def test_gpt_to_llama_changes_one_feature_at_a_time_and_llama_all_of_them(configs):
    arms = configs["gpt_to_llama"]
    baseline = arms["baseline"]
    changed = {arm: differing(config, baseline) for arm, config in arms.items()}
    assert changed == {
        "baseline": set(),
        "gqa": {"model.n_kv_heads"},
        "swiglu": {"model.ffn"},
        "rmsnorm": {"model.norm", "model.bias"},
        "rope": {"model.position"},
        "llama": {"model.n_kv_heads", "model.ffn", "model.norm", "model.bias", "model.position"},
    }
    spec = baseline.model
    assert (spec.d_model, spec.n_layers, spec.n_heads, spec.kv_heads) == (256, 6, 8, 8)
    assert (spec.norm, spec.position, spec.bias, spec.ffn) == ("layernorm", "sinusoidal", True, "gelu")
    assert (arms["gqa"].model.kv_heads, arms["rmsnorm"].model.bias, baseline.budget.seconds) == (4, False, 300)
    # "0.2% fewer": rounding of the width is all that may be left.
    assert parameters(arms["swiglu"], 2048) / parameters(baseline, 2048) == pytest.approx(0.998, abs=5e-4)


def test_compile_coverage_compiles_half_of_the_arithmetic_in_the_step(configs):
    from lmexp.data import load_dataset

    arms = configs["compile_coverage"]
    data, budget = arms["none-small"].data, arms["none-small"].budget
    n_validation = len(load_dataset(data).val.tokens)
    step = 3 * budget.steps * data.batch_size * data.context_length
    evaluation = budget.evaluations * n_validation
    assert (n_validation, step, evaluation) == (22_888, 915_456, 915_520)  # the comment's figures
    sizes = {size: arms[f"none-{size}"].model for size in ("tiny", "small", "medium")}
    shapes = {size: (spec.d_model, spec.n_layers) for size, spec in sizes.items()}
    assert shapes == {"tiny": (64, 2), "small": (256, 6), "medium": (512, 8)}
    for size in sizes:
        none, part, both = (arms[f"{coverage}-{size}"] for coverage in ("none", "step", "step_eval"))
        assert differing(part, none) == {"compile.step"}
        assert differing(both, part) == {"compile.evaluation"}
        assert (none.compile.step, none.compile.evaluation) == (False, False)


def test_the_command_that_fills_the_kernel_store_launches_every_arm_once_and_counts_for_nothing():
    plan = read_plan("compile_coverage")
    command = "experiment=compile_coverage seed=99 budget.steps=8 budget.evaluations=2"
    assert command in plan.path.read_text(encoding="utf-8")
    runs = expand(command.split())
    assert sorted(value_of("arm", run) for run in runs) == sorted(plan.arms)
    config = compose_run(runs[0]).config
    assert set(config.overrides) == {"seed=99", "budget.steps=8", "budget.evaluations=2"}  # exploratory


def test_optimizer_sweep_crosses_four_optimizers_with_one_grid(configs):
    plan, arms = read_plan("optimizer_sweep"), configs["optimizer_sweep"]
    rates = (1e-4, 3e-4, 1e-3, 3e-3)
    assert plan.confirmation is not None
    assert list(plan.confirmation.competitions) == ["adamw", "sgd", "adafactor", "lion"]
    for name, competing in plan.confirmation.competitions.items():
        tried = [arms[arm].optimizer for arm in competing]
        assert [(each.name, each.lr) for each in tried] == [(name, rate) for rate in rates]
        assert not set(competing) & set(plan.exploratory)
    assert all(
        key.startswith("optimizer.") for config in arms.values() for key in differing(config, arms["adamw-1e-3"])
    )
    assert arms["sgd-1e-3"].optimizer.options["momentum"] == 0.9
    spec = arms["adamw-1e-3"].model
    assert (spec.d_model, spec.n_layers, spec.ffn, spec.position) == (256, 6, "swiglu", "rope")
    assert {arms[arm].optimizer.name for arm in plan.exploratory} == {"muon", "sgd"}
    assert min(arms[arm].optimizer.lr for arm in plan.exploratory if "sgd" in arm) > max(rates)


def test_five_minutes_changes_one_thing_per_arm(configs):
    plan, arms = read_plan("five_minutes"), configs["five_minutes"]
    assert plan.confirmation is not None
    assert plan.confirmation.competitions["best"] == tuple(arm for arm in arms if arm != "baseline")
    for arm in plan.confirmation.competitions["best"]:
        assert len(plan.arms[arm]) == 1, arm
        assert len({key.partition(".")[0] for key in differing(arms[arm], arms["baseline"])}) == 1, arm
    spec = arms["baseline"].model
    assert (spec.d_model, spec.n_layers, arms["baseline"].budget.seconds) == (64, 2, 300)


@pytest.mark.parametrize("name", HYPOTHESES)
def test_every_arm_of_a_plan_has_the_same_budget(name, configs):
    budgets = {config.budget for config in configs[name].values()}
    assert len(budgets) == 1
    if read_plan(name).primary.name == "val_bpb_best":  # the best of 20 scores, as the comments say
        assert [(each.seconds, each.evaluations, each.charge_compile) for each in budgets] == [(300, 20, False)]


@pytest.mark.parametrize(
    ("name", "n_sweep", "n_judged"),
    [
        ("gpt_to_llama", 18, 18),
        ("compile_coverage", 27, 27),
        ("optimizer_sweep", 69, 20),
        ("five_minutes", 36, 10),
        ("mla_kv_cache", 50, 50),
    ],
)
def test_the_number_of_runs_is_what_the_comments_say(name, n_sweep, n_judged):
    plan = read_plan(name)
    assert len(cells(plan)) == n_sweep
    assert len(plan.judged_arms) * len(plan.judged_seeds) == n_judged
    if plan.confirmation is not None:
        assert len(plan.confirmation.seeds) >= 5
        assert not set(plan.confirmation.seeds) & set(plan.seeds)
        assert {cell.seed for cell in confirmation_cells(plan)} == set(plan.confirmation.seeds)


def test_mla_kv_cache_matches_parameters_and_counts_its_cache(configs):
    from lmexp.model.language_model import LanguageModel

    arms = configs["mla_kv_cache"]
    mha, mla = arms["mha-8k"].model, arms["mla-8k"].model
    assert (mha.n_heads, mha.head_dim, mha.kv_heads, mha.d_model, mha.n_layers) == (16, 32, 16, 512, 4)
    assert (mla.mla.kv_rank, mla.mla.rope_width) == (4 * 32, 32 // 2)  # DeepSeek-V2's proportions
    assert (mla.mla.kv_rank + mla.mla.rope_width) / (2 * 16 * 32) == pytest.approx(0.141, abs=5e-4)
    matrices = {}
    for name, spec in (("mha", mha), ("mla", mla)):
        layer = LanguageModel(spec, 64, 64, 16).layers[0]
        matrices[name] = sum(array.size for _, array in named_parameters(layer) if array.ndim == 2)
    assert matrices == {"mla": 3_145_728, "mha": 3_149_824}  # the comment's figures


def test_mla_kv_cache_varies_the_mixer_and_the_length_alone(configs):
    arms = configs["mla_kv_cache"]
    lengths = {"512": 512, "1k": 1024, "2k": 2048, "4k": 4096, "8k": 8192}
    assert {arm: config.decode.n_tokens for arm, config in arms.items()} == {
        f"{mixer}-{name}": length for mixer in ("mha", "mla") for name, length in lengths.items()
    }
    assert 5 * sum(config.decode.n_tokens for config in arms.values()) == 158_720  # the comment's figure
    assert {config.decode.memory_limit_bytes for config in arms.values()} == {1 << 30}
    assert differing(arms["mha-512"], arms["mha-8k"]) == {"decode.n_tokens"}
    assert differing(arms["mla-512"], arms["mla-8k"]) == {"decode.n_tokens"}
    assert differing(arms["mla-8k"], arms["mha-8k"]) == {"model.layers", "model.mla", "model.ffn_expansion"}
    assert {config.precision.compute for config in arms.values()} == {"float32"}
