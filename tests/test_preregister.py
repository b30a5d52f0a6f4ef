"""Locking and amending plans: what is refused and with which words, what is written down, and the way to the report."""

import contextlib
import copy
import json
import shutil
import subprocess
import sys

import pytest
import yaml

from lmexp import compose, preregister, results, sweep
from lmexp import lock as lock_room
from lmexp import run as run_room
from lmexp.cli import main
from lmexp.compose import cell_overrides, compose_run
from lmexp.lock import read_lock
from lmexp.plan import parse_plan, read_plan
from lmexp.sweep import expand, launch
from lmexp.verify import verify

HYPOTHESIS = {"id": "H1", "claim": "b wins", "supported_if": "diff(b, a) < 0", "falsified_if": "diff(b, a) > 0"}
PLAN = {
    "name": "mine",
    "question": "Does it lock?",
    "design": {
        "base": ["model=gpt_tiny"],
        "arms": {"a": [], "b": ["model.ffn=swiglu"]},
        "control": "a",
        "seeds": [0, 5],
    },
    "metrics": {
        "primary": {"name": "val_bpb", "direction": "lower", "unit": "bits/byte", "sesoi": 0.01},
        "secondary": ["tokens_per_second"],
    },
    "hypotheses": [HYPOTHESIS],
    "analysis": {"alpha": 0.05, "omnibus": "blocked_anova", "contrasts": "dunnett_blocked", "effect_size": "hedges_g"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    """Work in an empty folder, outside any git repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))


COMPOSED: dict[tuple, object] = {}


@pytest.fixture(autouse=True)
def _compose_once(monkeypatch):
    """Composing takes most of the time here; of the same overrides, plan and text the same comes out."""
    plainly = compose._compose

    def once(overrides, deviations):
        named = [preregister.Path(item[10:]) for item in overrides if item.startswith("data.path=")]
        files = [preregister.Path("experiments/mine/plan.yaml"), *named]
        key = (*overrides, "but", *deviations, *(path.read_bytes() for path in files if path.exists()))
        if key not in COMPOSED:
            COMPOSED[key] = plainly(overrides, deviations)
        return COMPOSED[key]

    monkeypatch.setattr(compose, "_compose", once)


def written(content=None, name="mine"):
    folder = preregister.Path("experiments") / name
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else yaml.safe_dump(content or PLAN, sort_keys=False)
    (folder / "plan.yaml").write_text(text)
    return folder


def changed(*edits):
    """Return PLAN with fields changed: pairs of a path and a value, None to remove the field."""
    content = copy.deepcopy(PLAN)
    for path, value in edits:
        node = content
        for key in path[:-1]:
            node = node[key]
        if value is None:
            node.pop(path[-1], None)
        else:
            node[path[-1]] = value
    return content


def lock(*arguments):
    return main(["plan", "lock", "mine", *arguments])


def current():
    return read_lock(read_plan("mine"))


# --- locking -------------------------------------------------------------------------------------------------------


def test_a_lock_holds_the_plan_and_the_config_of_every_cell(capsys):
    written()
    assert lock() == 0
    plan, entry = read_plan("mine"), current().current
    assert dict(entry.plan) == PLAN
    assert (entry.kind, entry.reason, entry.runs_existed, entry.previous) == ("lock", None, 0, None)
    composed = {(arm, seed): compose_run(cell_overrides(plan, arm, seed, [])).config for arm in "ab" for seed in (0, 5)}
    assert dict(entry.cells) == {f"{arm} seed {seed}": config.sha256 for (arm, seed), config in composed.items()}
    assert all(config.lock_sha256 == entry.sha256 for config in composed.values())
    said = capsys.readouterr().out
    for words in (
        entry.sha256,
        "4 cells",
        "sigma_e",
        "smallest p",
        "commit experiments/mine/lock.json",
        "lmexp run -m",
    ):
        assert words in said, words


def test_a_lock_says_what_its_tests_can_find(capsys):
    written(changed((("design", "seeds"), [0, 1, 2, 3, 4])))
    lock()
    said = capsys.readouterr().out
    # two arms and five seeds are a paired t test: 2 sigma_e ** 2 is the variance of a difference, d_z 1.68 (n = 5)
    assert "dunnett_blocked: blocked Dunnett: 2.38 sigma_e at 80% power (2 arms, 5 seeds, df 4)" in said
    assert "finds the sesoi when sigma_e is below 0.0042 bits/byte" in said


def test_locking_again_changes_nothing_and_says_so(capsys):
    folder = written()
    lock()
    before = (folder / "lock.json").read_bytes()
    assert lock() == 0
    assert "is locked since" in capsys.readouterr().out
    assert (folder / "lock.json").read_bytes() == before


def test_a_plan_that_was_changed_since_is_not_locked_again(capsys):
    folder = written()
    lock()
    before = (folder / "lock.json").read_bytes()
    written(changed((("question",), "Does it lock twice?")))
    assert lock() == 2
    said = capsys.readouterr().err
    assert 'question: "Does it lock?" became "Does it lock twice?"' in said
    assert "lmexp plan amend mine --reason TEXT" in said
    assert (folder / "lock.json").read_bytes() == before


def test_an_installed_plan_is_copied_here_and_locked_here(tmp_path, capsys):
    assert main(["plan", "lock", "gpt_to_llama"]) == 0
    folder = tmp_path / "experiments" / "gpt_to_llama"
    assert {path.name for path in folder.iterdir()} == {"plan.yaml", "lock.json"}
    assert "was copied to experiments/gpt_to_llama/plan.yaml" in capsys.readouterr().out
    assert read_plan("gpt_to_llama").path == folder / "plan.yaml"
    assert len(read_lock(read_plan("gpt_to_llama")).current.cells) == 18


def test_a_plan_that_is_refused_leaves_nothing_behind(tmp_path, capsys):
    assert main(["plan", "lock", "quickstart"]) == 2
    assert not (tmp_path / "experiments").exists()
    said = capsys.readouterr().err
    assert said.count("\n  - ") == 4  # no hypothesis and no test, one arm, one seed, no sesoi


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        (
            [(("hypotheses",), None), (("analysis", "omnibus"), "none"), (("analysis", "contrasts"), "none")],
            "neither a hypothesis nor a test",
        ),
        ([(("design", "control"), None), (("hypotheses",), None)], "has no design.control"),
        ([(("design", "seeds"), [3])], "It judges 1 seed"),
        ([(("metrics", "primary", "sesoi"), None)], "has no sesoi"),
        ([(("metrics", "primary", "sesoi"), 0)], "sesoi is 0, but it must be above 0"),
        ([(("metrics", "primary", "sesoi"), -0.01)], "sesoi is -0.01, but it must be above 0"),
        ([(("metrics", "primary", "sesoi"), float("inf"))], "sesoi is inf"),
        ([(("metrics", "primary", "sesoi"), float("nan"))], "sesoi is nan"),
        ([(("metrics", "secondary"), ["tokens_per_sec"])], "lmexp measures tokens_per_sec. Unknown"),
        ([(("metrics", "primary", "name"), "val_bpp")], "did you mean 'val_bpb'"),
        ([(("analysis", "omnibus"), "permutation")], "cannot reach its alpha of 0.05: with 2 arms and 2 seeds"),
        ([(("analysis", "contrasts"), "sign_flip_holm")], "sign_flip_holm cannot reach its alpha"),
        ([(("hypotheses", 0, "falsified_if"), "diff(b, a)   <  0.0")], "H1 is supported and falsified by"),
        ([(("design", "arms", "c"), [])], "a and c compose to the same config"),
        ([(("design", "arms", "c"), ["model=gpt_tiny"])], "a and c compose to the same config"),
        ([(("design", "arms", "B"), ["optimizer.lr=0.1"])], "The arms b and B would share their folders"),
        ([(("design", "arms", "\u00e9"), ["optimizer.lr=0.1"]), (("design", "arms", "e\u0301"), ["optimizer.lr=0.2"])],
         "would share their folders"),
        ([(("design", "arms", "c/d"), ["optimizer.lr=0.1"])], "The arm 'c/d' cannot name a folder"),
        ([(("design", "arms", ".."), ["optimizer.lr=0.1"])], "The arm '..' cannot name a folder"),
        ([(("design", "arms", "c"), ["optimizer.lrr=0.1"])], "c does not compose with this version of lmexp: Unk"),
        ([(("design", "arms", "c"), ["model.n_heads=7"])], "of lmexp: model.n_heads=7 does not divide model.d_model"),
        ([(("design", "base"), ["model=gpt_tinny"])], "No arm composes with this version of lmexp: Unknown choice"),
        ([(("design", "free"), ["budget.secnds"])], "Unknown key under design.free 'budget.secnds'"),
        ([(("design", "free"), ["seed"])], "Unknown key under design.free 'seed'"),
        ([(("design", "free"), ["model.ffn"])], "design.free leaves model.ffn to the command line, but b is made by"),
        ([(("design", "arms", "c"), ["seed=3", "optimizer.lr=0.1"])], "The override seed=3 says which run it is"),
        ([(("design", "base"), ["model=gpt_tiny", "paths.results=x"])], "The override paths.results=x says which run"),
        ([(("design", "free"), ["model"])], "design.free leaves model to the command line"),
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_locked_is_refused_with_the_reason(edits, words, capsys):
    folder = written(changed(*edits))
    assert lock() == 2
    said = capsys.readouterr().err
    assert words in said
    assert not (folder / "lock.json").exists()


def test_every_problem_is_listed_on_a_line_of_its_own(capsys):
    written(
        changed(
            (("design", "seeds"), [0]),
            (("metrics", "primary", "sesoi"), None),
            (("metrics", "secondary"), ["nothing_such", "nor_this"]),
            (("design", "arms", "c"), ["model=mla_small", "model.latent=64", "kv=latent", "optimizer.lrr=1"]),
            (("design", "arms", "d"), ["model=mla_small"]),
        )
    )
    assert lock() == 2
    reasons = capsys.readouterr().err.split("\n  - ")[1:]
    for words in (
        "It judges 1 seed", "has no sesoi", "measures nothing_such", "measures nor_this",
        "c and d do not compose with this version of lmexp: Unknown choice of model 'mla_small'",
        "c does not compose with this version of lmexp: Unknown key 'kv'",
        "c does not compose with this version of lmexp: Unknown key 'optimizer.lrr'",
    ):  # fmt: skip
        assert sum(words in reason for reason in reasons) == 1, words
    assert len(reasons) == 7  # what model=mla_small would have as keys, nobody can tell
    assert all("\n" not in reason.strip() for reason in reasons)


@pytest.mark.parametrize(
    ("arms", "seeds", "contrasts", "refused"),
    [
        ("ab", 5, "sign_flip_holm", True),  # 2 / 2^5 = .0625
        ("ab", 6, "sign_flip_holm", False),  # 2 / 2^6 = .03125
        ("abc", 6, "sign_flip_holm", True),  # Holm multiplies by two comparisons
        ("abc", 7, "sign_flip_holm", False),
        ("ab", 2, "dunnett_blocked", False),  # a t test can reach any p
    ],
)
def test_a_test_is_refused_just_when_it_cannot_reach_its_alpha(arms, seeds, contrasts, refused):
    levels = {arm: [f"optimizer.lr=0.0{place}"] for place, arm in enumerate(arms, start=1)}
    content = changed(
        (("design", "arms"), levels), (("design", "seeds"), list(range(seeds))), (("analysis", "contrasts"), contrasts)
    )
    plan = parse_plan(written(content) / "plan.yaml")
    assert any("cannot reach its alpha" in problem for problem in preregister.problems(plan)) == refused


def test_a_crossed_design_needs_every_crossing_and_two_levels_of_each_factor():
    def found(factors, exploratory=()):
        design = {"base": ["model=gpt_tiny"], "factors": factors, "control": "low-plain", "seeds": [0, 1, 2]}
        content = changed(
            (("design",), design),
            (("hypotheses",), None),
            (("exploratory",), list(exploratory)),
            (("analysis", "omnibus"), "two_way_blocked"),
        )
        return preregister.problems(parse_plan(written(content) / "plan.yaml"))

    rates = {"low": ["optimizer.lr=1e-4"], "high": ["optimizer.lr=1e-2"]}
    kinds = {"plain": [], "gated": ["model.ffn=swiglu"]}
    assert found({"rate": rates, "kind": kinds}) == []
    gap = found({"rate": rates, "kind": kinds}, ["high-gated"])
    assert gap == ["two_way_blocked needs every crossing of its factors, and high-gated is not judged."]
    (single,) = found({"rate": rates, "kind": {"plain": []}})
    assert single.startswith("A test has nothing to go by: ")


STAGES = {
    "base": ["model=gpt_tiny"],
    "arms": {"a-1": ["optimizer.lr=0.1"], "a-2": ["optimizer.lr=0.2"], "b-1": ["optimizer.lr=0.3"]},
    "control": "a",
    "seeds": [0],
    "confirmation": {"arms": {"a": ["a-*"], "b": ["b-1"]}, "seeds": [7, 8]},
}


@pytest.mark.parametrize(
    ("arms", "exploratory", "words"),
    [
        ({"a": ["a-*"], "b": ["b-1"]}, [], None),
        ({"a": ["a-*"], "b": ["*-1"]}, [], "The arm a-1 competes for a and for b"),
        ({"a": ["a-*"], "b": ["b-1"]}, ["a-2"], "The arm a-2 is exploratory and competes"),
        ({"a": ["a-*"]}, [], "It judges 1 arm"),
    ],
)
def test_competitions_are_checked(arms, exploratory, words):
    design = {**STAGES, "confirmation": {"arms": arms, "seeds": [7, 8]}}
    content = changed((("design",), design), (("hypotheses",), None), (("exploratory",), exploratory))
    found = preregister.problems(parse_plan(written(content) / "plan.yaml"))
    assert found == [] if words is None else any(words in problem for problem in found)


def test_a_plan_of_two_stages_freezes_every_cell_that_may_be_chosen(capsys):
    written(changed((("design",), STAGES), (("hypotheses",), None)))
    assert lock() == 0
    wanted = {f"{arm} seed {seed}" for arm in ("a-1", "a-2", "b-1") for seed in (0, 7, 8)}
    assert set(current().current.cells) == wanted
    said = capsys.readouterr().out
    assert "3 cells with frozen configs, and 6 that the confirmation chooses from" in said
    assert "Fewer than 5 fresh seeds confirm little." in said


def test_no_config_can_depend_on_the_seed_so_an_arm_is_composed_once(capsys):
    base = ["model=gpt_tiny", "data=text", "data.path=${seed}.txt"]
    written(changed((("design", "base"), base)))
    assert lock() == 2
    assert "Interpolation key 'seed' not found" in capsys.readouterr().err


def test_files_that_cannot_be_read_or_written_are_a_plain_sentence(tmp_path, capsys, monkeypatch):
    folder = written()

    def refuse(path, text):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(lock_room, "write_text", refuse)
        assert lock() == 2
    assert "lock.json (Permission denied); mend the folder's permissions." in capsys.readouterr().err
    (folder / "lock.json").mkdir()
    assert lock() == 2
    assert "lock.json (Is a directory)" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "experiments")
    (tmp_path / "experiments").write_text("a file where the folder should be")
    assert main(["plan", "lock", "gpt_to_llama"]) == 2
    assert "Cannot write to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lock", "nothing"], "Unknown experiment"),
        (["lock", "mine", "budget.steps=5"], "only paths.results=DIR"),
        (["amend", "mine"], "--reason"),
        (["amend", "mine", "--reason", " \n "], "not locked"),
        (["verify", "mine"], "is not locked; lock it with lmexp plan lock mine"),
        (["verify", "nothing"], "Unknown experiment"),
        (["lok", "mine"], "invalid choice"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, words, capsys):
    written()
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


# --- runs that were there before -----------------------------------------------------------------------------------


def launched(overrides, status="ok"):
    """Write the row of a run, without the run."""
    frozen = compose_run(overrides)
    folder = results.make_writable(frozen.folder)
    results.write_steps(folder, [])
    results.write_run(folder, {**frozen.config.row(), "status": status})
    results.finish(folder, results.DONE)


def test_runs_from_before_the_lock_are_counted_and_stay_exploratory(capsys):
    written()
    launched(cell_overrides(read_plan("mine"), "a", 0, []))
    launched(cell_overrides(read_plan("mine"), "b", 0, ["budget.seconds=3"]))
    assert lock() == 0
    assert current().current.runs_existed == 2
    assert "2 runs of this plan existed: they stay exploratory" in capsys.readouterr().out
    assert "2 runs existed" in preregister.chain_lines(current(), None)[0]


def test_runs_elsewhere_are_counted_when_it_is_said_where():
    written()
    launched(cell_overrides(read_plan("mine"), "a", 0, ["paths.results=elsewhere"]))
    assert lock("paths.results=elsewhere") == 0
    assert current().current.runs_existed == 1


# --- amending ------------------------------------------------------------------------------------------------------


def amend(reason="because", *arguments):
    return main(["plan", "amend", "mine", "--reason", reason, *arguments])


def test_an_amendment_says_why_what_changed_and_whether_runs_existed(capsys):
    written()
    lock()
    first = current().current
    launched(cell_overrides(read_plan("mine"), "a", 0, ["budget.seconds=3"]))  # exploratory: no evidence of this plan
    written(changed((("design", "seeds"), [0, 5, 6])))
    assert amend("more  seeds\nare better") == 0
    said = capsys.readouterr().out
    assert "Changed: design.seeds: [0,5] became [0,5,6]" in said
    assert "Changed: 2 of 6 cells have another config" in said
    entry = current().current
    assert (entry.kind, entry.reason, entry.runs_existed) == ("amendment", "more seeds are better", 0)
    assert entry.previous == first.sha256
    assert {key: entry.cells[key] for key in first.cells} == dict(first.cells)
    assert not current().amended_after_data
    launched(cell_overrides(read_plan("mine"), "a", 6, []))
    written(changed((("design", "seeds"), [0, 5])))
    assert amend("fewer", "paths.results=elsewhere") == 0
    assert current().current.runs_existed == 0
    written()
    written(changed((("question",), "Again?")))
    assert amend() == 0
    assert current().current.runs_existed == 1
    assert current().amended_after_data == (current().current,)
    assert "DEVIATED" in capsys.readouterr().out
    assert current().faults() == []


def test_an_amendment_without_a_reason_or_a_change_is_refused(capsys):
    folder = written()
    lock()
    before = (folder / "lock.json").read_bytes()
    assert amend() == 2
    assert "Nothing has changed since entry 0 of mine" in capsys.readouterr().err
    written("# only a comment\n" + yaml.safe_dump(PLAN, sort_keys=True))
    assert amend() == 2
    written(changed((("question",), "Another?")))
    assert amend("  \n") == 2
    assert "needs a reason" in capsys.readouterr().err
    assert (folder / "lock.json").read_bytes() == before


def test_an_amendment_has_to_be_lockable_too(capsys):
    folder = written()
    lock()
    before = (folder / "lock.json").read_bytes()
    written(changed((("design", "seeds"), [0])))
    assert amend() == 2
    assert "cannot be amended:\n  - It judges 1 seed" in capsys.readouterr().err
    assert (folder / "lock.json").read_bytes() == before


def test_a_changed_config_alone_can_be_amended(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox " * 900)
    base = ["model=gpt_tiny", "data=text", "data.path=text.txt", "data.tokenizer=byte", "data.context_length=12"]
    written(changed((("design", "base"), base)))
    lock()
    text.write_text("the quick brown dog " * 900)
    assert lock() == 2
    assert "4 of 4 cells have another config" in capsys.readouterr().err
    assert amend("another text") == 0
    assert lock() == 0


@pytest.mark.parametrize("verb", [lock, amend])
def test_a_lock_that_was_tampered_with_is_not_gone_on_with(verb, capsys):
    folder = written()
    lock()
    entries = json.loads((folder / "lock.json").read_text())
    entries[0]["runs_existed"] = 7
    (folder / "lock.json").write_text(json.dumps(entries))
    written(changed((("question",), "Another?")))
    assert verb() == 2
    assert "was tampered with: entry 0 of lock.json was edited" in capsys.readouterr().err


def test_an_amendment_is_never_older_than_what_it_amends(monkeypatch, capsys):
    written()
    lock()
    written(changed((("question",), "Another?")))
    monkeypatch.setattr(preregister, "now", lambda: "2020-01-01T00:00:00+00:00")
    assert amend() == 2
    assert "The clock says 2020-01-01T00:00:00+00:00" in capsys.readouterr().err


# --- list and show -------------------------------------------------------------------------------------------------


def listed(capsys):
    capsys.readouterr()
    assert main(["plan", "list"]) == 0
    return next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mine"))


def test_the_list_says_where_each_plan_stands(capsys):
    folder = written()
    assert "not locked" in listed(capsys)
    lock()
    assert " locked " in listed(capsys)
    written(changed((("question",), "Another?")))
    assert "locked, edited since" in listed(capsys)
    amend()
    assert "amended once " in listed(capsys)
    written()
    amend()
    assert "amended 2 times " in listed(capsys)
    (folder / "lock.json").write_text("[]")
    assert "lock damaged" in listed(capsys)


def test_the_list_survives_plans_that_cannot_be_composed_or_read(capsys):
    written(changed((("design", "base"), ["model=not_built_yet"]), (("metrics", "secondary"), ["not_measured_yet"])))
    assert "not locked" in listed(capsys)
    written("name: [")
    assert "cannot be read" in listed(capsys)


def shown(capsys):
    capsys.readouterr()
    assert main(["plan", "show", "mine"]) == 0
    return capsys.readouterr().out


def test_a_plan_is_shown_with_what_it_can_find_its_lock_and_what_it_lacks(capsys):
    written(changed((("metrics", "primary", "sesoi"), None)))
    said = shown(capsys)
    assert yaml.safe_load(said)["name"] == "mine"  # what is added is comments
    assert "# blocked_anova: blocked F: " in said
    assert "# none yet" in said
    assert "# metrics.primary has no sesoi" in said
    written()
    assert "# nothing is missing" in shown(capsys)
    lock()
    said = shown(capsys)
    assert f"# entry 0  lock of {current().current.at}  0 runs existed  sha256 {current().current.sha256}" in said
    assert "in no git commit" in said
    assert "Before lmexp plan" not in said
    written(changed((("question",), "Another?"), (("design", "seeds"), [1])))
    said = shown(capsys)
    assert "# changed since: design.seeds: [0,5] became [1]" in said
    assert "# It judges 1 seed" in said


def test_help_tells_how_to_find_witnesses(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "lock", "--help"])
    said = capsys.readouterr().out
    for words in ("git tag -s", "openssl ts -query", "lock.json.tsr.pem"):
        assert words in said


# --- from the plan to verified evidence, with real runs ------------------------------------------------------------

QUICK = ["model=gpt_tiny", "model.d_model=16", "data=text", "data.tokenizer=byte", "data.context_length=12",
         "data.batch_size=4", "budget=steps", "budget.steps=6", "budget.evaluations=1", "compile=none"]  # fmt: skip


@pytest.fixture
def in_this_process(monkeypatch):
    """Carry out runs here rather than each in a process of its own, and without the probe, which takes a second."""
    monkeypatch.setattr(run_room.platform, "probe", lambda: 1.0)

    def ensure_done(run, observe):
        if not run.is_done and not sweep._is_settled(run):
            results.make_writable(run.folder)
            sweep._clear_away(run)
            with contextlib.suppress(KeyboardInterrupt), results.claim(run.folder):
                run_room.run(run, lambda observation: None)
        return True

    monkeypatch.setattr(sweep, "ensure_done", ensure_done)


def sweep_all(*user):
    return [row for _, row in launch(expand(["experiment=mine", *user]))]


def test_from_a_plan_to_verified_evidence(text, in_this_process, capsys):
    design = {**PLAN["design"], "base": [*QUICK, f"data.path={text}"], "free": ["budget.steps"]}
    written(changed((("design",), design)))
    assert [row["registered"] for row in sweep_all("arm=a")] == [False, False]  # too early
    assert lock() == 0
    assert current().current.runs_existed == 2
    assert not verify("mine").is_clean  # nothing that counts has run yet
    rows = sweep_all()
    assert [row["registered"] for row in rows] == [True] * 4
    before = verify("mine")
    assert before.is_clean, before.findings
    assert before.accounting == "Runs: 6 launched: 4 count, 0 set aside, 0 not believed, 2 exploratory."
    assert len(list(preregister.Path("results/mine").glob("a-seed*/attempts/1"))) == 2  # those from before the lock
    sweep_all("optimizer.lr=0.01", "seed=0")
    again = sweep_all("budget.steps=5", "arm=b", "seed=5")
    assert [row["registered"] for row in again] == [True]  # the plan leaves this key free
    after = verify("mine")
    assert after.is_clean, after.findings
    assert after.accounting == "Runs: 9 launched: 4 count, 1 set aside, 0 not believed, 4 exploratory."
    assert after.evidence_sha256 == before.evidence_sha256
    assert main(["plan", "verify", "mine"]) == 0
    started = {row["run_id"]: row["started_at"] for row in sweep_all()}
    assert started == {row["run_id"]: row["started_at"] for row in rows}  # nothing ran again


def test_two_stages_are_carried_out_and_only_what_was_chosen_runs_at_fresh_seeds(text, in_this_process):
    design = copy.deepcopy(STAGES) | {"base": [*QUICK, f"data.path={text}"]}
    design["arms"]["b-2"] = ["optimizer=sgd", "optimizer.lr=1e30", "optimizer.clip_norm=1e30"]  # diverges
    design["confirmation"]["arms"] = {"a": ["a-*"], "b": ["b-*"]}
    written(changed((("design",), design), (("hypotheses",), None)))
    assert lock() == 0
    rows = sweep_all()
    by_cell = {(row["arm"], row["seed"]): row for row in rows}
    assert {cell for cell in by_cell if cell[1] == 0} == {(arm, 0) for arm in design["arms"]}
    assert by_cell["b-2", 0]["status"] == "diverged"
    best = min(("a-1", "a-2"), key=lambda arm: (by_cell[arm, 0]["val_bpb"] > 0.01 + min(
        by_cell[a, 0]["val_bpb"] for a in ("a-1", "a-2")), by_cell[arm, 0]["val_bpb"]))  # fmt: skip
    assert {cell for cell in by_cell if cell[1] != 0} == {(arm, seed) for arm in (best, "b-1") for seed in (7, 8)}
    found = verify("mine")
    assert found.is_clean, found.findings
    assert found.n_counted == 8  # four of the sweep (a diverged one is a result to it), four at fresh seeds
    # An amendment that leaves the configs alone leaves the choice alone: nothing runs again.
    written(changed((("design",), design), (("hypotheses",), None), (("question",), "Another?")))
    assert amend() == 0
    again = {(row["arm"], row["seed"]): row["started_at"] for row in sweep_all()}
    assert again == {cell: row["started_at"] for cell, row in by_cell.items()}
    assert verify("mine").is_clean


def test_a_run_in_a_process_of_its_own_is_registered_too(text, capsys):
    design = {**PLAN["design"], "base": [*QUICK, f"data.path={text}"]}
    written(changed((("design",), design)))
    assert lock() == 0
    command = [sys.executable, "-m", "lmexp", "run", "-m", "experiment=mine", "arm=a", "seed=0"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    capsys.readouterr()
    assert main(["plan", "verify", "mine"]) == 1
    said = capsys.readouterr().out
    assert "FAULT  3 cells missing: no registered run of b seed 0, a seed 5, b seed 5." in said
    assert "Runs: 1 launched: 1 count, 0 set aside, 0 not believed, 0 exploratory." in said


@pytest.mark.parametrize("name", ["1e-4", "0.001", "007", "null", "true", "[x]", "inf", "é", "a b", "a,b", "a=b"])
def test_an_arm_may_be_called_anything_that_names_a_folder(name):
    """What locks must run: Hydra would read some of these as numbers, lists or nothing."""
    written(changed((("design", "arms"), {"a": [], name: ["model.ffn=swiglu"]}), (("hypotheses",), [])))
    assert lock() == 0
    config = compose_run(cell_overrides(read_plan("mine"), name, 0, [])).config
    assert (config.arm, config.lock_sha256) == (name, current().current.sha256)


@pytest.mark.parametrize("name", ["yes", "no", "null", "2024-01-01", ".inf"])
def test_a_name_that_yaml_does_not_read_as_text_is_refused(name, capsys):
    """The lock is JSON, where they would have other names: False becomes false, and every run of it is lost."""
    text = yaml.safe_dump(changed((("design", "arms"), {"a": [], "b": []})), sort_keys=False)
    written(text.replace("    b: []", f"    {name}: []"))
    assert lock() == 2
    assert "quotes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edits", "words"),
    [
        ([(("exploratory",), ["*"]), (("design", "control"), None), (("hypotheses",), [])], "every arm exploratory"),
        ([(("design", "arms"), None), (("hypotheses",), []), (("design", "control"), "x-z"),
          (("design", "factors"), {"f": {"x-y": [], "x": []}, "g": {"z": [], "y-z": []}})], "same arm name"),
    ],
)  # fmt: skip
def test_a_plan_that_no_report_can_be_made_of_is_refused_when_it_is_read(edits, words, capsys):
    written(changed(*edits))
    assert main(["plan", "show", "mine"]) == 2
    assert words in capsys.readouterr().err
