"""What a figure shows is what the analysis says: marks are read back from the SVG by the axis drawn beside them."""

import re
from dataclasses import replace
from html import escape

import numpy as np
import pytest
from analysis_rows import analysed, make_lock, make_plan, make_runs, make_steps, without
from drawings import MINUS, TIMES, Drawing, number
from report_plans import FRESH, RATES, sweep_plan, sweep_rows, timing_plan, timing_rows

from lmexp.analysis import analyse, figures
from lmexp.analysis.chart import text_width
from lmexp.analysis.crossing import crossing_of, effects, parting, ratios, thresholds
from lmexp.analysis.curves import Curve, mean_curve, read_curves
from lmexp.analysis.diagnostics import residuals
from lmexp.analysis.pictures import Picture
from lmexp.plan import Analysis, Metric, read_plan
from lmexp.statistics.blocks import fit_blocks
from lmexp.statistics.estimates import Estimate

PLAN = make_plan()
RUNS = make_runs(PLAN, slowing=0.1)
NO_TESTS = Analysis(0.05, "blocked_anova", "dunnett_blocked", "hedges_g", None)
PIXEL = 0.1  # coordinates are rounded to a tenth of a pixel


@pytest.fixture(scope="module")
def llama():
    return analysed(PLAN, RUNS)


@pytest.fixture(scope="module")
def speeds():
    plan = timing_plan()
    runs, steps = timing_rows(plan)
    return analyse(plan, runs, make_lock(plan), steps)


@pytest.fixture(scope="module")
def latent():
    """The plan that asks for bytes and lengths: a memory that parts at 2k, counts that no seed changes."""
    plan = read_plan("mla_kv_cache")
    runs = make_runs(plan)
    generator = np.random.Generator(np.random.PCG64(5))
    is_latent = runs["arm"].str.startswith("mla").to_numpy()
    saved = (
        runs["arm"].str.split("-").str[1].map({"512": 0.95, "1k": 0.85, "2k": 0.75, "4k": 0.6, "8k": 0.5}).to_numpy()
    )
    noise = generator.normal(1, 0.002, (2, len(runs)))
    runs = runs.assign(
        decode_tokens_per_second=90 * np.where(is_latent, 1.1, 1.0) * noise[0],
        cache_bytes_per_token_per_layer=np.where(is_latent, 576.0, 4096.0),
        decode_peak_memory_bytes=2e8 * np.where(is_latent, saved, 1.0) * noise[1],
        longest_length_tokens=np.where(is_latent, 200_000.0, 30_000.0),
        tokens_per_second=np.nan,
        steps=np.nan,
    )
    return analysed(plan, runs)


@pytest.fixture(scope="module")
def sweep():
    plan = sweep_plan()
    runs, _ = sweep_rows(plan)
    return analyse(plan, runs, make_lock(plan))


BYTES = "peak_memory_bytes"


def in_bytes(control="baseline"):
    """An analysis whose measure is shown in another unit than it is stored in."""
    analysis = Analysis(0.05, "blocked_anova", "dunnett_blocked" if control else "none", "d_z", None)
    plan = make_plan(primary=Metric(BYTES, "lower", "MiB", 2**21), control=control, hypotheses=(), analysis=analysis)
    generator = np.random.Generator(np.random.PCG64(2))
    return analysed(plan, RUNS.assign(peak_memory_bytes=RUNS[BYTES] + generator.normal(0, 3e6, len(RUNS))))


def curves_of(analysis, runs=RUNS):
    return read_curves(analysis.used, make_steps(runs), "val_bpb")[0]


def seeds_of(analysis, arm):
    return np.array(analysis.summaries[analysis.primary.name][arm].values, dtype=float)


def close(found, expected, scale):
    """Equal but for a tenth of a pixel, which is worth this much on the figure's scale."""
    per_pixel = abs(scale(101.0) - scale(100.0))
    return np.sort(found) == pytest.approx(np.sort(expected), abs=2 * PIXEL * per_pixel)


