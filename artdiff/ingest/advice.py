"""What to expect of a training on so many pictures. Free of torch."""

BY_HEART, FEW = 50, 2000
"""Below how many pictures a painter learns them all by heart, or may learn some.

A painter of 32 px that was trained on 20 pictures painted copies of them 19 times of 20. One that was trained on 2,279
for ten minutes did so no more often than held-out pictures look like training pictures (docs/RESULTS.md).
"""


def advice(pictures: int) -> str:
    """A sentence or two for somebody who wants to paint, about a training on so many pictures."""
    said = f"{pictures:,} picture{'s' if pictures != 1 else ''} to learn from: "
    if pictures < BY_HEART:
        return said + (
            "a painter will learn them by heart and paint copies of them. Better: begin with the weights of a run on "
            "more pictures (init=RUN), or use them as muses of such a run (muse=DIR)"
        )
    if pictures < FEW:
        return said + (
            "expect their colours and textures. A long training may learn single pictures by heart: stop early "
            "(callbacks=early_stopping), and let python -m artdiff.evaluate look for copies"
        )
    return said + "enough for colours, textures and layouts; more time makes better pictures"
