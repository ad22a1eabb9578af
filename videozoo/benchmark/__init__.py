"""How fast a network runs, against other ways to run it: child processes that take turns, in one run.

``contestants``, ``peers`` and ``arithmetic`` are what the children run, ``prepare`` what they share, ``child`` how they
are asked, ``measure`` who is asked when, ``report`` what is printed and kept.
"""
