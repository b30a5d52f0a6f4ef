"""Plans: what is refused and with which words, what the hash covers, which cells there are."""

import pytest
import yaml

from lmexp.errors import UserError
from lmexp.plan import cells, check_measured, find_plans, parse_plan, read_plan

PLAN = {
    "name": "mine",
    "question": "Does it work?",
    "design": {"base": ["model=gpt_tiny"], "arms": {"a": [], "b": ["seed=1"]}, "control": "a", "seeds": [0, 5]},
    "metrics": {
        "primary": {"name": "val_bpb", "direction": "lower", "unit": "bits/byte", "sesoi": 0.01},
        "secondary": [],
    },
    "hypotheses": [{"id": "H1", "claim": "b wins", "supported_if": "diff(b, a) < 0", "falsified_if": "diff(b, a) > 0"}],
    "analysis": {"alpha": 0.05, "omnibus": "blocked_anova", "contrasts": "dunnett_blocked", "effect_size": "hedges_g"},
}


def written(tmp_path, content, name="mine"):
    path = tmp_path / "experiments" / name / "plan.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def changed(path, value):
    """Return PLAN with one field changed; None removes it."""
    content = yaml.safe_load(yaml.safe_dump(PLAN))
    *sections, key = path
    node = content
    for section in sections:
        node = node[section]
    if value is None:
        del node[key]
    else:
        node[key] = value
    return content


def test_every_plan_that_ships_can_be_read():
    names = set(find_plans())
    assert {"gpt_to_llama", "quickstart"} <= names
    for name in names:
        assert read_plan(name).name == name


def test_cells_are_arms_times_seeds(tmp_path):
    plan = parse_plan(written(tmp_path, PLAN))
    assert {(cell.arm, cell.seed) for cell in cells(plan)} == {("a", 0), ("a", 5), ("b", 0), ("b", 5)}
    assert [(cell.arm, cell.seed) for cell in cells(plan, arms=["b"], seeds=[9])] == [("b", 9)]
    with pytest.raises(UserError, match="arm of mine 'c'"):
        cells(plan, arms=["c"])


def test_the_hash_covers_the_content_and_not_the_layout(tmp_path):
    plain = parse_plan(written(tmp_path, PLAN)).sha256
    assert (
        parse_plan(written(tmp_path, "# a comment\n" + yaml.safe_dump(PLAN, sort_keys=True, indent=6))).sha256 == plain
    )
    for path, value in [(("design", "seeds"), [0, 6]), (("hypotheses", 0, "supported_if"), "diff(b, a) < 1")]:
        assert parse_plan(written(tmp_path, changed(path, value))).sha256 != plain


def test_a_plan_of_the_working_directory_is_found(tmp_path, monkeypatch):
    written(tmp_path, PLAN)
    monkeypatch.chdir(tmp_path)
    assert read_plan("mine").question == "Does it work?"
    assert "gpt_to_llama" in find_plans()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("name",), "other", "name it mine"),
        (("question",), None, "misses the field question"),
        (("questoin",), "?", "did you mean 'question'"),
        (("design", "seeds"), [], "whole numbers"),
        (("design", "seeds"), [0, 0], "different whole numbers"),
        (("design", "seeds"), [0, -1], "whole numbers"),
        (("design", "arms"), {}, "at least one arm"),
        (("design", "control"), "aa", "did you mean 'a'"),
        (("design", "control"), None, "no design.control"),
        (("design", "base"), "model=gpt_tiny", "must be a list"),
        (("metrics", "primary", "direction"), "down", "direction"),
        (("metrics", "primary", "sesoi"), "small", "must be a number"),
        (("analysis", "alpha"), 1.5, "between 0 and 1"),
        (("analysis", "alpa"), 0.05, "did you mean 'alpha'"),
        (("analysis", "omnibus"), "blocked_anov", "did you mean 'blocked_anova'"),
        (("analysis", "effect_size"), "g", "analysis.effect_size"),
        (("hypotheses", 0, "supported_if"), "diff(b, c) < 0", "arm in the criterion"),
        (("hypotheses", 0, "supported_if"), "diff(b, a) <", "expected"),
        (("hypotheses", 0, "supported_if"), "share(b) > 0.5", "analysis.full"),
        (("hypotheses",), [PLAN["hypotheses"][0]] * 2, "same id"),
        (("design",), "arms", "must be a mapping"),
    ],
)
def test_mistakes_are_named(tmp_path, path, value, words):
    with pytest.raises(UserError, match=words):
        parse_plan(written(tmp_path, changed(path, value)))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("metrics", "primary", "name"), "val_bpp", "did you mean 'val_bpb'"),
        (("metrics", "secondary"), ["tokens_per_sec"], "did you mean 'tokens_per_second'"),
    ],
)
def test_a_metric_that_nobody_measures_is_named_before_anything_runs(tmp_path, path, value, words):
    plan = parse_plan(written(tmp_path, changed(path, value)))  # a plan may be written before its measure is built
    with pytest.raises(UserError, match=words):
        check_measured(plan)


def test_a_file_that_is_not_yaml_is_named(tmp_path):
    with pytest.raises(UserError, match=r"plan\.yaml is not YAML"):
        parse_plan(written(tmp_path, "name: [a\nb: c"))


def test_an_unknown_experiment_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'gpt_to_llama'"):
        read_plan("gpt_to_lama")