class TestEstimation:
    def test_every_seed_stands_at_its_value_in_its_arms_colour(self, llama):
        drawn = Drawing(figures.estimation_plot(llama).wide)
        scale = drawn.upright_scale(0)
        for place, arm in enumerate(("gqa", "swiglu", "rmsnorm", "rope", "llama")):
            (points,) = drawn.paths(f"arm-{place}", 6.4)
            assert close(scale(points[:, 1]), seeds_of(llama, arm), scale)
            assert np.ptp(points[:, 0]) == 0

    def test_slopes_join_the_control_and_the_arm_at_the_same_seed(self, llama):
        drawn = Drawing(figures.estimation_plot(llama).wide)
        scale, lines = drawn.upright_scale(0), drawn.paths("muted", 1)
        pairs = scale(lines[3][:, 1]).reshape(3, 2)  # rope is the fourth
        expected = np.column_stack([seeds_of(llama, "baseline"), seeds_of(llama, "rope")])
        assert pairs == pytest.approx(expected, abs=1e-3)

    def test_beneath_are_the_difference_and_its_simultaneous_interval(self, llama):
        drawn = Drawing(figures.estimation_plot(llama).wide)
        scale = drawn.upright_scale(1)
        for place, found in enumerate(llama.comparisons["val_bpb"]):
            (mean,) = drawn.paths(f"arm-{place}", 8)
            (bar,) = drawn.paths(f"arm-{place}", 2.4)
            (single,) = drawn.paths(f"arm-{place}", 3.8)
            shown = found.difference.simultaneous
            assert close(scale(mean[:, 1]), [shown.value], scale)
            assert close(scale(bar[:, 1]), [shown.low, shown.high], scale)
            assert close(scale(single[:, 1]), found.paired, scale)
            assert found.difference.alone.low > shown.low  # the two can be told apart

    def test_the_band_is_the_smallest_effect_of_interest(self, llama):
        drawn = Drawing(figures.estimation_plot(llama).wide)
        scale = drawn.upright_scale(1)
        (band,) = drawn.root.iter("{http://www.w3.org/2000/svg}rect")
        top, height = float(band.get("y")), float(band.get("height"))
        assert close(scale(np.array([top, top + height])), [0.01, -0.01], scale)

    def test_names_stand_above_their_own_column(self, llama):
        drawn = Drawing(figures.estimation_plot(llama).wide)
        for place, arm in enumerate(("gqa", "swiglu", "rmsnorm", "rope", "llama")):
            ((x, style),) = [(x, style) for text, x, _, style in drawn.texts if text == arm]
            assert f"var(--arm-{place}," in style
            assert x == pytest.approx(drawn.paths(f"arm-{place}", 8)[0][0, 0], abs=PIXEL)

    def test_a_speed_stands_on_logarithmic_axes_and_differences_are_ratios(self):
        plan = make_plan(primary=Metric("tokens_per_second", "higher", "tokens/s", 0.02), hypotheses=())
        analysis = analysed(plan, make_runs(plan))
        picture = figures.estimation_plot(analysis)
        drawn = Drawing(picture.wide)
        values, ratios = drawn.upright_scale(0), drawn.upright_scale(1)
        for place, found in enumerate(analysis.comparisons["tokens_per_second"]):
            assert close(values(drawn.paths(f"arm-{place}", 6.4)[0][:, 1]), seeds_of(analysis, found.arm), values)
            shown = found.difference.shown
            bar = ratios(drawn.paths(f"arm-{place}", 2.4)[0][:, 1])
            assert close(bar, np.exp([shown.low, shown.high]), ratios)
        assert "Ratio to baseline (logarithmic)" in picture.wide
        assert "above 1 is better" in picture.caption
        (band,) = drawn.root.iter("{http://www.w3.org/2000/svg}rect")
        ends = ratios(np.array([float(band.get("y")), float(band.get("y")) + float(band.get("height"))]))
        assert close(ends, [1.02, 1 / 1.02], ratios)

    @pytest.mark.parametrize("control", ["baseline", None])
    def test_bytes_are_drawn_in_the_unit_that_the_axis_names(self, control):
        analysis = in_bytes(control)
        picture = figures.estimation_plot(analysis)
        drawn, scale = Drawing(picture.wide), Drawing(picture.wide).upright_scale(0)
        place, size = (3, 6.4) if control else (4, 6.8)  # rope among the arms that are not the control
        assert close(scale(drawn.paths(f"arm-{place}", size)[0][:, 1]), seeds_of(analysis, "rope") / 2**20, scale)
        if control:
            gaps, found = drawn.upright_scale(1), next(c for c in analysis.comparisons[BYTES] if c.arm == "rope")
            shown = found.difference.shown
            bar = gaps(drawn.paths("arm-3", 2.4)[0][:, 1])
            assert close(bar, np.array([shown.low, shown.high]) / 2**20, gaps)
        else:
            means = [scale(bar[0, 1]) for bar in drawn.paths("ink", 2)]
            assert close(means, [seeds_of(analysis, arm).mean() / 2**20 for arm in analysis.plan.arms], scale)
        assert "Peak memory, MiB" in picture.wide

    def test_the_caption_says_what_is_shown(self, llama):
        caption = figures.estimation_plot(llama).caption
        assert "the difference from baseline over n = 3 complete seeds: below zero is better" in caption
        assert "the bar its 95% simultaneous interval" in caption
        alone = analysed(make_plan(analysis=Analysis(0.05, "none", "none", "d_z", None), hypotheses=()), RUNS)
        assert "the bar its 95% interval." in figures.estimation_plot(alone).caption
        higher = analysed(make_plan(primary=Metric("val_bpb", "higher", "points", None)), RUNS)
        assert "above zero is better" in figures.estimation_plot(higher).caption

    def test_many_seeds_are_sampled_and_the_caption_says_so(self):
        plan = make_plan(seeds=tuple(range(200)), hypotheses=())
        analysis = analysed(plan, make_runs(plan))
        picture = figures.estimation_plot(analysis)
        assert len(Drawing(picture.wide).paths("arm-0", 6.4)[0]) == 60
        assert "over n = 200 complete seeds" in picture.caption
        assert "60 of 200 seeds are drawn, evenly spaced." in picture.caption
        assert len(picture.wide) < 150_000

    def test_seeds_without_a_value_are_not_drawn(self):
        analysis = analysed(PLAN, without(RUNS, "gqa", 2))
        drawn = Drawing(figures.estimation_plot(analysis).wide)
        assert [len(drawn.paths(f"arm-{place}", 6.4)[0]) for place in (0, 1)] == [2, 3]

    def test_without_a_control_every_arm_has_its_seeds_and_its_mean(self):
        plan = make_plan(control=None, hypotheses=(), analysis=Analysis(0.05, "none", "none", "d_z", None))
        analysis = analysed(plan, RUNS)
        picture = figures.estimation_plot(analysis)
        drawn = Drawing(picture.wide)
        scale, bars = drawn.upright_scale(0), drawn.paths("ink", 2)
        for place, arm in enumerate(plan.arms):
            assert close(scale(drawn.paths(f"arm-{place}", 6.8)[0][:, 1]), seeds_of(analysis, arm), scale)
            assert close(scale(bars[place][:1, 1]), [seeds_of(analysis, arm).mean()], scale)
        assert "n = 3 seeds per arm" in picture.caption


