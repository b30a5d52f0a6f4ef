"""Statistics for few paired seeds: pure functions on arrays, each with its source; nothing here knows of plans or rows.

Arrays are (arms, seeds), seeds paired across arms, unless a function says otherwise. What cannot be known is undefined
and says why (:class:`~lmexp.statistics.estimates.Estimate`); it is never zero.
"""
