"""What a kill costs: runs of every recipe that are killed, against runs that nobody disturbed.

Question: is anything that was saved ever lost, is anything corrupt ever loaded, does a resumed run
ever go another way than one that was never killed? ``python -m experiments.faults`` asks it.
"""
