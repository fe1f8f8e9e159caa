"""How good a trained model is: `features` sees, `distances` compares, `samples` paints and keeps, `scores` puts it
together.
"""