class TestForest:
    def test_every_arm_has_its_interval_and_its_words(self, llama):
        picture = figures.forest_plot(llama)
        drawn = Drawing(picture.wide)
        height = max(y for text, _, y, _ in drawn.texts if re.fullmatch(rf"{MINUS}?[\d.]+", text))
        scale = drawn.level_scale(height)
        rows = []
        for place, found in enumerate(llama.comparisons["val_bpb"]):
            (bar,), (dot,) = drawn.paths(f"arm-{place}", 3), drawn.paths(f"arm-{place}", 9.2)
            shown = found.difference.simultaneous
            assert close(scale(bar[:, 0]), [shown.low, shown.high], scale)
            assert close(scale(dot[:, 0]), [shown.value], scale)
            rows.append(dot[0, 1])
            (name,) = [y for text, _, y, _ in drawn.texts if text == found.arm]
            assert abs(name - dot[0, 1]) < 8
        assert rows == sorted(rows)
        words = [text for text, x, _, _ in drawn.texts if "matter" in text or "shown" in text]
        assert words == [
            "neither a difference nor equality shown",
            "better, by enough to matter",
            "neither a difference nor equality shown",
            "better, by enough to matter",
            "better, by enough to matter",
        ]
        assert "hold for all arms together" in picture.caption
        assert "n = 3 seeds" in picture.caption

    def test_the_shaded_band_and_the_line_of_no_difference(self, llama):
        drawn = Drawing(figures.forest_plot(llama).wide)
        height = max(y for text, _, y, _ in drawn.texts if re.fullmatch(rf"{MINUS}?[\d.]+", text))
        scale = drawn.level_scale(height)
        (band,) = drawn.root.iter("{http://www.w3.org/2000/svg}rect")
        left, width = float(band.get("x")), float(band.get("width"))
        assert close(scale(np.array([left, left + width])), [-0.01, 0.01], scale)
        assert float(band.get("height")) == 5 * 30  # from the first row to the last
        (zero,) = drawn.paths("ink", 1)
        assert close(scale(zero[:1, 0]), [0.0], scale)

    def test_bytes_are_drawn_in_the_unit_that_the_axis_names(self):
        analysis = in_bytes()
        drawn = Drawing(figures.forest_plot(analysis).wide)
        height = max(y for text, _, y, _ in drawn.texts if re.fullmatch(rf"{MINUS}?[\d.]+", text))
        scale = drawn.level_scale(height)
        shown = next(c for c in analysis.comparisons[BYTES] if c.arm == "rope").difference.shown
        assert close(scale(drawn.paths("arm-3", 3)[0][:, 0]), np.array([shown.low, shown.high]) / 2**20, scale)
        (band,) = drawn.root.iter("{http://www.w3.org/2000/svg}rect")
        left, width = float(band.get("x")), float(band.get("width"))
        assert close(scale(np.array([left, left + width])), [-2.0, 2.0], scale)

    def test_an_interval_that_dwarfs_the_others_is_cut_with_open_ends(self):
        """Two arms, two seeds: one degree of freedom makes intervals hundreds of differences wide."""
        plan = make_plan(arms={"baseline": (), "gqa": (), "rope": ()}, seeds=(0, 1), hypotheses=(), analysis=NO_TESTS)
        runs = make_runs(plan)
        runs["val_bpb"] += np.where((runs["arm"] == "gqa") & (runs["seed"] == 1), 0.5, 0)
        drawn = Drawing(figures.forest_plot(analysed(plan, runs)).wide)
        assert drawn.paths("arm-0", 6.8)

    def test_unregistered_runs_have_intervals_and_no_words(self, llama):
        analysis = analyse(PLAN, RUNS.assign(registered=False))
        picture = figures.forest_plot(analysis)
        assert Drawing(picture.wide).paths("arm-3", 3)
        assert "matter" not in picture.wide + picture.alt

    def test_one_arm_needs_no_forest(self):
        plan = make_plan(arms={"baseline": (), "gqa": ()}, hypotheses=(), analysis=NO_TESTS)
        assert figures.forest_plot(analysed(plan, make_runs(plan))) is None


