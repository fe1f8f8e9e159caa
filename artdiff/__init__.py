"""artdiff: a folder of art goes in, a model that paints comes out."""

__version__ = "0.1.0"


class UserError(ValueError):
    """A mistake the user can mend: its message is the one line that says how."""
