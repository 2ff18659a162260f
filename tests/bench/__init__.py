"""What Haulier costs on the machine it stands on: `make bench`, or `python -m tests.bench NAME…`.

One module for each measurement. Each returns rows (figure, floor, ratio, peer) for the table of
docs/performance.md, and points for its plot; floors and peers run beside what they are held
against, in the same minutes.
"""