class TestTraining:
    def test_thin_lines_are_seeds_and_the_thick_one_their_mean(self, llama):
        curves = curves_of(llama)
        picture = figures.loss_curves(llama, curves, "Validation loss, bits/byte")
        drawn = Drawing(picture.wide)
        scale = drawn.upright_scale(0)
        for place, arm in enumerate(("gqa", "swiglu", "rmsnorm", "rope", "llama")):
            thin, (thick,) = drawn.paths(f"arm-{place}", 0.8), drawn.paths(f"arm-{place}", 2)
            own = [curve for curve in curves if curve.arm == arm]
            assert len(thin) == 3
            # the panels share the axis, but lie in two rows: compare how far apart the ends are
            ends = np.array([line[-1, 1] for line in thin] + [thick[-1, 1]])
            expected = np.array([curve.values[-1] for curve in own] + [mean_curve(own, 0.95).mean[-1]])
            slope = scale(101.0) - scale(100.0)
            assert (ends - ends[0]) * slope == pytest.approx(expected - expected[0], abs=3 * PIXEL * abs(slope))
        assert picture.caption.startswith("Validation loss, bits/byte over seconds of counted training (n = 3 seeds")
        assert "95% t interval" in picture.caption

    def test_a_sample_of_seeds_is_named(self, llama):
        plan = make_plan(seeds=tuple(range(40)), hypotheses=())
        runs = make_runs(plan)
        analysis = analysed(plan, runs)
        few = [curve for curve in curves_of(analysis, runs) if curve.seed < 7]
        assert "n = 7 seeds per arm" in figures.loss_curves(analysis, few, "Loss").caption
        assert "7 of 40 seeds are drawn" in figures.loss_curves(analysis, few, "Loss").caption
        assert "Means are over these" in figures.gap_curves(analysis, few, "bits/byte").caption
        assert "drawn" not in figures.loss_curves(llama, curves_of(llama), "Loss").caption

    def test_gaps_are_arm_minus_control_and_named_at_their_end(self, llama):
        curves = curves_of(llama)
        drawn = Drawing(figures.gap_curves(llama, curves, "bits/byte").wide)
        scale = drawn.upright_scale(0)
        ends = {curve.arm: [] for curve in curves}
        for curve in curves:
            ends[curve.arm].append(curve.values[-1])
        for place, arm in enumerate(("gqa", "swiglu", "rmsnorm", "rope", "llama")):
            (mean,) = drawn.paths(f"arm-{place}", 2)
            assert close(scale(mean[-1:, 1]), [np.mean(ends[arm]) - np.mean(ends["baseline"])], scale)
            ((y, style),) = [(y, style) for text, _, y, style in drawn.texts if text == arm]
            assert f"arm-{place}" in style
            assert abs(y - 3.8 - mean[-1, 1]) < 20  # labels move apart, but stay near

    @pytest.mark.parametrize("times", [([1, 2], [8, 9]), ([1, 2, 3], [2, 3, 4]), ([1, 9], [2, 3]), ([5.0], [5.0, 6.0])])
    def test_curves_of_any_times_can_be_drawn(self, times):
        plan = make_plan(seeds=(0, 1), arms={"baseline": (), "gqa": ()}, hypotheses=(), analysis=NO_TESTS)
        analysis = analysed(plan, make_runs(plan))
        curves = [
            Curve(arm, seed, np.array(times[seed], float), np.linspace(3, 2, len(times[seed])) + (arm == "gqa"))
            for arm in plan.arms
            for seed in plan.seeds
        ]
        assert "nan" not in figures.loss_curves(analysis, curves, "Loss").wide
        gaps = figures.gap_curves(analysis, curves, "bits/byte")
        assert gaps is None or "nan" not in gaps.wide

    def test_one_evaluation_makes_no_curve(self, llama):
        single = [Curve("gqa", seed, np.array([300.0]), np.array([2.3])) for seed in (0, 1, 2)]
        assert figures.loss_curves(llama, single, "Loss") is None
        assert figures.loss_curves(llama, [], "Loss") is None


