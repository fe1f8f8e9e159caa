"""What to expect of a training, given the number of pictures. Does not import torch."""

MEMORISED_BELOW, FEW = 50, 2000
"""Below `MEMORISED_BELOW` pictures a painter memorises all of them, below `FEW` it may memorise some.

A 32 px painter that was trained on 20 pictures painted copies of them in 19 of 20 cases. One that was trained for ten
minutes on 2,279 pictures painted copies no more often than held-out pictures look like training pictures
(docs/RESULTS.md).
"""


def advice(pictures: int) -> str:
    """One or two sentences for the user about a training on `pictures` pictures."""
    said = f"{pictures:,} picture{'s' if pictures != 1 else ''} to train on: "
    if pictures < MEMORISED_BELOW:
        return said + (
            "a painter will memorise them and paint copies of them. Better: start from the weights of a run on more "
            "pictures (init=RUN), or use them as muses of such a run (muse=DIR)"
        )
    if pictures < FEW:
        return said + (
            "expect their colours and textures. A long training may memorise single pictures: stop early "
            "(callbacks=early_stopping), and look for copies with python -m artdiff.evaluate"
        )
    return said + "enough for colours, textures and layouts; longer training makes better pictures"
