"""``python -m lmexp.costs.child``: answers on standard output whether sequences of given lengths fit.

Standard input holds a pickled task, then one length a line. What freed memory was cut into by one question can stand in
the way of the next, so the search asks each child but once. Where the operating system enforces the limit, this process
dies of a length that does not fit; see :func:`lmexp.costs.longest.longest_length`.
"""

import pickle
import sys

from lmexp import platform
from lmexp.costs.longest import Task, is_enforced


def main() -> None:
    """Answer until standard input ends."""
    task = pickle.load(sys.stdin.buffer)
    platform.prepare()
    if is_enforced():
        import resource

        _wake_blas()
        resource.setrlimit(resource.RLIMIT_DATA, (task.memory_limit_bytes, task.memory_limit_bytes))
    _answer(task)


def _wake_blas() -> None:
    """Let the BLAS take its buffers while it can: under the limit, OpenBLAS asks for them again and again for ever."""
    import mlx.core as mx

    long, square = mx.ones((1, 1 << 14)), mx.ones((256, 256))
    mx.eval(long @ mx.ones((1 << 14, 64)), mx.ones((1, 64)) @ mx.ones((64, 1 << 14)), square @ square)


def _answer(task: Task) -> None:
    import mlx.core as mx

    from lmexp.costs.generation import next_token
    from lmexp.model.language_model import LanguageModel

    model = LanguageModel(task.spec, task.vocab_size, task.padded_vocab_size, task.context_length)
    model.set_dtype(getattr(mx, task.dtype))
    model.eval()
    mx.eval(model.parameters())
    for line in sys.stdin.buffer:
        length = int(line)
        model.context_length = max(length, task.context_length)  # more than it was made for: memory is the limit here
        mx.reset_peak_memory()
        caches, token = model.make_caches(length - 1), mx.array([[0]])
        mx.eval(next_token(model, caches, token))
        for cache in caches:
            cache.skip(length - 3)
        mx.eval(next_token(model, caches, token))
        fits = is_enforced() or mx.get_peak_memory() <= task.memory_limit_bytes
        del caches
        mx.clear_cache()
        print("fits" if fits else "too long", flush=True)


if __name__ == "__main__":
    main()