class TestSweep:
    def panel_of(self, drawn, name):
        """Return the left edge of a panel by its title."""
        ((x, y),) = [(x, y) for text, x, y, _ in drawn.texts if text == name]
        return x, y

    def test_means_choice_held_out_and_fresh(self, sweep):
        drawn = Drawing(figures.sweep_plot(sweep).wide)
        scale = drawn.upright_scale(0)
        for name, colour in (("adamw", "control"), ("lion", "arm-1")):
            found = next(each for each in sweep.sweep.competitions if each.name == name)
            (line,) = drawn.paths(colour, 1.8)
            (dots,) = (found for found in drawn.paths(colour, 6) if len(found) > 2)
            assert np.array_equal(dots, line)
            whole = np.isfinite(found.values).all(axis=1)
            assert close(scale(line[:, 1]), found.values[whole].mean(axis=1), scale)
            at = found.arms.index(found.chosen)
            rings = [ring[0] for ring in drawn.paths("ink", 13)]
            expected = found.values[at].mean()
            assert any(abs(ring[0] - line[at, 0]) < PIXEL and abs(scale(ring[1]) - expected) < 1e-3 for ring in rings)

    def test_intervals_beside_the_choice(self, sweep):
        drawn = Drawing(figures.sweep_plot(sweep).wide)
        scale = drawn.upright_scale(0)
        held, fresh = drawn.paths("muted", 2), drawn.paths("ink", 2)
        for place, found in enumerate(sweep.sweep.competitions):
            best, summary = found.best, sweep.summaries["val_bpb"][found.name]
            assert close(scale(held[place][:, 1]), [best.low, best.high], scale)
            assert close(scale(fresh[place][:, 1]), [summary.interval.low, summary.interval.high], scale)

    def test_levels_are_named_and_lie_by_their_ratios(self, sweep):
        drawn = Drawing(figures.sweep_plot(sweep).wide)
        places = [x for text, x, _, _ in drawn.texts if text in RATES][:4]
        steps = np.diff(places) / np.diff(np.log([float(rate) for rate in RATES]))
        assert np.ptp(steps) < 0.02 * steps[0]

    def test_edge_divergence_and_n_are_said(self, sweep):
        picture = figures.sweep_plot(sweep)
        assert picture.wide.count("chosen at the grid&#x27;s edge") == 1  # sgd's
        assert f">{TIMES}{TIMES}<" in picture.wide  # lion's, twice
        assert "n = 3 seeds per level" in picture.caption
        assert f"n = {len(FRESH)}" in picture.caption
        assert "sgd: chosen 3e-3, at the edge of the grid" in picture.alt

    def test_levels_that_are_far_worse_leave_the_axis_and_are_marked(self, sweep):
        drawn = Drawing(figures.sweep_plot(sweep).wide)
        hollow = [dot for dot in drawn.paths("arm-0", 6) if len(np.unique(dot[:, 1])) == 1]
        assert hollow  # sgd at its lowest rate

    def test_levels_that_are_no_numbers_stand_side_by_side(self):
        plan = sweep_plan(factors={})
        runs, _ = sweep_rows(plan)
        picture = figures.sweep_plot(analyse(plan, runs, make_lock(plan)))
        assert "adamw-1e-4" in picture.wide
        assert "rotate(" in picture.narrow  # where level names would run together
        assert Drawing(picture.wide).paths("control", 6)
        assert not Drawing(picture.wide).paths("control", 1.8)  # what has no order is not joined

    def test_without_a_confirmation_there_is_none(self, llama):
        assert figures.sweep_plot(llama) is None


