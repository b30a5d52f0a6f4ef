"""The judge against models whose score is known by hand, whatever the tokenizer and the window."""

import itertools
import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from lmexp import judge as judge_room
from lmexp.judge import Judge


class Table(nn.Module):
    """Predicts from the last token alone, by a table of probabilities; in training mode it forgets half of it."""

    def __init__(self, probabilities):
        super().__init__()
        self.log_table = mx.log(mx.array(probabilities))
        self.dropout = nn.Dropout(0.5)

    def __call__(self, tokens):
        return self.dropout(self.log_table[tokens])


TABLE = np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.6, 0.3, 0.1]], dtype=np.float32)
TOKENS = np.array([0, 1, 2, 0, 0, 2, 1, 1], dtype=np.uint16)
BYTES = np.array([1, 2, 5], dtype=np.int32)
NATS = -sum(math.log(TABLE[a, b]) for a, b in itertools.pairwise(TOKENS))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("context_length", [1, 2, 3, 7, 50])
def test_bits_per_byte_of_a_hand_computed_model(context_length, compiled):
    score = Judge(Table(TABLE), TOKENS, BYTES, context_length, compiled)()
    assert score.n_tokens == 7
    assert score.n_bytes == 2 + 5 + 1 + 1 + 5 + 2 + 2  # every byte but those of the first token, once
    # float32 logarithms of seven numbers.
    assert score.nats == pytest.approx(NATS, rel=1e-6)
    assert score.bits_per_byte == pytest.approx(NATS / math.log(2) / 18, rel=1e-6)
    assert score.loss_nats == pytest.approx(NATS / 7, rel=1e-6)


def test_many_windows_in_several_batches_count_every_token_once():
    tokens = np.random.default_rng(0).integers(0, 3, 20_011).astype(np.uint16)
    score = Judge(Table(TABLE), tokens, BYTES, 37, compiled=True)()
    expected = -np.log(TABLE[tokens[:-1], tokens[1:]].astype(np.float64)).sum()
    assert score.n_bytes == BYTES[tokens[1:]].sum()
    assert score.nats == pytest.approx(expected, rel=1e-6)  # float32 logarithms, summed in double precision


def test_the_same_weights_always_give_the_same_figure_and_the_mode_is_left_as_it_was():
    model = Table(TABLE)
    judge = Judge(model, TOKENS, BYTES, 3, compiled=True)
    model.train()
    first = judge()
    mx.eval(mx.random.uniform(shape=(5,)))
    assert judge() == first
    assert model.training
    model.eval()
    assert judge() == first
    assert not model.training


def test_the_judge_sees_new_weights():
    model = Table(TABLE)
    judge = Judge(model, TOKENS, BYTES, 3, compiled=True)
    before = judge().nats
    model.log_table = mx.log(mx.array(TABLE[[2, 1, 0]]))
    assert judge().nats != pytest.approx(before, rel=1e-3)


def test_a_uniform_model_needs_the_logarithm_of_the_vocabulary():
    uniform = np.full((256, 256), 1 / 256, dtype=np.float32)
    text = np.frombuffer(b"any text at all, of any length", dtype=np.uint8)
    score = Judge(Table(uniform), text, np.ones(256, np.int32), 7, compiled=False)()
    assert score.bits_per_byte == pytest.approx(8.0, rel=1e-6)


def test_judging_leaves_the_weights_where_they_were():
    model = Table(TABLE)
    Judge(model, TOKENS, BYTES, 3, compiled=True)()
    # An array left over from tracing could not be read.
    assert np.allclose(np.exp(np.array(model.log_table)), TABLE)


def test_warming_scores_each_shape_of_batch_once_and_changes_no_figure():
    tokens = np.random.default_rng(1).integers(0, 3, 30_011).astype(np.uint16)
    cold, warm = (Judge(Table(TABLE), tokens, BYTES, 37, compiled=True) for _ in range(2))
    seen = []
    scored = warm._nats_of[0]
    warm._nats_of = [lambda inputs, *rest: (seen.append(inputs.shape), scored(inputs, *rest))[1]]
    warm.warm()
    assert seen == [(221, 37), (812 - 3 * 221, 37)]  # 8192 // 37 windows at once, and what is left of 812
    assert warm() == cold()


def test_a_batch_is_under_way_while_the_one_before_it_is_read():
    tokens = np.random.default_rng(1).integers(0, 3, 30_011).astype(np.uint16)
    model = Table(TABLE)
    model.eval()
    judge = Judge(model, tokens, BYTES, 37, compiled=False)
    dispatched = []
    scored = judge._nats_of[0]
    judge._nats_of = [lambda inputs, *rest: (dispatched.append(len(inputs)), scored(inputs, *rest))[1]]
    ahead = [len(dispatched) for _ in judge._scored_ahead(judge._starts)]
    assert ahead == [2, 3, 4, 4]
    one_by_one = sum(np.asarray(scored(*judge._batch(start))).sum(dtype=np.float64) for start in judge._starts)
    assert judge().nats == one_by_one  # bit for bit


@pytest.mark.skipif(mx.default_device() != mx.cpu, reason="a GPU has one stream")
@pytest.mark.parametrize("compiled", [False, True])
def test_several_streams_give_the_same_bits(monkeypatch, compiled):
    monkeypatch.setattr(judge_room, "_TOKENS_AT_ONCE", 111)  # nine batches for three streams, the last of them short
    tokens = np.random.default_rng(3).integers(0, 3, 961)
    streams = [mx.default_stream(mx.cpu), mx.new_stream(mx.cpu), mx.new_stream(mx.cpu)]
    one, many = (Judge(Table(TABLE), tokens, BYTES, 37, compiled, given) for given in ((), streams))
    many.warm()
    assert many().nats == one().nats
    assert many().nats == one().nats
