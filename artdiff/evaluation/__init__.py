"""How good a trained model is: `samples` paints and keeps, `features` sees, `distances`, `originality` and
`representation` compare, `choosing` lists what is compared, `scoring` puts it together and `report` explains it.
"""
