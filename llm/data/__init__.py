"""From the rows people have to the batches a model reads.

``sources`` and ``schemas`` read rows into examples, ``rendering`` turns them into token ids,
``contract`` refuses what would train a model on the wrong thing, ``order`` shuffles, ``packing``
lays groups out in rows, ``plan`` decides on a few shapes for the whole run, ``loader`` keeps the
device fed.
"""
