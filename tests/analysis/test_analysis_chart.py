"""The kit that draws: a value is where its axis says, ticks are round and inside, nothing is lost or invented."""

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmexp.analysis.chart import (
    Axis,
    Canvas,
    factor_texts,
    log_ticks,
    round_ticks,
    shortened,
    span,
    stacked,
    thinned,
    tick_texts,
    tiles,
)
from lmexp.analysis.pictures import evenly
from lmexp.analysis.svg import accessible, element, marks, path

RANGES = st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)).map(lambda pair: (pair[0], pair[0] + pair[1]))


class TestAxis:
    def test_ends_and_middle(self):
        axis = Axis(10, 30, 100, 500)
        assert [axis.place(value) for value in (10, 20, 30)] == [100, 300, 500]
        assert Axis(10, 30, 500, 100).place(15) == 400  # a vertical axis grows upwards

    def test_equal_ratios_are_equally_far_on_a_logarithmic_axis(self):
        axis = Axis(1, 100, 0, 200, log=True)
        assert [axis.place(value) for value in (1, 10, 100)] == pytest.approx([0, 100, 200])
        assert np.isnan(axis.at(np.array([0.0, -3.0]))).all()

    @given(ends=RANGES, about=st.integers(2, 9))
    def test_ticks_lie_inside_and_are_equally_far_apart(self, ends, about):
        ticks = Axis(*ends, 0, 100).ticks(about)
        assert all(ends[0] <= tick <= ends[1] for tick in ticks)
        assert len(ticks) <= 1.5 * about + 2
        if len(ticks) > 2:
            assert np.ptp(np.diff(ticks)) < 1e-6 * (ends[1] - ends[0])

    @pytest.mark.parametrize(
        ("low", "high", "about", "expected"),
        [
            (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
            (2.06, 2.33, 5, [2.1, 2.15, 2.2, 2.25, 2.3]),
            (-0.21, 0.012, 4, [-0.2, -0.15, -0.1, -0.05, 0]),
            (0, 300, 6, [0, 50, 100, 150, 200, 250, 300]),
        ],
    )
    def test_ticks_are_round(self, low, high, about, expected):
        assert round_ticks(low, high, about) == pytest.approx(expected)

    def test_ticks_of_a_narrow_logarithmic_axis_are_those_of_a_plain_one(self):
        assert log_ticks(0.9, 1.5, 6) == pytest.approx([0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5])

    def test_ticks_of_a_wide_logarithmic_axis_are_powers_of_ten(self):
        assert log_ticks(1, 1e6, 4) == pytest.approx([10.0**power for power in range(7)])
        assert 20 in log_ticks(3, 90, 5)

    @given(st.lists(st.floats(1e-3, 1e5), min_size=1, max_size=9), st.booleans())
    def test_a_span_holds_all_values_with_room(self, values, log):
        low, high = span(values, log=log)
        assert low < min(values) <= max(values) < high

    def test_a_span_without_values_is_one_all_the_same(self):
        assert span([np.nan]) == (0.0, 1.0)
        assert span([-1.0], log=True)[0] > 0


class TestTexts:
    def test_as_many_decimals_as_tell_ticks_apart(self):
        minus = "\N{MINUS SIGN}"
        assert tick_texts([-0.05, 0.0, 0.05]) == [f"{minus}0.05", "0.00", "0.05"]
        assert tick_texts([0, 2500, 5000]) == ["0", "2,500", "5,000"]
        assert tick_texts([0.0, 2e6]) == ["0", "2e6"]

    def test_factors(self):
        times = "\N{MULTIPLICATION SIGN}"
        assert factor_texts([0.5, 1.0, 1.25]) == [f"{times}0.5", f"{times}1", f"{times}1.25"]

    def test_a_name_is_whole_or_ends_in_an_ellipsis(self):
        assert shortened("rope", 100) == "rope"
        assert shortened("a very long name indeed", 60) == "a very l…"


class TestElements:
    def test_text_and_attributes_are_escaped(self):
        assert element("text", "", "<a & b>", x=1.25) == '<text x="1.2">&lt;a &amp; b&gt;</text>'
        assert accessible('say "x" & <y>') == 'role="img" aria-label="say &quot;x&quot; &amp; &lt;y&gt;"'

    def test_a_line_is_lifted_where_a_point_is_missing(self):
        xs, ys = np.array([0.0, 1, 2, 3]), np.array([5.0, np.nan, 6, 7])
        assert path(xs, ys) == "M0,5 M2,6 3,7"

    def test_a_missing_point_has_no_dot(self):
        assert marks(np.array([0.0, 1]), np.array([np.nan, 2])) == "M1,2h0"


class TestThinning:
    def test_points_closer_than_a_pixel_go_but_not_the_ends(self):
        xs = np.linspace(0, 90, 1000)
        kept, values = thinned(xs, xs**2)
        assert 40 < len(kept) < 100
        assert (kept[0], kept[-1]) == (xs[0], xs[-1])
        assert np.array_equal(values, kept**2)

    def test_lines_with_room_and_vertical_lines_stay_as_they_are(self):
        wide, upright = np.linspace(0, 900, 100), np.array([5.0, 5.0])
        assert np.array_equal(thinned(wide, wide)[0], wide)
        assert np.array_equal(thinned(upright, np.array([1.0, 9.0]))[1], [1.0, 9.0])


class TestLayout:
    @given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 100), min_size=1, max_size=12))
    def test_labels_are_apart_in_their_order_and_inside(self, wanted):
        placed = stacked(wanted, 0, 100, 14)
        order = sorted(wanted, key=wanted.get)
        places = [placed[name] for name in order]
        least = min(14, 100 / max(1, len(wanted) - 1))
        assert all(later - earlier >= least - 1e-6 for earlier, later in pairwise(places))
        assert -1e-6 <= min(places) <= max(places) <= 100 + 1e-6

    def test_a_label_with_room_stays_where_it_wants_to_be(self):
        assert stacked({"a": 20.0, "b": 60.0}, 0, 100, 14) == {"a": 20.0, "b": 60.0}

    def test_tiles_fill_rows_and_do_not_overlap(self):
        height, found = tiles(5, 900, 3, 100)
        assert [tile.is_first for tile in found] == [True, False, False, True, False]
        assert [tile.is_last_row for tile in found] == [False, False, True, True, True]
        assert found[0].right < found[1].left
        assert found[2].right <= 900
        assert found[0].bottom < found[3].top
        assert found[-1].bottom < height
        assert tiles(5, 900, 3, 100, first=20)[0] == height - 24
        assert tiles(5, 900, 3, 100, first=20)[1][3].top == found[3].top - 24

    @given(st.integers(1, 500), st.integers(2, 60))
    def test_a_sample_is_even_and_keeps_both_ends(self, n, most):
        found = evenly(range(n), most)
        assert len(found) == min(n, most)
        assert (found[0], found[-1]) == (0, n - 1)
        assert found == sorted(set(found))
        if n > most:
            assert max(np.diff(found)) - min(np.diff(found)) <= 1


