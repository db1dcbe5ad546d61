"""Benchmarks: what each op, a training step and sampling cost, beside plain PyTorch and beside the bare convolutions.

    PYTHONPATH=tests python -m bench --help

Timing is shown, never asserted. docs/performance.md says how it is measured.
"""