class TestCrossed:
    def test_means_by_level_on_a_logarithmic_axis(self, speeds):
        drawn = Drawing(figures.interaction_plot(speeds).wide)
        scale = drawn.upright_scale(0)
        for level, colour in (("none", "ink"), ("step", "arm-0"), ("all", "arm-1")):
            (line,) = drawn.paths(colour, 2)
            expected = [np.exp(np.log(seeds_of(speeds, f"{level}-{size}")).mean()) for size in ("tiny", "small")]
            assert scale(line[:, 1]) == pytest.approx(expected, rel=5e-3)  # in order: tiny, then small
            assert any(text == level and f"var(--{colour}," in style for text, _, _, style in drawn.texts)

    def test_speed_ups_with_their_intervals(self, speeds):
        drawn = Drawing(figures.speed_up_plot(speeds).wide)
        scale, found = drawn.upright_scale(0), effects(speeds)
        for level, colour in (("step", "arm-0"), ("all", "arm-1")):
            (dots,) = drawn.paths(colour, 8)
            bars = drawn.paths(colour, 2.4)
            assert scale(dots[:, 1]) == pytest.approx([found[level, s].value for s in ("tiny", "small")], rel=2e-3)
            for bar, size in zip(bars, ("tiny", "small"), strict=True):
                assert close(scale(bar[:, 1]), [found[level, size].low, found[level, size].high], scale)

    def test_above_one_is_better_for_durations_too(self):
        plan = timing_plan(primary=Metric("time_to_first_step_seconds", "lower", "s", None), secondary=())
        runs, steps = timing_rows(plan)
        analysis = analyse(plan, runs, make_lock(plan), steps)
        assert effects(analysis)["all", "small"].value == pytest.approx(1 / 4, rel=0.1)  # four times as slow
        assert effects(analysis)["step", "tiny"].high < 1

    def test_what_is_compared_is_what_the_criteria_compare(self, speeds):
        found = crossing_of(speeds)
        assert (found.compared, found.over, found.base) == ("coverage", "size", "none")
        assert found.values[2, 1] == pytest.approx(seeds_of(speeds, "all-small"))
        turned = timing_plan(factors={"size": ("tiny", "small"), "coverage": ("none", "step", "all")})
        arms = {f"{size}-{level}": () for size in ("tiny", "small") for level in ("none", "step", "all")}
        plan = make_plan(arms=arms, factors=turned.factors, control="small-none", hypotheses=(), secondary=())
        plan = replace(plan, analysis=NO_TESTS)
        assert crossing_of(analysed(plan, make_runs(plan))).compared == "size"  # nothing says: the first

    def test_other_measures_have_a_panel_each(self, speeds):
        picture = figures.other_interactions_plot(speeds)
        drawn = Drawing(picture.wide)
        titles = [text for text, _, _, _ in drawn.texts if text.startswith(("Time to the first", "Peak memory"))]
        assert titles == ["Time to the first step, s", "Peak memory, MiB"]
        assert len(drawn.paths("arm-1", 2)) == 2

    def test_what_differs_by_factors_stands_on_logarithmic_axes(self, latent):
        drawn = Drawing(figures.other_interactions_plot(latent).wide)
        scale = drawn.upright_scale(0)
        assert scale(drawn.paths("ink", 2)[0][:, 1]) == pytest.approx([4096] * 5, rel=5e-3)
        assert scale(drawn.paths("arm-0", 2)[0][:, 1]) == pytest.approx([576] * 5, rel=5e-3)

    def test_ratios_stand_beside_what_the_criteria_ask(self, latent):
        picture = figures.ratios_plot(latent)
        drawn = Drawing(picture.wide)
        assert [text for text, _, _, _ in drawn.texts if text.endswith("ratio to mha")] == [
            "Decoding speed, ratio to mha",
            "Cache per token and layer, ratio to mha",
            "Peak memory of decoding, ratio to mha",
            "Longest sequence that fits, ratio to mha",
        ]
        found = ratios(latent, "decode_peak_memory_bytes")
        scale, dots = drawn.upright_scale(1), drawn.paths("arm-0", 8)
        assert scale(dots[2][:, 1]) == pytest.approx([each.value for each in found.values()], rel=5e-3)
        assert scale(dots[2][:, 1]) == pytest.approx([0.95, 0.85, 0.75, 0.6, 0.5], rel=0.02)
        for said in (
            "Decoding speed: mla is not above 1.25 at length 8k.",
            "Cache per token and layer: mla is below 0.15 from length 512 on.",
            "Peak memory of decoding: mla is below 0.80 from length 2k on.",
            "Longest sequence that fits: mla is above 1.25 from length 512 on.",
        ):
            assert said in picture.caption

    def test_counts_that_no_seed_changes_have_exact_ratios(self, latent):
        (exact, *_) = ratios(latent, "cache_bytes_per_token_per_layer").values()
        assert (exact.value, exact.low, exact.high) == (576 / 4096,) * 3
        peak = ratios(latent, "decode_peak_memory_bytes")["mla", "512"]
        assert peak.low < peak.value < peak.high

    def test_thresholds_are_those_of_the_criteria(self, latent):
        assert thresholds(latent, "decode_peak_memory_bytes") == [0.8]
        assert thresholds(latent, "decode_tokens_per_second") == [1.25]  # 1 has a line of its own

    def test_a_parting_lasts_to_the_end(self):
        def estimates(*intervals):
            places = "abc"
            return {
                ("mla", place): Estimate(sum(ends) / 2, *ends, 0.95, 3, None, "made", None)
                for place, ends in zip(places, intervals, strict=True)
            }

        low, wide, high = (0.6, 0.7), (0.7, 0.9), (0.85, 0.95)
        assert parting(estimates(low, low, low), "mla", 0.8) == "a"
        assert parting(estimates(low, wide, low), "mla", 0.8) == "c"
        assert parting(estimates(low, low, wide), "mla", 0.8) is None
        assert parting(estimates(high, wide, low), "mla", 0.8) == "c"
        over, not_quite = (1.3, 1.4), (1.2, 1.3)
        assert parting(estimates(not_quite, over, over), "mla", 1.25) == "b"
        assert parting(estimates(over, over, not_quite), "mla", 1.25) is None

    def test_what_no_run_measured_has_no_column(self, latent, llama):
        assert [each.name for each in latent.measures if each.name in ("tokens_per_second", "steps")] == []
        assert [each.name for each in llama.measures if each.name in ("tokens_per_second", "steps")] != []

    def test_other_plans_have_none_of_them(self, llama, speeds):
        assert figures.ratios_plot(llama) is None
        assert figures.ratios_plot(speeds) is None  # of speeds there is the speed-up
        assert figures.interaction_plot(llama) is None
        assert figures.speed_up_plot(llama) is None
        assert figures.other_interactions_plot(llama) is None
        assert effects(llama) == {}

    def test_a_loss_has_an_interaction_and_no_speed_up(self):
        plan = timing_plan(primary=Metric("val_bpb", "lower", "bits/byte", None), secondary=(), hypotheses=())
        analysis = analysed(plan, make_runs(plan))
        assert "parallel: no interaction" in figures.interaction_plot(analysis).caption
        assert figures.speed_up_plot(analysis) is None
        gap = seeds_of(analysis, "all-tiny") - seeds_of(analysis, "none-tiny")
        assert effects(analysis)["all", "tiny"].value == pytest.approx(gap.mean())