class TestPanel:
    def panel(self):
        canvas = Canvas(300, 200)
        return canvas, canvas.panel(Axis(0, 10, 50, 250), Axis(0, 4, 180, 20))

    def test_what_is_drawn_inside_is_cut_off_at_the_edge(self):
        canvas, panel = self.panel()
        panel.line(np.array([0.0, 10]), np.array([0.0, 400]), "red")
        svg = canvas.svg("alt")
        assert 'style="overflow:hidden"' in svg
        box = [float(number) for number in re.search(r'<svg x="[^"]+".*?viewBox="([^"]+)"', svg)[1].split()]
        assert box == [46, 16, 208, 168]

    def test_an_interval_beyond_the_axis_ends_in_hollow_dots(self):
        canvas, panel = self.panel()
        panel.across(2, -5, 20, "red")
        hollow = re.findall(r'd="(M[^"]+)"', canvas.svg("alt"))
        assert hollow == ["M50,100 250,100", "M50,100h0M250,100h0", "M50,100h0M250,100h0"]

    def test_an_undefined_interval_is_not_drawn(self):
        canvas, panel = self.panel()
        panel.across(2, None, 3, "red")
        panel.interval(2, 3, None, "red")
        assert "path" not in canvas.svg("alt")

    def test_a_shaded_region_ends_where_it_says(self):
        canvas, panel = self.panel()
        panel.shade(y=(1, 3))
        assert '<rect x="50" y="60" width="200" height="80"' in canvas.svg("alt")
        canvas, panel = self.panel()
        panel.shade(x=(-5, 5))
        assert '<rect x="50" y="20" width="100" height="160"' in canvas.svg("alt")
        canvas = Canvas(300, 200)
        canvas.panel(Axis(10, 0, 50, 250), Axis(4, 0, 20, 180)).shade(x=(8, 20))  # axes that fall
        assert '<rect x="50" y="20" width="40" height="160"' in canvas.svg("alt")

    def test_names_that_do_not_fit_are_slanted(self):
        canvas, panel = self.panel()
        panel.names_below([1, 9], ["a", "b"])
        assert "rotate" not in canvas.svg("alt")
        panel.names_below([1, 9], ["a name that is too long", "b"])
        assert "rotate(-38 73 193)" in canvas.svg("alt")
