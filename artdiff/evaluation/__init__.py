"""Evaluation of trained models. `samples` paints and caches pictures, `features` computes their features, `distances`,
`originality` and `representation` compare them, `choosing` lists the candidates, `scoring` combines all of this, and
`report` writes the report.
"""
