"""Text from a model: sampling, batches, speculation and search, over caches of any kind.

Tokens in, tokens out; :mod:`lmexp.generate` adds the tokenizer. From a run's folder to text in three lines::

    from lmexp.decoding.options import Sampling
    from lmexp.generate import load_model, write

    model, tokenizer = load_model("results/quickstart/RUN")
    print(write(model, tokenizer, ["ROMEO:", "JULIET:"], n_tokens=100, sampling=Sampling()))

The parts, each of use alone: ``options.Sampling`` (how chance is shaped), ``sampling`` (functions on logits),
``context.Context`` (what a model has read), ``decoder.Decoder`` (rows of text that grow together), ``text`` (bytes to
characters, stop strings), ``speculative`` (a draft model guesses, the model checks), ``search`` (best of n, beams, a
majority).
"""