class TestLaunches:
    def test_the_cut_and_the_median_are_drawn_where_they_are(self, speeds):
        """In the first panel, whose axes are the first with their ticks."""
        drawn = Drawing(figures.traces_plot(speeds).wide)
        launches = [each for each in speeds.speeds.launches if each.arm == "none-tiny"]
        y, beneath = drawn.upright_scale(0), min(y for text, _, y, _ in drawn.texts if text == "0")
        x = drawn.level_scale(beneath, before=300)
        cuts, medians = drawn.paths("accent", 1.2)[:3], drawn.paths("ink", 1.2)[:3]
        assert close(x(np.array([cut[0, 0] for cut in cuts])), [e.seconds[e.launch.n_cut - 1] for e in launches], x)
        assert close(y(np.array([line[0, 1] for line in medians])), [1000 * e.launch.median for e in launches], y)

    def test_launches_that_never_settle_are_dashed_and_have_no_median(self):
        plan = timing_plan()
        runs, steps = timing_rows(plan, unsettled={("all-tiny", 1)})
        analysis = analyse(plan, runs, make_lock(plan), steps)
        picture = figures.traces_plot(analysis)
        assert picture.wide.count("stroke-dasharray") == 1
        assert len(Drawing(picture.wide).paths("accent", 1.2)) == 17
        assert "all-tiny: 2 of 3 launches settled" in picture.alt

    def test_n_is_stated_and_other_plans_have_none(self, speeds, llama):
        assert "n = 3 seeds per arm" in figures.traces_plot(speeds).caption
        assert figures.traces_plot(llama) is None


class TestDiagnostics:
    def test_residuals_are_those_of_the_blocked_fit(self, llama):
        table = RUNS.pivot(index="arm", columns="seed", values="val_bpb").loc[list(PLAN.arms)].to_numpy()
        fit, found = fit_blocks(table), residuals(llama)
        assert (found.residual**2).sum() == pytest.approx(fit.ss_error)
        place = [(arm, seed) for arm, seed in zip(found.arms, found.seeds, strict=True)].index(("rope", 1))
        expected = table[4, 1] - table[4].mean() - table[:, 1].mean() + table.mean()
        assert found.residual[place] == pytest.approx(expected)
        assert found.fitted[place] == pytest.approx(table[4, 1] - expected)

    def test_they_come_in_order_of_start(self, llama):
        started = RUNS.sort_values("started_at")
        found = residuals(llama)
        assert list(zip(found.arms, found.seeds, strict=True)) == list(
            zip(started["arm"], started["seed"], strict=True)
        )
        turned = analysed(PLAN, RUNS.assign(started_at=RUNS["started_at"].to_numpy()[::-1]))
        assert residuals(turned).arms == tuple(started["arm"])[::-1]

    def test_the_figure_shows_them_against_order(self, llama):
        picture, found = figures.diagnostics_plot(llama), residuals(llama)
        drawn = Drawing(picture.wide)
        fitted, by_order = drawn.paths("arm-3", 6)
        scale = drawn.upright_scale(0)
        own = np.array(found.arms) == "rope"
        assert close(scale(by_order[:, 1]), found.residual[own], scale)
        assert np.array_equal(fitted[:, 1], by_order[:, 1])
        assert (np.argsort(by_order[:, 0]) == np.argsort(found.order[own])).all()
        assert "n = 18 runs" in picture.caption

    def test_bytes_are_drawn_in_the_unit_that_the_axis_names(self):
        analysis = in_bytes()
        drawn, found = Drawing(figures.diagnostics_plot(analysis).wide), residuals(analysis)
        scale, own = drawn.upright_scale(0), np.array(found.arms) == "rope"
        assert close(scale(drawn.paths("arm-3", 6)[1][:, 1]), found.residual[own] / 2**20, scale)
        ticks = [number(text) for text, _, _, _ in drawn.texts if re.fullmatch(r"1,\d\d\d", text)]
        assert ticks  # fitted values, in MiB

    def test_speeds_have_residuals_as_ratios(self, speeds):
        drawn = Drawing(figures.diagnostics_plot(speeds).wide)
        ticks = [number(text) for text, _, _, _ in drawn.texts if text.startswith(TIMES)]
        assert 1.0 in ticks

    def test_one_seed_has_no_residuals(self):
        plan = make_plan(seeds=(0,), hypotheses=())
        assert figures.diagnostics_plot(analysed(plan, make_runs(plan))) is None


