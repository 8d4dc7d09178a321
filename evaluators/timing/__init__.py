"""Timing: blocks of calls, taken in turn with a reference, in processes of their own, and what disturbed them."""
