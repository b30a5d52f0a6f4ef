"""The report: the same bytes every time, self-contained, complete, honest about gaps, and sensible for any plan."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from analysis_rows import make_plan, make_runs, make_steps, spoil, without

from lmexp.analysis import analyse, figures, terminal_tables, write_report
from lmexp.analysis.curves import Curve, gaps_to, mean_curve, read_curves
from lmexp.analysis.distributions import t_quantile
from lmexp.analysis.drift import drift_of
from lmexp.analysis.measures import measure_of, number_text, p_text, significant
from lmexp.analysis.strips import scale_of, verdict_strip
from lmexp.analysis.tables import anova_table, arms_table, contrasts_table, runs_table, verdicts_table
from lmexp.criteria import parse
from lmexp.errors import UserError
from lmexp.plan import Analysis, Hypothesis
from lmexp.results import read_runs, read_steps, write_run, write_steps

PLAN = make_plan()
NO_TESTS = Analysis(0.05, "blocked_anova", "dunnett_blocked", "hedges_g", None)


class Page(HTMLParser):
    """Collects the text, ids, attributes and tag balance of a page."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, html: str):
        super().__init__()
        self.text, self.ids, self.tags, self.open = "", [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"{tag} closes another"

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def report(folder, plan=PLAN, runs=None, steps=None, notes=()):
    runs = make_runs(plan) if runs is None else runs
    return write_report(plan, runs, make_steps(runs) if steps is None else steps, folder, notes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of the complete plan: (files, page)."""
    runs = make_runs(PLAN, slowing=0.1)
    made = report(tmp_path_factory.mktemp("report"), runs=runs)
    return made, Page(made.path.read_text(encoding="utf-8"))


class TestWholeReport:
    def test_the_same_inputs_give_the_same_bytes(self, whole, tmp_path):
        made, _ = whole
        again = report(tmp_path, runs=make_runs(PLAN, slowing=0.1).sample(frac=1, random_state=3))
        for first, second in zip(
            (made.path, made.verdicts, *made.tables), (again.path, again.verdicts, *again.tables), strict=True
        ):
            assert first.read_bytes() == second.read_bytes(), first.name

    def test_it_needs_no_network_and_no_script(self, whole):
        made, page = whole
        html = made.path.read_text(encoding="utf-8")
        links = set(re.findall(r'https?://[^"\s)]+', html))
        assert links <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}  # names, not addresses
        assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
        assert "@import" not in html

    def test_tags_close_and_ids_are_unique_and_referred_to(self, whole):
        made, page = whole
        assert page.open == []
        assert len(set(page.ids)) == len(page.ids)
        html = made.path.read_text(encoding="utf-8")
        wanted = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html))
        assert {first or second for first, second in wanted} <= set(page.ids)

    def test_colours_follow_the_page(self, whole):
        html = whole[0].path.read_text(encoding="utf-8")
        assert "prefers-color-scheme: dark" in html
        drawn = "".join(re.findall(r"<figure>.*?</figure>", html, flags=re.DOTALL))
        fixed = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", drawn)
        assert not re.findall(r"#[0-9a-f]{6}\b", fixed)

    def test_every_picture_has_a_text_alternative_and_every_figure_states_n(self, whole):
        made, page = whole
        named = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
        assert len(named) > 10
        assert all(attrs["aria-label"] for attrs in named)
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", made.path.read_text(encoding="utf-8"))
        assert len(captions) == 4
        assert all("n = " in caption for caption in captions)

    def test_it_says_what_was_asked_and_found(self, whole):
        _, page = whole
        for expected in (
            PLAN.question,
            PLAN.sha256[:12],
            "Not registered: exploratory reading",
            "H1, H3 and H4 are falsified; H2 stays undecided.",
            "share(rmsnorm) > 0.5",
            "The arms differ: F(5, 10) = ",
            "18 cells planned = 18 ok + 0 missing",
            "18 runs launched = 18 used + 0 left out",
            "The machine slowed",
            "Apple M3 Max",
            "lmexp run -m experiment=gpt_to_llama",
        ):
            assert expected in page.text

    def test_verdicts_json(self, whole):
        record = json.loads(whole[0].verdicts.read_text(encoding="utf-8"), parse_constant=pytest.fail)
        assert record["plan"]["sha256"] == PLAN.sha256
        assert record["registered"] is False
        assert [verdict["verdict"] for verdict in record["verdicts"]][:2] == ["FALSIFIED", "INCONCLUSIVE"]
        first = record["verdicts"][0]
        assert first["supported_if"] == {"criterion": "share(gqa) > 0.5", "truth": "fails"}
        assert first["estimates"][0]["term"] == "share(gqa)"
        assert first["estimates"][0]["low"] < first["estimates"][0]["value"] < first["estimates"][0]["high"]
        assert record["cells"] == {"planned": 18, "ok": 18, "missing": 0}

    def test_tables(self, whole):
        tables = {path.name: pd.read_csv(path) for path in whole[0].tables}
        assert set(tables) == {"arms.csv", "contrasts.csv", "anova.csv", "runs.csv"}
        arms = tables["arms.csv"].query("metric == 'val_bpb'").set_index("arm")
        runs = make_runs(PLAN, slowing=0.1)
        for arm, rows in runs.groupby("arm"):
            assert arms.loc[arm, "n"] == 3
            assert arms.loc[arm, "mean"] == pytest.approx(rows["val_bpb"].mean(), rel=1e-12)
            assert arms.loc[arm, "std"] == pytest.approx(rows["val_bpb"].std(), rel=1e-9)  # pandas divides by n - 1
        contrasts = tables["contrasts.csv"].query("metric == 'val_bpb'").set_index("arm")
        assert list(contrasts.index) == ["gqa", "swiglu", "rmsnorm", "rope", "llama"]
        gap = arms.loc["rope", "mean"] - arms.loc["baseline", "mean"]
        assert contrasts.loc["rope", "difference"] == pytest.approx(gap, rel=1e-9)
        assert contrasts.loc["rope", "relative"] == pytest.approx(gap / arms.loc["baseline", "mean"], rel=1e-9)
        assert contrasts.loc["rope", "share"] > contrasts.loc["gqa", "share"]
        assert np.isnan(contrasts.loc["llama", "share"])
        assert list(tables["anova.csv"]["source"]) == ["arms", "seeds", "error"]
        assert len(tables["runs.csv"]) == 18

    def test_no_half_written_file_is_left(self, whole):
        assert sorted(path.name for path in whole[0].path.parent.iterdir()) == [
            *("anova.csv", "arms.csv", "contrasts.csv", "report.html", "runs.csv", "verdicts.json")
        ]


class TestGaps:
    def test_a_report_with_gaps_lists_them_and_judges_nothing(self, tmp_path):
        runs = without(spoil(make_runs(PLAN), "rope", 1, "diverged", "the loss became <NaN> & more"), "gqa", 2)
        made = report(tmp_path, runs=runs)
        page = Page(made.path.read_text(encoding="utf-8"))
        assert "No hypothesis can be judged: 2 of 18 cells have no result" in page.text
        assert "18 cells planned = 16 ok + 1 missing + 1 diverged" in page.text
        assert "17 runs launched = 16 used + 1 left out" in page.text
        assert "the loss became <NaN> & more" in page.text  # escaped in the source, whole for the reader
        assert "Seeds without a result in every arm are left out of every comparison: 1, 2." in page.text
        states = runs_table(made.analysis)["state"].value_counts().to_dict()
        assert states == {"ok": 16, "diverged": 1, "missing": 1}

    def test_left_out_rows_never_reach_a_mean(self):
        runs = make_runs(PLAN)
        worse = spoil(runs, "rope", 1, "failed", "x")
        worse.loc[worse["status"] == "failed", "val_bpb"] = 99.0
        summary = analyse(PLAN, worse).summaries["val_bpb"]["rope"]
        expected = runs[(runs["arm"] == "rope") & (runs["seed"] != 1)]["val_bpb"]
        assert (summary.n, summary.mean) == (2, pytest.approx(expected.mean()))

    def test_blocked_statistics_use_complete_seeds_and_say_so(self):
        runs = make_runs(PLAN)
        analysis = analyse(PLAN, without(runs, "gqa", 2))
        assert (analysis.complete, analysis.incomplete) == ((0, 1), (2,))
        assert analysis.anova.n_seeds == 2
        pair = runs[runs["seed"] != 2].pivot(index="seed", columns="arm", values="val_bpb")
        rope = next(c for c in analysis.comparisons["val_bpb"] if c.arm == "rope")
        assert rope.difference.alone.value == pytest.approx((pair["rope"] - pair["baseline"]).mean())
        assert rope.paired == pytest.approx((pair["rope"] - pair["baseline"]).tolist())

    def test_log_points_that_cannot_be_read_are_named(self, tmp_path):
        runs = make_runs(PLAN)
        good, lost = make_steps(runs), runs["run_id"].iloc[4]

        def load(run_id):
            if run_id == lost:
                raise UserError("damaged")
            return good[run_id]

        page = Page(report(tmp_path, runs=runs, steps=load).path.read_text(encoding="utf-8"))
        assert f"No loss curve for {lost}" in page.text

    def test_notes_deviations_and_other_plans_stand_near_the_top(self, tmp_path):
        plan = make_plan(deviations=("Seed 2 was rerun after a power cut.",))
        runs = make_runs(PLAN).assign(plan_sha256="0" * 64, git_dirty=True)
        text = Page(report(tmp_path, plan, runs, notes=["A file was set aside."]).path.read_text("utf-8")).text
        top = text[: text.index("Verdicts")]
        for expected in ("Seed 2 was rerun", "A file was set aside.", "18 of 18 runs were made under another version"):
            assert expected in top
        assert "uncommitted changes" in top

    def test_registered_runs_have_no_banner(self, tmp_path):
        runs = make_runs(PLAN)
        assert "Not registered" not in report(tmp_path, runs=runs.assign(registered=True)).path.read_text("utf-8")
        mixed = runs.assign(registered=[True] * 17 + [None])
        assert not analyse(PLAN, mixed).registered

    def test_a_folder_that_cannot_be_written_is_a_clear_error(self, tmp_path):
        blocked = tmp_path / "file"
        blocked.write_text("")
        with pytest.raises(UserError, match="Cannot write"):
            report(blocked / "report")


def quickstart(**changes):
    fields = {"arms": {"quickstart": ()}, "control": None, "seeds": (0,), "hypotheses": (), "secondary": ()}
    return make_plan(**{**fields, "name": "quickstart", "analysis": NO_TESTS, **changes})


class TestDegeneratePlans:
    def test_one_arm_one_seed(self, tmp_path):
        made = report(tmp_path, quickstart())
        page = Page(made.path.read_text(encoding="utf-8"))
        assert "The plan states no hypothesis" in page.text
        assert "undefined" in page.text  # the spread of one seed
        for absent in ("Differences", "Analysis of variance", "Shares", "Not registered", "nan"):
            assert absent not in page.text
        assert json.loads(made.verdicts.read_text())["verdicts"] == []
        assert len(terminal_tables(made.analysis)) == 1
        assert "seconds of counted training" in made.path.read_text("utf-8")

    @pytest.mark.parametrize(
        "changes",
        [
            {"seeds": (0, 1, 2)},
            {"arms": {"a": (), "b": ()}},
            {"arms": {"a": (), "b": ()}, "control": "a"},
            {"arms": {"a": (), "b": ()}, "control": "a", "seeds": (0, 1)},
            {"arms": {"a": ()}, "control": "a", "seeds": (3, 4)},
            {"arms": {f"arm{i}": () for i in range(14)}, "control": "arm0", "seeds": (0, 1, 2)},
            {"arms": {"a": (), "a & <b>": (), "$x_1$": ()}, "control": "a", "seeds": (0, 1, 2)},
        ],
    )
    def test_every_shape_of_plan_has_a_report(self, changes, tmp_path):
        made = report(tmp_path, quickstart(**changes))
        page = Page(made.path.read_text(encoding="utf-8"))
        assert page.open == []
        assert terminal_tables(made.analysis)
        assert all(arm in page.text for arm in made.analysis.plan.arms)
        assert "nan" not in page.text.lower()

    def test_no_run_at_all(self, tmp_path):
        made = report(tmp_path, runs=make_runs(PLAN).head(0), steps={})
        assert "18 cells planned = 0 ok + 18 missing" in Page(made.path.read_text(encoding="utf-8")).text
        assert {verdict.verdict for verdict in made.analysis.verdicts} == {"INADMISSIBLE"}

    def test_only_failed_runs(self, tmp_path):
        plan = quickstart()
        runs = spoil(make_runs(plan), "quickstart", 0, "oom", "out of memory")
        page = Page(report(tmp_path, plan, runs, {}).path.read_text(encoding="utf-8"))
        assert "out of memory" in page.text
        assert "1 cell planned = 0 ok + 0 missing + 1 oom" in page.text

    @pytest.mark.parametrize(("field", "name"), [("omnibus", "anova"), ("contrasts", "tukey"), ("effect_size", "eta")])
    def test_an_unknown_test_is_refused(self, field, name):
        fields = {
            "alpha": 0.05,
            "omnibus": "none",
            "contrasts": "none",
            "effect_size": "d_z",
            "full": None,
            field: name,
        }
        plan = quickstart(analysis=Analysis(**fields))
        with pytest.raises(UserError, match=f"analysis.{field}"):
            analyse(plan, make_runs(plan))


def test_rows_from_the_store_make_the_same_report(tmp_path):
    """The real path: rows written as parquet, read back, log points loaded by run."""
    runs = make_runs(PLAN)
    for row in runs.drop(columns="folder").to_dict("records"):
        folder = tmp_path / "gpt_to_llama" / row["run_id"]
        folder.mkdir(parents=True)
        known = {name: value for name, value in row.items() if not pd.isna(value)}
        whole = {"seed", "n_params", "steps", "peak_memory_bytes"}
        write_run(folder, {name: int(value) if name in whole else value for name, value in known.items()})
        points = make_steps(runs)[row["run_id"]].replace({np.nan: None})
        write_steps(folder, points[["run_id", "seconds", "progress", "val_bpb"]].to_dict("records"))
    root = tmp_path / "gpt_to_llama"
    stored = write_report(PLAN, read_runs(root), lambda run_id: read_steps(root / run_id), tmp_path / "stored")
    direct = report(tmp_path / "direct", runs=runs)
    assert stored.verdicts.read_bytes() == direct.verdicts.read_bytes()
    assert stored.path.read_text("utf-8").count("<figure>") == 4


class TestCurves:
    def curve(self, seed, seconds, values, arm="a"):
        return Curve(arm, seed, np.array(seconds, float), np.array(values, float))

    def test_mean_and_band_at_common_times(self):
        found = mean_curve([self.curve(0, [0, 10, 20], [3, 2, 1]), self.curve(1, [0, 5, 15], [5, 4, 2])], 0.95)
        assert found.seconds.tolist() == [0, 10, 15]  # the second ends at 15
        assert found.mean == pytest.approx([4, 2.5, 1.75])
        reach = t_quantile(0.975, 1) * np.std([3, 5], ddof=1) / np.sqrt(2)
        assert found.high[0] - found.mean[0] == pytest.approx(reach)

    def test_one_seed_has_no_band(self):
        found = mean_curve([self.curve(0, [0, 10], [3, 2])], 0.95)
        assert (found.low, found.n) == (None, 1)

    def test_gaps_pair_by_seed_and_second(self):
        curves = [self.curve(0, [0, 10], [4, 2], "base"), self.curve(1, [0, 10], [9, 9], "base")]
        arms = [self.curve(0, [0, 5, 10], [5, 3, 1]), self.curve(1, [0, 5], [5, 3]), self.curve(7, [0, 5], [5, 3])]
        first, second = gaps_to([*curves, *arms], "base")
        assert (first.seed, first.values.tolist()) == (0, [1, 0, -1])
        assert (second.seed, second.values.tolist()) == (1, [-4, -6])

    @pytest.mark.parametrize("times", [([5.0], [5.0]), ([1, 2], [8, 9]), ([1, 2, 3], [2, 3, 4]), ([1, 9], [2, 3])])
    def test_curves_of_any_times_can_be_drawn(self, times):
        plan = make_plan(seeds=(0, 1), arms={"baseline": (), "gqa": ()}, hypotheses=(), analysis=NO_TESTS)
        analysis = analyse(plan, make_runs(plan))
        curves = [
            self.curve(seed, times[seed], np.linspace(3, 2, len(times[seed])) + (arm == "gqa"), arm)
            for arm in plan.arms
            for seed in plan.seeds
        ]
        assert "<svg" in figures.loss_curves(analysis, curves, "Loss").wide
        gaps = figures.gap_curves(analysis, curves, "bits/byte")
        assert gaps is None or "nan" not in gaps.wide

    def test_points_without_an_evaluation_are_skipped(self):
        runs = make_runs(PLAN)
        curves, lost = read_curves(analyse(PLAN, runs).used, make_steps(runs), "val_bpb")
        assert lost == []
        assert len(curves) == 18
        assert all(len(curve.values) == 20 and np.isfinite(curve.values).all() for curve in curves)

    def test_many_curves_leave_out_the_thin_lines(self):
        plan = make_plan(seeds=tuple(range(40)), hypotheses=())
        runs = make_runs(plan)
        analysis = analyse(plan, runs)
        curves, _ = read_curves(analysis.used, make_steps(runs, 10, 5), "val_bpb")
        assert len(figures.loss_curves(analysis, curves, "Loss").wide) < 60_000


class TestDrift:
    def used(self, **probes):
        runs = make_runs(PLAN).assign(**probes)
        return runs.set_index(["arm", "seed"])

    def test_a_steady_machine(self):
        found = drift_of(self.used(probe_before=100.0, probe_after=98.0))
        assert (found.slowdown, found.slow) == (0.0, ())
        assert "kept its pace" in found.sentence

    def test_a_slow_run_is_named(self):
        rates = np.full(18, 100.0)
        rates[7] = 90.0
        found = drift_of(self.used(probe_before=rates, probe_after=rates))
        assert found.slowdown == pytest.approx(0.1)
        assert [(probe.arm, probe.seed) for probe in found.slow] == [("gqa", 1)]
        assert "The machine slowed" in found.sentence
        assert "during gqa seed 1, 10.0% slower" in found.sentence

    def test_five_per_cent_is_the_bound(self):
        for last, n_slow in ((95.5, 0), (94.5, 1)):
            rates = np.append(np.full(17, 100.0), last)
            assert len(drift_of(self.used(probe_before=rates, probe_after=rates)).slow) == n_slow

    def test_not_measured(self):
        found = drift_of(self.used(probe_before=np.nan, probe_after=np.nan))
        assert found.slowdown is None
        assert found.sentence == "The machine's pace was not measured."
        half = drift_of(self.used(probe_after=np.nan))
        assert half.slowdown == 0.0


class TestWords:
    def test_numbers(self):
        minus, bpb = "\N{MINUS SIGN}", measure_of(PLAN, "val_bpb")
        assert (bpb.text(2.30834), bpb.text(None)) == ("2.3083", "undefined")
        assert (bpb.signed(-0.01161), bpb.signed(0.2), bpb.signed(0.00001)) == (f"{minus}0.0116", "+0.2000", "0.0000")
        assert measure_of(PLAN, "tokens_per_second").text(2_600_000.4) == "2,600,000"
        assert measure_of(PLAN, "peak_memory_bytes").text(3 * 2**20) == "3.0"
        assert [significant(value) for value in (0.0, 12.3456, 123456.7)] == ["0", "12.35", "123,457"]
        assert significant(1e-6) == f"1.000e{minus}06"
        assert (number_text(-0.001), number_text(None), number_text(-1.5)) == ("0.00", "undefined", f"{minus}1.50")
        assert (p_text(0.0004), p_text(0.0312), p_text(None)) == ("< 0.001", "0.031", "undefined")

    def test_the_plans_direction_and_unit_win_for_the_primary_metric(self):
        from lmexp.plan import Metric

        plan = make_plan(primary=Metric("val_bpb", "higher", "points", None))
        found = measure_of(plan, "val_bpb")
        assert (found.direction, found.unit, found.sign) == ("higher", "points", -1)
        assert measure_of(PLAN, "val_bpb").sign == 1
        assert measure_of(PLAN, "steps").sign is None


class TestStrips:
    def test_regions_lie_on_their_side_of_the_bound(self):
        estimate = analyse(PLAN, make_runs(PLAN)).shares["gqa"]
        above, below = parse("share(gqa) > 0.5"), parse("share(gqa) < 0.2")
        scale = scale_of([estimate], [0.5, 0.2])
        svg = verdict_strip(estimate, [above], [below], scale, "alt")
        support = re.search(r'class="support" x="([\d.]+)%" width="([\d.]+)%"', svg)
        falsify = re.search(r'class="falsify" x="([\d.]+)%" width="([\d.]+)%"', svg)
        assert float(support[1]) == pytest.approx(scale.place(0.5))
        assert float(support[1]) + float(support[2]) == pytest.approx(100)
        assert (float(falsify[1]), float(falsify[2])) == (0.0, pytest.approx(scale.place(0.2)))
        point = re.search(r'class="point" cx="([\d.]+)%"', svg)
        assert float(point[1]) == pytest.approx(scale.place(estimate.value))

    def test_a_huge_interval_is_cut_with_open_ends(self):
        from lmexp.analysis.estimates import Estimate

        wide = Estimate(0.3, -50.0, 60.0, 0.95, 3, 10, "t", None)
        scale = scale_of([wide], [0.2, 0.5])
        assert scale.high - scale.low < 3
        svg = verdict_strip(wide, [parse("mean(a) > 0.5")], [], scale, "alt")
        assert svg.count('class="open"') == 2


def test_terminal_tables_render_and_escape_markup(tmp_path):
    from rich.console import Console

    plan = make_plan(hypotheses=(Hypothesis("H1", "An [odd] claim", "share(gqa) > 0.5", "share(gqa) < 0.2"),))
    console = Console(width=160, record=True, file=(tmp_path / "out.txt").open("w"))
    for table in terminal_tables(analyse(plan, make_runs(plan))):
        console.print(table)
    text = console.export_text()
    assert "An [odd] claim" in text
    assert "FALSIFIED" in text
    assert "2.3083 ± 0.0143" in text
    assert "llama" in text


def test_tables_are_frames_with_nulls_not_words():
    analysis = analyse(PLAN, make_runs(PLAN).head(6))
    contrasts = contrasts_table(analysis)
    assert contrasts["difference"].notna().all()
    assert contrasts["low"].isna().all()
    assert arms_table(analysis)["std"].isna().all()
    assert anova_table(analysis)["f"].isna().all()
    assert list(verdicts_table(analysis)["verdict"]) == ["INADMISSIBLE"] * 4
    assert csv.reader([contrasts.to_csv(index=False).splitlines()[0]]).__next__()[0] == "metric"