class TestDrift:
    def test_every_run_stands_at_its_pace_and_slow_ones_are_accented(self, llama):
        drawn = Drawing(figures.drift_plot(llama).wide)
        scale = drawn.upright_scale(0)
        slow = {probe.run_id for probe in llama.drift.slow}
        paces = [100 * probe.pace for probe in llama.drift.probes if probe.run_id in slow]
        (dots,) = drawn.paths("accent", 5.6)
        assert 18 > len(slow) > 0
        assert close(scale(dots[:, 1]), paces, scale)
        assert len(drawn.paths("muted", 5.6)[0]) == 18 - len(slow)

    def test_the_pace_of_the_fastest_has_a_tick(self):
        for slowing in (0.0, 0.06, 0.1, 0.3, 0.7):
            picture = figures.drift_plot(analysed(PLAN, make_runs(PLAN, slowing=slowing)))
            assert ">100%<" in picture.wide, slowing

    def test_thousands_of_runs_are_sampled(self):
        plan = make_plan(seeds=tuple(range(100)), hypotheses=())
        picture = figures.drift_plot(analysed(plan, make_runs(plan)))
        assert "n = 600 runs" in picture.caption
        assert "300 of 600 runs are drawn" in picture.caption
        drawn = Drawing(picture.wide)
        assert sum(len(found[0]) for colour in ("muted", "accent") if (found := drawn.paths(colour, 3.6))) == 300


@pytest.fixture(scope="module")
def everything(llama, speeds, sweep, latent):
    """Every figure there is, of every plan that has it."""
    makers = [getattr(figures, name) for name in figures.__all__ if name not in ("loss_curves", "gap_curves")]
    found = [make(analysis) for make in makers for analysis in (llama, speeds, sweep, latent)]
    found += [figures.loss_curves(llama, curves_of(llama), "Loss"), figures.gap_curves(llama, curves_of(llama), "")]
    return [picture for picture in found if picture is not None]


class TestEveryFigure:
    def test_it_states_n_and_has_a_text_alternative(self, everything):
        assert len({picture.name for picture in everything}) == len(figures.__all__)
        for picture in everything:
            assert re.search(r"\bn = \d", picture.caption), picture.name
            assert len(picture.alt) > 30
            for svg in (picture.wide, picture.narrow):
                assert svg.count('role="img"') == 1

    def test_its_colours_are_the_pages(self, everything):
        for picture in everything:
            fixed = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", picture.wide + picture.narrow)
            assert not re.findall(r"#[0-9a-f]{3,6}\b|rgb|\bid=", fixed), picture.name

    def test_nothing_is_drawn_outside_it(self, everything):
        for picture in everything:
            for svg, width in ((picture.wide, 944), (picture.narrow, 350)):
                drawn = Drawing(svg)
                box = [float(side) for side in drawn.root.get("viewBox").split()]
                assert box[2] == width
                for text, x, y, style in drawn.texts:
                    size = float(re.search(r"([\d.]+)px", style)[1])
                    assert text, picture.name
                    assert y - size >= -1, (picture.name, text)
                    assert y <= box[3] + 1, (picture.name, text)
                    assert -40 <= x <= width + 1, (picture.name, text)
                    assert text_width(text, size) < width, (picture.name, text)

    def test_the_text_alternative_tells_values_and_the_caption_explains(self, everything):
        for picture in everything:
            assert f'aria-label="{escape(picture.alt)}"' in picture.wide, picture.name
            assert not re.search(r"\bn = \d", picture.alt), picture.name

    def test_a_notebook_shows_it(self, everything):
        shown = Picture("x", "<svg/>", "", "alt", "a < b")._repr_html_()
        assert "<svg/>" in shown
        assert "a &lt; b" in shown
