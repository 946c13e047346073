"""Compares fullconv with the ways in which people score large images today: docs/benchmarks.md.

    make bench            # in less than 10 minutes
    make bench FULL=1     # all networks, sizes and strides; some hours

Every contender scores the same windows of the same image, in turns with the others. `cases` lists what is measured,
`contenders` defines what a contender is, and `measure` times them.
"""
