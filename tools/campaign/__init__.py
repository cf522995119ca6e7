"""The breaking campaign: everything that may happen to a run, done to it on purpose, many times, at random.

    python -m tools.campaign --minutes 10 --seed 0            # prints a table: tries, held, lost
    python -m tools.campaign --minutes 4 --kinds kills --add  # adds to what was stored before
    python -m tools.campaign --page                           # the table of docs/reliability.md, from what is stored

Each kind is a file here with a function that yields outcomes until its time is over; equal seeds try the same. What is
tried is the command line with the shipped quickstart, in processes of its own, or the part that a fault meets first.
Exit status 1 if anything was lost.
"""
