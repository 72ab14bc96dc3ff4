"""The one exception a user can cause."""


class UserError(Exception):
    """A mistake the user can mend: the command line prints it as one line and exits with code 2.

    Args:
        what: what is wrong, a clause without a full stop.
        where: the file, argument or speaker it is wrong at.
        remedy: what to do about it, a sentence without a full stop.
    """

    def __init__(self, what: str, *, where: object = None, remedy: str) -> None:
        self.what, self.where, self.remedy = what, where, remedy
        place = f"{where}: " if where is not None else ""
        super().__init__(" ".join(f"{place}{what}. {remedy}.".split()))
