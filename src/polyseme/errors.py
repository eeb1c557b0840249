"""What goes wrong for a user, each in one line: the value, the rule, the way out."""


class PolysemeError(Exception):
    """A mistake that the user can mend; the command line prints its one line and exits with 2."""


class SettingsError(PolysemeError, ValueError):
    """A setting with a wrong name or value."""


class DataError(PolysemeError, ValueError):
    """Text or labelled data that cannot be read as asked."""


class CheckpointError(PolysemeError):
    """A model, run or store on disk that is incomplete, damaged or of another kind."""


class NotFiniteError(PolysemeError, ArithmeticError):
    """A result that is NaN or infinite: weights or states are too large for the numbers that hold them."""

    def __init__(self, message: str, *, number: int | None = None) -> None:
        super().__init__(message)
        self.number = number
        """Which of the texts at hand it is of, where that is known."""


class PolysemeWarning(UserWarning):
    """Something that changes a result or costs time, and does not stop the work."""


class MissingExtra(PolysemeError, ImportError):
    """An optional package is not installed.

    >>> raise MissingExtra("pyarrow", extra="parquet")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    polyseme.errors.MissingExtra: this needs the package pyarrow; install it with: pip install pyarrow ...
    """

    def __init__(self, package: str, *, extra: str) -> None:
        super().__init__(
            f"this needs the package {package}; install it with: pip install {package} "
            f"(or, in a checkout of polyseme, the extra: pip install -e '.[{extra}]')"
        )
