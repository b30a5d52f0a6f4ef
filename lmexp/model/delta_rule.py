"""The gated delta rule: a memory of one matrix per head, corrected by every token and slowly forgotten.

Source: Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks" (arXiv 2412.06464), equation 10. For each head, with a
token's key k, value v and query q, its writing strength b in (0, 1) and its log decay g <= 0, in this order::

    S <- exp(g) S                     (key_width, value_width): everything is forgotten a little
    S <- S + k (b (v - S^T k))^T      what is found under k moves towards v
    o  = S^T q
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import mlx.core as mx

CHUNK = (
    32  # tokens whose corrections are solved for at once, a power of two: with 16 or 64, a step takes 2 to 6% longer
)
_FEW = 4  # tokens up to which going one by one is faster
_SMALL = 8  # triangles up to this size are inverted by squaring; in larger ones that would lose digits


Pair = tuple[mx.array, mx.array]
Function = TypeVar("Function", bound=Callable[..., Any])


class RuleInputs(NamedTuple):
    """What the rule reads of each token, all float32; a group is the value heads that one key head serves.

    Attributes:
        queries: (batch, time, key_heads, 1, key_width).
        keys: as ``queries``; of length 1 at most, or the memory can grow without bound.
        values: (batch, time, key_heads, group, value_width).
        strengths: (batch, time, key_heads, group), in [0, 1].
        log_decays: as ``strengths``, 0 or below.
    """

    queries: mx.array
    keys: mx.array
    values: mx.array
    strengths: mx.array
    log_decays: mx.array


def apply_rule(inputs: RuleInputs, state: mx.array, chunk: int = CHUNK) -> tuple[mx.array, mx.array]:
    """Apply the rule in the form that is fastest for so many tokens.

    Args:
        inputs: any number of tokens, from 1 up.
        state: what the tokens before them left: (batch, key_heads, group, key_width, value_width) float32.
        chunk: tokens of a chunk, a power of two.

    Returns:
        The outputs, (batch, time, key_heads, group, value_width), and the state after the last token.
    """
    time = inputs.keys.shape[1]
    if time <= _FEW:
        return recurrent_rule(inputs, state)
    chunk = min(chunk, 1 << (time - 1).bit_length())
    # A token that writes nothing and forgets nothing leaves the state alone.
    padded = RuleInputs(*(_padded(array, -time % chunk) for array in inputs))
    outputs, state = chunked_rule(padded, state, chunk)
    return outputs[:, :time], state


def recurrent_rule(inputs: RuleInputs, state: mx.array) -> tuple[mx.array, mx.array]:
    """Apply the rule token by token; arguments and results as :func:`apply_rule`."""
    outputs = []
    for token in range(inputs.keys.shape[1]):
        query, key, value = (array[:, token, :, :, None] for array in inputs[:3])
        strength, log_decay = (array[:, token, :, :, None, None] for array in inputs[3:])
        state = mx.exp(log_decay) * state
        state = state + key.swapaxes(-1, -2) * (strength * (value - key @ state))
        outputs.append((query @ state).squeeze(-2))
    return mx.stack(outputs, axis=1), state


def chunked_rule(inputs: RuleInputs, state: mx.array, chunk: int) -> tuple[mx.array, mx.array]:
    """Apply the rule in chunks; only one product per chunk has to wait for the chunk before.

    Let S be the state before a chunk and G the sum of g from its start. The corrections u = b (v - S^T k) of its tokens
    depend on each other: u_i = b_i (v_i - exp(G_i) S^T k_i) - sum_{j<i} L_ij u_j, with
    L_ij = b_i exp(G_i - G_j) k_i . k_j. So U = Y - W S, where (I + L) Y = b v and (I + L) W = b exp(G) k. With each key
    decayed to the chunk's end, the state there is (exp(G_end) I - K^T W) S + K^T Y: a product and a sum. The outputs
    are exp(G_i) S^T q_i + sum_{j<=i} exp(G_i - G_j) (q_i . k_j) u_j. Source: section 3.3 of the paper; with the
    transition as one matrix, everything but the states is computed for all chunks at once.

    No exponent is above 0, and none is a difference of sums: however strong a decay, nothing overflows or loses its
    digits to a neighbour. Arguments and results as :func:`apply_rule`; ``chunk`` divides the time.
    """
    queries, keys, values = (_chunks(array, chunk) for array in inputs[:3])
    strengths, log_decays = (_chunks(array[..., None], chunk) for array in inputs[3:])
    decays, from_start = _decays(log_decays), mx.exp(mx.cumsum(log_decays, axis=-2))
    to_end = mx.exp(mx.cumsum(log_decays, axis=-2, reverse=True, inclusive=False))
    keys_across = keys.swapaxes(-1, -2)
    coupling = _strictly_lower(strengths * decays * (keys @ keys_across))
    wanted = mx.concatenate([strengths * values, (strengths * from_start) * keys], axis=-1)
    written, erased = mx.split(_solve(coupling, wanted)[0], [values.shape[-1]], axis=-1)
    decayed_keys = (to_end * keys).swapaxes(-1, -2)
    transitions = from_start[..., -1:, :] * mx.eye(keys.shape[-1]) - decayed_keys @ erased
    before, state = _scan(transitions, decayed_keys @ written, state)
    corrections = written - erased @ before
    outputs = (from_start * queries) @ before + (decays * (queries @ keys_across)) @ corrections
    return _unchunked(outputs), state


def rule_flops(key_heads: int, value_heads: int, key_width: int, value_width: int) -> float:
    """Return the floating-point operations of :func:`chunked_rule` for one token, of products of matrices.

    With chunks of C tokens, keys K and values V wide. Per key head: queries and keys with keys, 4 C K. Per value head:
    inverting the triangle, 2/3 C^2 (by halves to the end; small triangles by powers cost more: 3% of the rule with
    heads 32 wide, 0.2% with 128); solving with it, 2 C (K + V); transition and addition, 2 K (K + V); going through
    the chunks, 2 K K V / C; taking off what was stored, 2 K V; the outputs, 2 K V + 2 C V.
    """
    solving = 2 / 3 * CHUNK**2 + 2 * CHUNK * (key_width + value_width)
    states = 2 * key_width * (key_width + value_width) + 2 * key_width**2 * value_width / CHUNK
    outputs = 4 * key_width * value_width + 2 * CHUNK * value_width
    return key_heads * 4.0 * CHUNK * key_width + value_heads * (solving + states + outputs)


def _padded(array: mx.array, n_tokens: int) -> mx.array:
    return mx.pad(array, [(0, 0), (0, n_tokens), *[(0, 0)] * (array.ndim - 2)])


def _chunks(array: mx.array, chunk: int) -> mx.array:
    """Turn (batch, time, heads, group, width) into (chunks, batch, heads, group, chunk, width)."""
    batch, time, *rest = array.shape
    return array.reshape(batch, time // chunk, chunk, *rest).transpose(1, 0, 3, 4, 2, 5)


def _unchunked(array: mx.array) -> mx.array:
    chunks, batch, heads, group, chunk, width = array.shape
    return array.transpose(1, 0, 4, 2, 3, 5).reshape(batch, chunks * chunk, heads, group, width)


def _decays(log_decays: mx.array) -> mx.array:
    """Return exp(g_{j+1} + ... + g_i) for i >= j, else 0: (..., time, 1) to (..., time, time).

    Each sum is made by itself: as a difference of running sums it would lose its digits to a strong decay before.
    """
    order = mx.arange(log_decays.shape[-2])
    since = mx.cumsum(mx.where(order[:, None] > order, log_decays, 0), axis=-2)
    return mx.where(order[:, None] >= order, mx.exp(since), 0)


def _strictly_lower(square: mx.array) -> mx.array:
    order = mx.arange(square.shape[-1])
    return mx.where(order[:, None] > order, square, 0)


def _with_gradient(function: Function, gradient: Callable[..., Any]) -> Function:
    """Return ``function`` with this gradient: of (its arguments, its output's cotangents, its outputs)."""
    custom = mx.custom_function(function)
    custom.vjp(gradient)
    return cast(Function, custom)


def _solution(lower: mx.array, wanted: mx.array) -> tuple[mx.array, mx.array]:
    """Return X with (I + lower) X = wanted, (..., size, width), and the inverse, through which no gradient flows."""
    inverse = unit_lower_inverse(lower)
    return inverse @ wanted, inverse


def _solution_gradient(_: Pair, cotangents: Pair, outputs: Pair) -> Pair:
    """Solve the transposed system: the steps of the inversion then need no gradients of their own."""
    solution, inverse = outputs
    slopes = inverse.swapaxes(-1, -2) @ cotangents[0]
    return _strictly_lower(-slopes @ solution.swapaxes(-1, -2)), slopes


_solve = _with_gradient(_solution, _solution_gradient)


def unit_lower_inverse(lower: mx.array) -> mx.array:
    """Return the inverse of I + ``lower``, which is strictly lower triangular: (..., size, size), size a power of two.

    Halves are inverted side by side, down to triangles whose powers are all small: sums of powers alone would cancel
    each other where keys are alike (up to 10^18 in a triangle of 64 ones, whose inverse holds nothing above 1).
    """
    size = lower.shape[-1]
    if size <= _SMALL:
        return _inverse_by_powers(lower)
    half = size // 2
    first, last = unit_lower_inverse(mx.stack([lower[..., :half, :half], lower[..., half:, half:]]))
    corner = -last @ (lower[..., half:, :half] @ first)
    upper_rows = mx.concatenate([first, mx.zeros_like(first)], axis=-1)
    return mx.concatenate([upper_rows, mx.concatenate([corner, last], axis=-1)], axis=-2)


def _inverse_by_powers(lower: mx.array) -> mx.array:
    """(I + L)^-1 = (I - L) (I + L^2) (I + L^4) ..., which ends because a power of L is 0."""
    size, power = lower.shape[-1], 2
    inverse, lower = mx.eye(size) - lower, lower @ lower
    while power < size:
        inverse, lower, power = inverse + inverse @ lower, lower @ lower, 2 * power
    return inverse


def _states(transitions: mx.array, additions: mx.array, state: mx.array) -> tuple[mx.array, mx.array]:
    """Go through the chunks, on the first axis: S <- transition S + addition.

    Returns:
        The states before each chunk, and the one after the last (by itself: no slice of the others, which it would
        keep alive in a cache).
    """
    states = [state]
    for transition, addition in zip(transitions, additions, strict=True):
        states.append(mx.addmm(addition, transition, states[-1]))
    return mx.stack(states[:-1]), states[-1]


def _states_gradient(
    primals: tuple[mx.array, mx.array, mx.array], cotangents: Pair, outputs: Pair
) -> tuple[mx.array, mx.array, mx.array]:
    """Go back through the chunks; what the transitions receive is then one product for all of them."""
    transitions, (before, _) = primals[0].swapaxes(-1, -2), outputs
    slopes = [cotangents[1]]
    for chunk in reversed(range(len(transitions))):
        slopes.append(mx.addmm(cotangents[0][chunk], transitions[chunk], slopes[-1]))
    after = mx.stack(slopes[-2::-1])
    return after @ before.swapaxes(-1, -2), after, slopes[-1]


_scan = _with_gradient(_states, _states_gradient)
