"""The report: the same bytes every time, self-contained, complete, honest about gaps, and sensible for any plan."""

import csv
import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from analysis_rows import analysed, make_lock, make_plan, make_runs, make_steps, spoil, without

from lmexp.analysis import terminal_tables, write_report
from lmexp.analysis.curves import Curve, gaps_to, mean_curve, read_curves, sample_of
from lmexp.analysis.drift import drift_of
from lmexp.analysis.measures import measure_of, number_text, p_text, significant
from lmexp.analysis.strips import scale_of, verdict_strip
from lmexp.analysis.tables import anova_table, arms_table, contrasts_table, launched_table, verdicts_table
from lmexp.criteria import parse
from lmexp.errors import UserError
from lmexp.plan import Analysis
from lmexp.results import read_runs, read_steps, write_run, write_steps
from lmexp.statistics.distributions import t_quantile

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


def report(folder, plan=PLAN, runs=None, steps=None, notes=(), amendments=()):
    """The report of runs that follow the plan's lock."""
    runs = make_runs(plan) if runs is None else runs
    steps = make_steps(runs, 24, 8) if steps is None else steps
    return write_report(plan, runs, steps, folder, make_lock(plan, *amendments), notes=notes)


def unregistered(folder, plan=PLAN, runs=None, lock=None):
    """The report of runs that follow no lock."""
    runs = (make_runs(plan) if runs is None else runs).assign(registered=False, lock_sha256=None)
    return write_report(plan, runs, make_steps(runs, 24, 8), folder, lock)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report of the complete plan: (files, page)."""
    runs = make_runs(PLAN, slowing=0.1)
    made = report(tmp_path_factory.mktemp("report"), runs=runs)
    return made, Page(made.path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def without_lock(tmp_path_factory):
    """The report of the complete plan without a lock: (files, page)."""
    made = unregistered(tmp_path_factory.mktemp("unregistered"))
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
        drawn = "".join(re.findall(r"<figure.*?</figure>", html, flags=re.DOTALL))
        fixed = re.sub(r"var\(--[\w-]+, #[0-9a-f]{6}\)", "", drawn)
        assert not re.findall(r"#[0-9a-f]{6}\b", fixed)

    def test_every_picture_has_a_text_alternative_and_every_figure_states_n(self, whole):
        made, page = whole
        named = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
        assert len(named) > 20
        assert all(attrs["aria-label"] for attrs in named)
        html = made.path.read_text(encoding="utf-8")
        captions = re.findall(r'<figure id="figure-(\w+)">.*?<figcaption>(.*?)</figcaption>', html, flags=re.DOTALL)
        assert [name for name, _ in captions] == ["estimation", "forest", "curves", "gaps", "diagnostics", "drift"]
        assert all(re.search(r"\bn = \d", caption) for _, caption in captions)

    def test_it_says_what_was_asked_and_found(self, whole):
        _, page = whole
        for expected in (
            PLAN.question,
            PLAN.sha256[:12],
            "H1, H3 and H4 are falsified; H2 stays undecided.",
            "share(rmsnorm) > 0.5",
            "The omnibus test, over all arms at once, finds that the arms differ: F(5, 10) = ",
            "Of the single changes, rope improves validation loss most over baseline",
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
        assert record["registered"] is True
        assert [verdict["verdict"] for verdict in record["verdicts"]][:2] == ["FALSIFIED", "INCONCLUSIVE"]
        first = record["verdicts"][0]
        assert first["supported_if"] == {"criterion": "share(gqa) > 0.5", "truth": "fails"}
        assert first["estimates"][0]["term"] == "share(gqa)"
        assert first["estimates"][0]["low"] < first["estimates"][0]["value"] < first["estimates"][0]["high"]
        assert record["cells"] == {"planned": 18, "ok": 18, "missing": 0}

    def test_tables(self, whole):
        tables = {path.name: pd.read_csv(path) for path in whole[0].tables}
        assert set(tables) == {f"{n}.csv" for n in ("arms", "contrasts", "anova", "power", "runs", "exploratory")}
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
            *("anova.csv", "arms.csv", "contrasts.csv", "exploratory.csv", "power.csv", "report.html", "runs.csv"),
            "verdicts.json",
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
        states = launched_table(made.analysis)["state"].value_counts().to_dict()
        assert states == {"ok": 16, "diverged": 1, "missing": 1}

    def test_left_out_rows_never_reach_a_mean(self):
        runs = make_runs(PLAN)
        worse = spoil(runs, "rope", 1, "failed", "x")
        worse.loc[worse["status"] == "failed", "val_bpb"] = 99.0
        summary = analysed(PLAN, worse).summaries["val_bpb"]["rope"]
        expected = runs[(runs["arm"] == "rope") & (runs["seed"] != 1)]["val_bpb"]
        assert (summary.n, summary.mean) == (2, pytest.approx(expected.mean()))

    def test_blocked_statistics_use_complete_seeds_and_say_so(self):
        runs = make_runs(PLAN)
        analysis = analysed(PLAN, without(runs, "gqa", 2))
        assert analysis.complete == (0, 1)
        assert analysis.omnibus.sources[2].df == 5  # (6 arms - 1) (2 seeds - 1)
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

    def test_notes_deviations_and_changes_stand_near_the_top(self, tmp_path):
        plan = make_plan(deviations=("Seed 2 was rerun after a power cut.",))
        runs = make_runs(PLAN).assign(git_dirty=True)
        notes = [
            "A file was set aside.",
            "plan.yaml was edited since it was locked: what is judged is the plan as locked.",
        ]
        made = report(tmp_path, plan, runs, notes=notes, amendments=[("the margin was too small", 7), ("a word", 0)])
        text = text_of(made)
        top = text[: text.index("A criterion holds")]
        for expected in (
            "Deviation. Seed 2 was rerun after a power cut.",
            "Amendment after data. 2026-11-01 01:00:00 UTC, when 7 runs existed: the margin was too small",
            "Amendment before data. 2026-11-01 01:00:00 UTC, when 0 runs existed: a word",
            "Note. plan.yaml was edited since it was locked",
            "A file was set aside.",
            "18 of 18 runs had uncommitted changes in the code.",
        ):
            assert expected in top
        changes = top[top.index("Deviations from the plan") : top.index("A file was set aside.")]
        assert changes.count("Amendment") == 2  # the plan's changes stand together, other notes after them

    def test_registered_runs_have_no_banner(self, whole, without_lock):
        assert "Exploratory: nothing here is registered" not in whole[1].text
        assert "Exploratory: nothing here is registered" in without_lock[1].text

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
        assert "with at most one run per arm the spread between seeds is undefined" in page.text
        assert "and 1 row." in page.text
        for absent in ("Differences", "analysis of variance", "Shares", "What could this design", "± std", "nan"):
            assert absent not in page.text
        assert json.loads(made.verdicts.read_text())["verdicts"] == []
        assert len(terminal_tables(made.analysis)) == 2  # the arms, and what they stand on
        assert "seconds of counted training" in made.path.read_text("utf-8")

    def test_one_run_without_a_lock(self, tmp_path):
        text = text_of(unregistered(tmp_path, quickstart()))
        assert "Exploratory: nothing here is registered" in text  # no hypotheses are no licence
        assert "lmexp plan lock quickstart" in text

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
        assert not {"SUPPORTED", "FALSIFIED", "INCONCLUSIVE"} & {v.verdict for v in made.analysis.verdicts}

    def test_only_failed_runs(self, tmp_path):
        plan = quickstart()
        runs = spoil(make_runs(plan), "quickstart", 0, "oom", "out of memory")
        page = Page(report(tmp_path, plan, runs, {}).path.read_text(encoding="utf-8"))
        assert "out of memory" in page.text
        assert "1 cell planned = 0 ok + 0 missing + 1 oom" in page.text


def text_of(made):
    return Page(made.path.read_text(encoding="utf-8")).text


class TestTop:
    """What a reader must know before believing the numbers stands above the verdicts."""

    def top(self, tmp_path, runs):
        text = text_of(report(tmp_path, runs=runs))
        return text[: text.index("A criterion holds")]

    def test_drift_and_warnings(self, tmp_path):
        runs = make_runs(PLAN, slowing=0.1)
        runs["warnings"] = [None, "", *["no fused optimizer"] * 2, "slow disk", *[None] * 13]
        top = self.top(tmp_path, runs)
        assert "The machine slowed: during" in top
        assert "2 of 18 runs were warned: no fused optimizer" in top
        assert "1 of 18 runs was warned: slow disk" in top

    def test_a_steady_machine_and_frames_without_the_column_say_nothing(self, tmp_path):
        top = self.top(tmp_path, make_runs(PLAN).drop(columns="warnings"))
        assert "machine" not in top
        assert "warned" not in top

    def test_budgets_that_differ_within_an_arm_are_a_breach(self, tmp_path):
        runs = make_runs(PLAN)
        runs.loc[0, "budget_seconds"] = 10.0
        assert "No hypothesis can be judged: the runs of baseline had different budgets" in self.top(tmp_path, runs)


class TestOmnibus:
    def test_it_speaks_of_the_omnibus_test_and_names_the_arms_that_dunnett_tells_apart(self, tmp_path):
        plan = make_plan(
            arms=dict.fromkeys(("baseline", "rope", "gqa", "rmsnorm"), ()), hypotheses=(), analysis=NO_TESTS
        )
        runs = make_runs(plan, noise=0.057, seed=3)
        made = report(tmp_path, plan, runs)
        p = {c.arm: c.difference.p_adjusted for c in made.analysis.comparisons["val_bpb"]}
        text = text_of(made)
        found = made.analysis.omnibus.sources[0].p
        finds = "finds that the arms differ" if found < 0.05 else "finds no difference"
        assert f"The omnibus test, over all arms at once, {finds}: F(3, 6)" in text
        named = [f"{arm} (p = {value:.3f})" for arm, value in p.items() if value < 0.05]
        assert f"the adjusted p is below 0.05 for {', '.join(named) or 'no arm'}." in text
        assert "No difference between arms can be shown" not in text

    def test_the_two_may_disagree_on_one_page(self, tmp_path):
        """An effect in one of many arms: Dunnett sees it, the omnibus test does not."""
        for seed in range(200):
            plan = make_plan(arms={f"arm{i}": () for i in range(8)}, control="arm0", hypotheses=(), analysis=NO_TESTS)
            runs = make_runs(plan, noise=0.05, seed=seed)
            runs["val_bpb"] -= np.where(runs["arm"] == "arm3", 0.12, 0.0)
            analysis = analysed(plan, runs)
            p = {c.arm: c.difference.p_adjusted for c in analysis.comparisons["val_bpb"]}
            if analysis.omnibus.sources[0].p > 0.05 and p["arm3"] < 0.05:
                break
        else:
            pytest.fail("no seed makes the two tests disagree")
        text = text_of(report(tmp_path, plan, runs))
        assert "finds no difference: F(7, 14)" in text
        assert f"the adjusted p is below 0.05 for arm3 (p = {p['arm3']:.3f})." in text


class TestBreach:
    def test_no_criterion_is_read_from_surviving_seeds(self, tmp_path):
        made = report(tmp_path, runs=without(make_runs(PLAN), "gqa", 2))
        text, record = text_of(made), json.loads(made.verdicts.read_text(encoding="utf-8"))
        assert "Point estimates say" not in text
        assert not re.search(r"(Supported|Falsified) if\s*(holds|fails|undecided)", text)
        assert text.count("cells has no result") == 1
        for verdict in record["verdicts"]:
            assert verdict["bare_threshold_reading"] is None
            assert verdict["supported_if"]["truth"] is verdict["falsified_if"]["truth"] is None
            assert verdict["supported_if"]["criterion"]


class TestNoContrasts:
    def test_differences_stand_without_any_adjustment(self, tmp_path):
        plan = make_plan(analysis=Analysis(0.05, "none", "none", "hedges_g", "llama"))
        made = report(tmp_path, plan)
        text, table = text_of(made), contrasts_table(made.analysis)
        for absent in ("Dunnett", "Adjusted p", "simultaneous"):
            assert absent not in text
        assert "What could this design have found?" not in text
        assert "The plan asks for no test of these differences" in text
        assert table[["low_simultaneous", "t", "p", "p_adjusted"]].isna().all().all()
        assert table["low"].notna().any()


def places_of(html, bound):
    return {x for x, text in re.findall(r'<text class="tick" x="([\d.]+)%"[^>]*>([^<]+)</text>', html) if text == bound}


def test_a_bound_stands_at_one_place_on_every_card(whole):
    html = whole[0].path.read_text(encoding="utf-8")
    assert len(places_of(html, "0.2")) == len(places_of(html, "0.5")) == 1


class TestCommands:
    def text(self, tmp_path, **changes):
        return text_of(report(tmp_path, runs=make_runs(PLAN).assign(**changes)))

    def test_registered_runs_are_made_verified_and_reported_by_the_plans_name(self, whole):
        for verb in ("lmexp plan verify", "lmexp run -m experiment=", "lmexp report"):
            assert re.search(rf"{verb} ?gpt_to_llama\n", whole[1].text)

    def test_the_overrides_of_exploratory_runs_are_told(self, tmp_path):
        text = text_of(unregistered(tmp_path, runs=make_runs(PLAN).assign(overrides="budget.seconds=10")))
        assert "lmexp report gpt_to_llama budget.seconds=10\n" in text
        assert "lmexp run -m experiment=gpt_to_llama budget.seconds=10\n" in text

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"git_dirty": False}, "git checkout c0ffee"),
            ({"git_dirty": True}, "# The code had uncommitted changes: commit c0ffee"),
            ({"git_dirty": None}, "# The code may have had uncommitted changes: commit c0ffee"),
            ({"git_commit": None}, "# The code: commit not recorded."),
            ({"git_commit": ["a" * 40, "b" * 40] * 9}, "# The code: several commits."),
        ],
    )
    def test_a_checkout_is_offered_only_when_it_restores_the_code(self, changes, said, tmp_path):
        text = self.text(tmp_path, **changes)
        assert said in text
        assert ("git checkout" in text) is said.startswith("git")


class TestOneSeed:
    def test_what_cannot_be_computed_is_one_sentence(self, tmp_path):
        plan = make_plan(seeds=(0,))
        text = text_of(report(tmp_path, plan))
        assert "n = 1 complete seed. Intervals, p values and effect sizes are undefined: fewer than 2" in text
        for absent in ("Effect sizes", "Adjusted p", "1 complete seeds", "[undefined]\n", "± std"):
            assert absent not in text


def test_earlier_attempts_are_in_the_files(tmp_path):
    runs = make_runs(PLAN).assign(superseded=False)
    earlier = {"superseded": True, "status": "failed", "started_at": "2026-11-01T20:00:00+00:00", "val_bpb": 9.0}
    runs = pd.concat([runs, runs.head(2).assign(**earlier)], ignore_index=True)
    made = report(tmp_path, runs=runs)
    table = pd.read_csv(next(path for path in made.tables if path.name == "runs.csv"))
    assert list(table["left_out_because"].dropna()) == ["an earlier attempt of a cell that ran again"] * 2
    assert "20 runs launched = 18 used + 2 left out" in text_of(made)
    assert text_of(made).count("an earlier attempt of a cell that ran again") == 3  # the rule, and each run


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
    load = lambda run_id: read_steps(root / run_id)  # noqa: E731
    stored = write_report(PLAN, read_runs(root), load, tmp_path / "stored", make_lock(PLAN))
    direct = report(tmp_path / "direct", runs=runs, steps=make_steps(runs))
    assert stored.verdicts.read_bytes() == direct.verdicts.read_bytes()
    assert stored.path.read_bytes() == direct.path.read_bytes()


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

    def test_points_without_an_evaluation_are_skipped(self):
        runs = make_runs(PLAN)
        curves, lost = read_curves(analysed(PLAN, runs).used, make_steps(runs), "val_bpb")
        assert lost == []
        assert len(curves) == 18
        assert all(len(curve.values) == 20 and np.isfinite(curve.values).all() for curve in curves)

    def test_the_same_few_seeds_of_every_arm_are_read(self):
        plan = make_plan(seeds=tuple(range(100)), hypotheses=())
        runs = make_runs(plan)
        used, read = analysed(plan, runs).used, []

        def load(run_id):
            read.append(run_id)
            raise UserError("not needed")

        sample = sample_of(used, 60)
        assert len(sample) == 60
        assert {tuple(rows.index.get_level_values("seed")) for _, rows in sample.groupby(level="arm")} == {
            (0, 11, 22, 33, 44, 55, 66, 77, 88, 99)
        }
        assert len(read_curves(sample, load, "val_bpb")[1]) == len(read) == 60
        assert len(sample_of(used.head(8), 60)) == 8


class TestDrift:
    def used(self, **probes):
        runs = make_runs(PLAN).assign(**probes)
        return runs.set_index(["arm", "seed"])

    def test_a_steady_machine(self):
        found = drift_of(self.used(probe_before=100.0, probe_after=98.0))
        assert found.slow == ()
        assert "kept its pace" in found.sentence

    def test_a_slow_run_is_named(self):
        rates = np.full(18, 100.0)
        rates[7] = 90.0
        found = drift_of(self.used(probe_before=rates, probe_after=rates))
        assert [(probe.arm, probe.seed) for probe in found.slow] == [("gqa", 1)]
        assert "The machine slowed" in found.sentence
        assert "during gqa seed 1, 10.0% slower" in found.sentence

    def test_five_per_cent_is_the_bound(self):
        for last, n_slow in ((95.5, 0), (94.5, 1)):
            rates = np.append(np.full(17, 100.0), last)
            assert len(drift_of(self.used(probe_before=rates, probe_after=rates)).slow) == n_slow

    def test_not_measured(self):
        found = drift_of(self.used(probe_before=np.nan, probe_after=np.nan))
        assert found.slow == ()
        assert found.sentence == "The machine's pace was not measured."
        half = drift_of(self.used(probe_after=np.nan))
        assert "had 0.0% less" in half.sentence


class TestWords:
    def test_numbers(self):
        minus, bpb = "\N{MINUS SIGN}", measure_of(PLAN, "val_bpb")
        assert (bpb.text(2.30834), bpb.text(None)) == ("2.3083", "undefined")
        assert (bpb.signed(-0.01161), bpb.signed(0.2), bpb.signed(0.00001)) == (f"{minus}0.0116", "+0.2000", "+0.00001")
        assert measure_of(PLAN, "tokens_per_second").text(2_600_000.4) == "2,600,000"
        assert measure_of(PLAN, "peak_memory_bytes").text(3 * 2**20) == "3.0"
        assert [significant(value) for value in (0.0, 12.3456, 123456.7)] == ["0", "12.35", "123,457"]
        assert significant(1e-6) == f"1.000e{minus}06"
        assert (number_text(-0.004), number_text(None), number_text(-1.5)) == (
            f"{minus}0.004",
            "undefined",
            f"{minus}1.50",
        )
        assert (number_text(0.0), number_text(1e-17), number_text(-0.0)) == ("0.00", "0.00", "0.00")
        assert measure_of(PLAN, "steps_per_second").signed(-0.004) == f"{minus}0.004"
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
        estimate = analysed(PLAN, make_runs(PLAN)).shares["gqa"]
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
        from lmexp.statistics.estimates import Estimate

        wide = Estimate(0.3, -50.0, 60.0, 0.95, 3, 10, "t", None)
        scale = scale_of([wide], [0.2, 0.5])
        assert scale.high - scale.low < 3
        svg = verdict_strip(wide, [parse("mean(a) > 0.5")], [], scale, "alt")
        assert svg.count('class="open"') == 2


def test_tables_are_frames_with_nulls_not_words():
    analysis = analysed(PLAN, make_runs(PLAN).head(6))
    contrasts = contrasts_table(analysis)
    assert contrasts["difference"].notna().all()
    assert contrasts["low"].isna().all()
    assert arms_table(analysis)["std"].isna().all()
    assert anova_table(analysis)["f"].isna().all()
    assert list(verdicts_table(analysis)["verdict"]) == ["INADMISSIBLE"] * 4
    assert csv.reader([contrasts.to_csv(index=False).splitlines()[0]]).__next__()[0] == "metric"
