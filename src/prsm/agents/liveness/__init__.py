"""How models do now: each call at an instance is observed, and what was seen decides who is asked next.

Passive observation first (``board.py``), a few probes where nothing is seen (``prober.py``). The rules are pure.
"""
