"""Check, split and sample the training data, with memory that does not grow with the collection.

Memory: 8 bytes per row for the digests and 16 for the order of an epoch, plus the budgets of :mod:`sample` and
:mod:`batches`.
"""
