"""Laws of the criteria language: what parses, what it means, and that every mistake is named with its place."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmexp.criteria import (
    TERMS,
    And,
    Comparison,
    Or,
    Term,
    check,
    check_roles,
    comparisons,
    parse,
    terms,
)
from lmexp.errors import UserError

ARMS = ("baseline", "gqa", "swiglu", "llama")
METRICS = ("val_bpb", "tokens_per_second")


def term(name, *arms, metric=None):
    return Term(name, arms, metric)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("share(gqa) > 0.5", Comparison(term("share", "gqa"), ">", 0.5)),
        ("diff(a, b) <= -1e-3", Comparison(term("diff", "a", "b"), "<=", -0.001)),
        ("ratio(b,a)>=2", Comparison(term("ratio", "b", "a"), ">=", 2.0)),
        ("mean(a) < +.5", Comparison(term("mean", "a"), "<", 0.5)),
        ("interaction() > 0", Comparison(term("interaction"), ">", 0.0)),
        ("interaction(a, b, c) > 0", Comparison(term("interaction", "a", "b", "c"), ">", 0.0)),
        ("improvement(a, metric=steps) > 3", Comparison(term("improvement", "a", metric="steps"), ">", 3.0)),
        ("interaction(metric=steps) > 3", Comparison(term("interaction", metric="steps"), ">", 3.0)),
        ("mean(lr-1e-3) < 2", Comparison(term("mean", "lr-1e-3"), "<", 2.0)),
        ("mean(3e-4) < 2", Comparison(term("mean", "3e-4"), "<", 2.0)),
        ("mean('an odd, name') < 2", Comparison(term("mean", "an odd, name"), "<", 2.0)),
        ("mean(metric) < 2", Comparison(term("mean", "metric"), "<", 2.0)),
    ],
)
def test_a_comparison_is_read_as_written(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "operator"), [("1 < mean(a)", ">"), ("1 <= mean(a)", ">="), ("1 > mean(a)", "<"), ("1 >= mean(a)", "<=")]
)
def test_a_number_on_the_left_mirrors_the_operator(text, operator):
    assert parse(text) == Comparison(term("mean", "a"), operator, 1.0)


def test_and_binds_tighter_than_or_and_parentheses_override():
    a, b, c = (Comparison(term("mean", name), "<", 1.0) for name in "abc")
    assert parse("mean(a) < 1 or mean(b) < 1 and mean(c) < 1") == Or((a, And((b, c))))
    assert parse("(mean(a) < 1 or mean(b) < 1) and mean(c) < 1") == And((Or((a, b)), c))
    assert parse("mean(a) < 1 and mean(b) < 1 and mean(c) < 1") == And((a, b, c))


_arms = st.sampled_from([*ARMS, "an odd name", "it's", "and", "1e-3"])
_metrics = st.sampled_from([None, "steps", "an odd one"])
_terms = st.one_of(
    st.builds(
        lambda name, arm, metric: Term(name, (arm,), metric),
        st.sampled_from(["mean", "share", "improvement"]),
        _arms,
        _metrics,
    ),
    st.builds(lambda name, metric: Term(name, ("b", "a"), metric), st.sampled_from(["diff", "ratio"]), _metrics),
    st.builds(lambda arms, metric: Term("interaction", tuple(arms), metric), st.lists(_arms), _metrics),
)
_comparisons = st.builds(
    Comparison, _terms, st.sampled_from(["<", "<=", ">", ">="]), st.floats(allow_nan=False, allow_infinity=False)
)


def _joined(parts):
    both = st.lists(parts, min_size=2, max_size=3).map(tuple)
    return st.one_of(both.map(And), both.map(Or))


@given(st.recursive(_comparisons, _joined, max_leaves=6))
def test_what_is_printed_parses_to_the_same_meaning(criterion):
    again = parse(str(criterion))
    assert list(comparisons(again)) == list(comparisons(criterion))
    assert str(again) == str(criterion)


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        ("", 1, "one of mean"),
        ("mean(a)", 8, "<, <=, > or >="),
        ("mean(a) <", 10, "a number"),
        ("mean(a) == 1", 9, "<, <=, > or >="),
        ("mean(a) < x", 11, "a number"),
        ("mean(a) < nan", 11, "a number"),
        ("mean(a) < 1e999", 11, "a finite number"),
        ("mean(a) < 20%", 13, "0.2"),
        ("mean(a < 1", 8, "',' or ')'"),
        ("mean(,a) < 1", 6, "name of an arm"),
        ("mean(a,) < 1", 8, "name of an arm"),
        ("mean a < 1", 6, "'(' after mean"),
        ("mean(a, metric=) < 1", 16, "name of a metric"),
        ("mean(metric=x, a) < 1", 14, "metric= comes last"),
        ("(mean(a) < 1", 13, "')'"),
        ("mean(a) < 1)", 12, "and, or or the end"),
        ("0 < mean(a) < 1", 13, "for a range"),
        ("mean(a) < 1 mean(b) < 1", 13, "and, or or the end"),
        ("mean(a) < 1 and", 16, "one of mean"),
        ("mean(a) - mean(b) < 1", 9, "a term"),
        ("mean(a); import os", 8, "a term"),
        ("diff(a) < 1", 1, "2 arms"),
        ("diff(a, b, c) < 1", 1, "2 arms"),
        ("mean() < 1", 1, "1 arm"),
        ("(" * 40 + "mean(a) < 1" + ")" * 40, 33, "nested"),
    ],
)
def test_a_mistake_is_named_with_its_column_and_what_was_expected(text, column, expected):
    with pytest.raises(UserError) as caught:
        parse(text)
    assert f"column {column} " in str(caught.value)
    assert expected in str(caught.value)


def test_an_unknown_estimate_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'share'"):
        parse("shares(gqa) < 1")


@given(st.text(max_size=40))
def test_any_text_parses_or_is_refused_in_one_sentence(text):
    with suppress(UserError):  # any other exception is a fault
        parse(text)


def test_terms_are_listed_once_and_comparisons_in_order():
    criterion = parse("share(gqa) < 0.2 or (mean(gqa) > 1 and share(gqa) > 0.5)")
    assert terms(criterion) == (term("share", "gqa"), term("mean", "gqa"))
    assert [comparison.threshold for comparison in comparisons(criterion)] == [0.2, 1.0, 0.5]


def test_check_accepts_what_exists():
    check(parse("diff(gqa, swiglu, metric=tokens_per_second) > 0 and interaction() > 0"), ARMS, METRICS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("share(swigl) < 1", "did you mean 'swiglu'"),
        ("mean(gqa, metric=tokens_per_secnd) < 1", "did you mean 'tokens_per_second'"),
        ("mean(gqa) < 1 or diff(gqa, gqa) < 1", "names one arm twice"),
        ("interaction(gqa, swiglu, gqa) < 1", "names one arm twice"),
    ],
)
def test_check_refuses_names_that_do_not_exist(text, message):
    with pytest.raises(UserError, match=message):
        check(parse(text), ARMS, METRICS)


def test_roles_are_only_asked_for_where_they_are_needed():
    check_roles(parse("mean(gqa) < 1 and diff(gqa, llama) < 1 and ratio(gqa, llama) < 1"), None, None)
    check_roles(parse("improvement(gqa) > 1 and improvement(llama) > 1"), "baseline", None)
    check_roles(parse("share(gqa) > 1 and interaction() > 1"), "baseline", "llama")


@pytest.mark.parametrize(
    ("text", "control", "full", "message"),
    [
        ("improvement(gqa) > 1", None, None, "design.control"),
        ("share(gqa) > 1", "baseline", None, "analysis.full"),
        ("interaction() > 1", "baseline", None, "analysis.full"),
        ("share(gqa) > 1", "baseline", "baseline", "differ"),
        ("share(llama) > 1", "baseline", "llama", "by definition"),
        ("share(baseline) > 1", "baseline", "llama", "by definition"),
        ("improvement(baseline) > 1", "baseline", "llama", "by definition"),
        ("interaction(gqa, llama) > 1", "baseline", "llama", "by definition"),
    ],
)
def test_a_missing_or_trivial_role_is_refused(text, control, full, message):
    with pytest.raises(UserError, match=message):
        check_roles(parse(text), control, full)


def test_every_term_has_a_meaning_in_the_documentation():
    import lmexp.criteria

    assert all(f"{name}(" in lmexp.criteria.__doc__ for name in TERMS)
