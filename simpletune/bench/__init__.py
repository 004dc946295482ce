"""`simpletune bench`: how fast this machine does each phase of a run, and the memory it takes, at real size.

Weights are random, so nothing is downloaded; pictures and captions are made up. What is timed is the program's own
code: what a run does with the same settings.
"""
